import { describe, expect, test } from 'vitest';
import { bench, CedarFailure } from './cedar.ts';
import { type CompiledSet, compile, openSet, refusingSet } from './compile.ts';
import { decide } from './decide.ts';
import type { AccessRequest } from './facts.ts';
import { limits } from './limits.ts';
import type { PolicySetInput } from './policy-set.ts';
import { request } from './request.fixture.ts';

async function compiled(set: PolicySetInput): Promise<CompiledSet> {
  const result = await compile(set);
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.value;
}
const cedar = (id: string, text: string) => ({ id, cedar: text });
const permit = (id: string, scope = 'principal, action, resource', rest = '') =>
  cedar(id, `permit(${scope})${rest};`);
const forbid = (id: string, scope = 'principal, action, resource', rest = '') =>
  cedar(id, `forbid(${scope})${rest};`);

describe('levels', () => {
  test('nothing matching is denied', async () => {
    const set = await compiled({
      vault: { policies: [permit('a', 'principal in Role::"admin", action, resource')] },
    });
    expect(decide(set, request())).toMatchObject({
      decision: 'deny',
      reason: 'not_permitted',
      level: 'vault',
      policyIds: [],
    });
    expect(decide(await compiled({}), request())).toMatchObject({
      decision: 'deny',
      reason: 'not_permitted',
    });
  });
  test('each level that is there must permit', async () => {
    const set = await compiled({
      organization: { policies: [permit('o')] },
      vault: { policies: [permit('v')] },
      namespaces: {
        payments: {
          policies: [permit('n', 'principal, action == Action::"secret.list", resource')],
        },
      },
    });
    expect(decide(set, request())).toMatchObject({ decision: 'deny', level: 'namespace' });
    const ops = request({ resource: { namespace: { name: 'ops' } } });
    expect(decide(set, ops)).toMatchObject({ decision: 'allow', policyIds: ['o', 'v'] });
  });
  test('what any level forbids is denied', async () => {
    for (const level of ['organization', 'vault', 'namespace'] as const) {
      const policies = [permit('p'), forbid('f')];
      const set = await compiled({
        organization: { policies: level === 'organization' ? policies : [permit('o')] },
        vault: { policies: level === 'vault' ? policies : [permit('v')] },
        namespaces: { payments: { policies: level === 'namespace' ? policies : [permit('n')] } },
      });
      expect(decide(set, request())).toMatchObject({
        decision: 'deny',
        reason: 'forbidden',
        policyIds: ['f'],
      });
    }
  });
  test('guardrails that only forbid permit nothing by themselves', async () => {
    const guardrails = {
      otherwise: 'permit' as const,
      policies: [forbid('f', 'principal, action == Action::"secret.delete", resource')],
    };
    const alone = await compiled({ organization: guardrails });
    expect(decide(alone, request()).decision).toBe('deny');
    const set = await compiled({ organization: guardrails, vault: { policies: [permit('v')] } });
    expect(decide(set, request())).toMatchObject({ decision: 'allow', policyIds: ['v'] });
    expect(decide(set, request({ action: 'secret.delete' })).decision).toBe('deny');
  });
  test('a policy that is switched off does not open its level', async () => {
    const set = await compiled({
      organization: { policies: [permit('o')] },
      vault: { policies: [{ ...permit('v'), enabled: false }] },
    });
    expect(decide(set, request()).decision).toBe('deny');
  });
  test('a level that can permit nothing is warned of', async () => {
    const result = await compile({ vault: { policies: [forbid('f')] } });
    expect(result).toMatchObject({
      ok: true,
      warnings: [{ where: { path: '/vault' }, suggestion: expect.stringContaining('otherwise') }],
    });
  });
});

test('among permits the highest priority decides whose obligations hold, at each level', async () => {
  const set = await compiled({
    organization: { policies: [cedar('o', '@log("o") permit(principal, action, resource);')] },
    vault: {
      policies: [
        cedar(
          'careful',
          '@require_approval("1 of owners within 1 hour") permit(principal, action, resource);',
        ),
        cedar(
          'glass',
          '@priority("100") @alert("critical: break-glass") permit(principal in Role::"on-call", action, resource);',
        ),
        cedar(
          'equal',
          '@priority("100") @log("too") permit(principal in Role::"on-call", action, resource);',
        ),
      ],
    },
  });
  const kinds = (asked: AccessRequest) => decide(set, asked).obligations.map(({ kind }) => kind);
  expect(kinds(request())).toEqual(['log', 'require_approval']);
  expect(kinds(request({ principal: { roles: ['on-call'] } }))).toEqual(['log', 'log', 'alert']);
});

test('a denial tells those whom the forbidding policies name', async () => {
  const set = await compiled({
    vault: {
      policies: [
        permit('p'),
        cedar('f', '@alert("high: no") @notify("security") forbid(principal, action, resource);'),
      ],
    },
  });
  expect(decide(set, request()).obligations.map(({ kind }) => kind)).toEqual(['alert', 'notify']);
});

describe('canonical bytes', () => {
  const set: PolicySetInput = {
    networks: { office: ['192.0.2.0/24', '10.0.0.0/8'] },
    vault: {
      policies: [
        permit('b', 'principal, action, resource', ' when { context.networks.contains("office") }'),
        {
          id: 'a',
          rules: [{ operations: ['secret.read'] }],
          actions: [{ type: 'ALLOW' }],
          enabled: false,
        },
      ],
    },
    namespaces: { ops: { policies: [permit('n')] }, dev: { policies: [permit('n')] } },
  };
  test('are the same for the same policies, however they were written down', async () => {
    const one = await compiled(set);
    const other = await compiled({
      namespaces: { dev: { policies: [permit('n')] }, ops: { policies: [permit('n')] } },
      vault: { policies: [...(set.vault?.policies ?? [])].reverse() },
      networks: { office: ['10.0.0.0/8', '192.0.2.0/24'] },
    });
    expect(other.sha256).toBe(one.sha256);
    expect(one.sha256).toMatch(/^[0-9a-f]{64}$/);
    const changed = await compiled({ ...set, organization: { policies: [permit('o')] } });
    expect(changed.sha256).not.toBe(one.sha256);
  });
  test('open to a set that decides the same', async () => {
    const one = await compiled(set);
    const opened = await openSet(one.bytes, one.sha256);
    if (!opened.ok) throw new Error(JSON.stringify(opened.problems));
    expect(opened.value.sha256).toBe(one.sha256);
    expect(decide(opened.value, request())).toEqual(decide(one, request()));
  });
  test('are refused when a single bit differs, or when they are not canonical', async () => {
    const { bytes, sha256 } = await compiled(set);
    for (let at = 0; at < bytes.length; at += 7) {
      const flipped = Uint8Array.from(bytes);
      flipped[at] = (flipped[at] as number) ^ (1 << (at % 8));
      expect(await openSet(flipped, sha256)).toMatchObject({ ok: false, refusal: 'corrupt_set' });
    }
    expect(await openSet(bytes.subarray(0, bytes.length - 9), sha256)).toMatchObject({ ok: false });
    const { createHash } = await import('node:crypto');
    const hash = (text: string) => createHash('sha256').update(text).digest('hex');
    const text = Buffer.from(bytes).toString();
    for (const altered of [
      text.replace('"id":"b"', '"id" :"b"'),
      `${text}\n`,
      text.replace('permit(', 'permit ('),
      text.replace('{"format"', '{"formal"'),
      text.split('\n').reverse().join('\n'),
      'null',
      '',
    ]) {
      const opened = await openSet(Buffer.from(altered), hash(altered));
      // Another text is another set; all else is none.
      if (opened.ok) expect(altered).toContain('permit (');
      else expect(opened.refusal).toBe('corrupt_set');
    }
  });
});

describe('fails closed', () => {
  const open = { vault: { policies: [permit('p')] } };
  test('in the place of a corrupt set everything is denied', () => {
    expect(decide(refusingSet('corrupt_set'), request())).toMatchObject({
      decision: 'deny',
      reason: 'corrupt_set',
    });
  });
  test('when the engine traps, and is whole again with the next question', async () => {
    const set = await compiled(open);
    expect(decide(set, request()).decision).toBe('allow');
    set.memory.clear();
    expect(() =>
      bench.run(() => {
        throw new Error('memory access out of bounds');
      }),
    ).toThrow(CedarFailure);
    expect(decide(set, request()).decision).toBe('allow');
    set.memory.clear();
    const { run } = bench;
    bench.run = () => {
      throw new CedarFailure('the policy engine failed');
    };
    try {
      expect(decide(set, request())).toMatchObject({ decision: 'deny', reason: 'engine_failed' });
    } finally {
      bench.run = run;
    }
    expect(decide(set, request()).decision).toBe('allow');
  });
  test('when a policy that forbids cannot be evaluated', async () => {
    const set = await compiled({
      vault: {
        policies: [
          permit('p'),
          forbid(
            'f',
            'principal, action, resource',
            ' when { context.useCount * 9223372036854775807 == 5 }',
          ),
        ],
      },
    });
    expect(decide(set, request())).toMatchObject({
      decision: 'deny',
      reason: 'policy_failed',
      policyIds: ['f'],
      errors: [{ policyId: 'f', message: expect.stringContaining('overflow') }],
    });
  });
  test('while the clock is not trusted, where a policy reads the time', async () => {
    const timed = await compiled({
      vault: {
        policies: [
          permit(
            'p',
            'principal, action == Action::"secret.read", resource',
            ' when { context.time.weekday < 6 }',
          ),
          permit('q', 'principal, action == Action::"secret.delete", resource'),
        ],
      },
    });
    const untrusted = { context: { clockTrusted: false } };
    expect(decide(timed, request()).decision).toBe('allow');
    expect(decide(timed, request(untrusted))).toMatchObject({
      decision: 'deny',
      reason: 'clock_untrusted',
    });
    expect(decide(timed, request({ ...untrusted, action: 'secret.delete' })).decision).toBe(
      'allow',
    );
  });
  test('when a decision would cost too much', async () => {
    const times = (text: string) =>
      Array.from({ length: limits.policiesPerDecision + 1 }, (_, at) => cedar(`p${at}`, text));
    const many = times('permit(principal, action, resource in Namespace::"payments");');
    const set = await compiled({ vault: { policies: many } });
    expect(decide(set, request())).toMatchObject({ decision: 'deny', reason: 'cost_limit' });
    const everywhere = times('permit(principal, action, resource);');
    expect(await compile({ vault: { policies: everywhere } })).toMatchObject({
      ok: false,
      problems: [{ what: expect.stringContaining('policies would have to be evaluated') }],
    });
  });
  test('when patterns would take too long', async () => {
    const set = await compiled({
      vault: {
        policies: [
          permit(
            'p',
            'principal, action, resource',
            ` when { context.matches.contains("headers.user-agent ~ [a-z]{400}$") }`,
          ),
        ],
      },
    });
    const asked = (length: number) =>
      request({ context: { headers: { 'user-agent': 'a'.repeat(length) } } });
    expect(decide(set, asked(400)).decision).toBe('allow');
    expect(decide(set, asked(4_000))).toMatchObject({ decision: 'deny', reason: 'cost_limit' });
  });
  test.each<[string, Partial<Record<keyof AccessRequest, unknown>>]>([
    ['an unknown action', { action: 'secret.steal' }],
    ['an unknown kind', { principal: { kind: 'root', id: 'x' } }],
    ['a kind of the prototype', { principal: { kind: 'toString', id: 'x' } }],
    ['no principal', { principal: undefined }],
    ['no context', { context: null }],
    [
      'no secret for what is done to one',
      { resource: { vault: { name: 'v' }, namespace: { name: 'n' } } },
    ],
    ['half a letter', { principal: { kind: 'user', id: '\ud800' } }],
    ['a name too long', { principal: { kind: 'user', id: 'x'.repeat(limits.textMaxLength + 1) } }],
    ['no address', { context: { ...request().context, address: '10.0.0.1, 10.0.0.2' } }],
    ['an address in disguise', { context: { ...request().context, address: '0x7f.1' } }],
    ['no time', { context: { ...request().context, atMs: Number.NaN } }],
    [
      'half a second of age',
      { context: { ...request().context, authentication: { method: 'x', ageSeconds: 0.5 } } },
    ],
    ['a zone that is none', { context: { ...request().context, zone: 'Mars/Olympus' } }],
  ])('for a request with %s', async (_, changes) => {
    const set = await compiled(open);
    expect(decide(set, { ...request(), ...changes } as AccessRequest)).toMatchObject({
      decision: 'deny',
      reason: 'invalid_request',
    });
  });
});

test('what is remembered is forgotten with a changed fact, and no two requests are taken for one', async () => {
  const set = await compiled({
    vault: {
      policies: [
        permit(
          'p',
          'principal, action, resource',
          ' when { principal.hasTag("a") && principal.getTag("a") == "1" && resource.tags.contains("x") }',
        ),
      ],
    },
  });
  const ask = (attributes: Record<string, string>, tags: string[]) =>
    decide(set, request({ principal: { attributes }, resource: { secret: { name: 's', tags } } }))
      .decision;
  expect(ask({ a: '1' }, ['x'])).toBe('allow');
  expect(ask({ a: '1' }, ['x'])).toBe('allow');
  expect(set.counts).toMatchObject({ remembered: 1, evaluated: 1 });
  expect(ask({ a: '11:x' }, [])).toBe('deny');
  expect(ask({ a: '1' }, ['y', 'x'])).toBe('allow');
  expect(ask({ b: '1' }, ['x'])).toBe('deny');
});

test('numbers that are only compared are remembered by what they are compared with', async () => {
  const set = await compiled({
    vault: {
      policies: [
        permit(
          'p',
          'principal, action, resource',
          ' when { context.useCount < 10 && context.time.minuteOfDay >= 480 }',
        ),
      ],
    },
  });
  const decisions = Array.from(
    { length: 12 },
    (_, useCount) => decide(set, request({ context: { useCount } })).decision,
  );
  expect(decisions).toEqual([...Array(10).fill('allow'), 'deny', 'deny']);
  // Below ten, ten, above ten.
  expect(set.counts.evaluated).toBe(3);
});

describe('refuses', () => {
  test.each<[string, unknown, string]>([
    ['what is no set', [], ''],
    ['a misspelt level', { organisation: { policies: [] } }, '/organisation'],
    ['a network without addresses', { networks: { office: [] } }, '/networks/office'],
    ['a network that is known already', { networks: { private: ['10.0.0.0/8'] } }, '/networks'],
    [
      'a network that is not there',
      {
        vault: {
          policies: [
            permit(
              'p',
              'principal, action, resource',
              ' when { context.networks.contains("offise") }',
            ),
          ],
        },
        networks: { office: ['10.0.0.0/8'] },
      },
      '/vault/policies/0/cedar',
    ],
    ['one id twice', { vault: { policies: [permit('p'), permit('p')] } }, '/vault/policies/1'],
    [
      'a wrong policy among right ones',
      { vault: { policies: [permit('p'), cedar('q', 'permit(principal, action, resource')] } },
      '/vault/policies/1/cedar',
    ],
  ])('%s', async (_, set, path) => {
    const result = await compile(set);
    expect(result.ok).toBe(false);
    if (!result.ok) expect(result.problems[0]?.where.path).toBe(path);
  });
});
