import { describe, expect, test } from 'vitest';
import { type CompiledSet, compile } from './compile.ts';
import { conflicts } from './conflicts.ts';
import { decide } from './decide.ts';
import { explain } from './explain.ts';
import { Dice, randomRequest, randomSet } from './plain-cedar.fixture.ts';
import type { PolicySetInput } from './policy-set.ts';
import { request } from './request.fixture.ts';
import { changeBetween, simulate } from './simulate.ts';

async function compiled(set: PolicySetInput): Promise<CompiledSet> {
  const result = await compile(set);
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.value;
}
const vault = (policies: Record<string, string>, more: PolicySetInput = {}) =>
  compiled({
    vault: { policies: Object.entries(policies).map(([id, cedar]) => ({ id, cedar })) },
    ...more,
  });

describe('explain', () => {
  test('tells each policy in scope and which of its conditions hold', async () => {
    const set = await vault({
      yes: 'permit(principal, action, resource) when { resource.name like "db/*" && context.useCount < 10 };',
      no: '@priority("5") permit(principal, action, resource) when { context.matches.contains("resource.name ~ ^api") } unless { context.tls.used };',
      elsewhere: 'permit(principal in Role::"admin", action, resource);',
      broken:
        'permit(principal, action, resource) when { context.useCount * 9223372036854775807 == 1 };',
    });
    const told = await explain(set, request());
    expect(told.decision).toMatchObject({ decision: 'allow', policyIds: ['yes'] });
    expect(told.levels).toEqual([{ level: 'vault', otherwise: 'deny', permits: true }]);
    expect(told.outOfScope).toBe(1);
    expect(told.policies).toEqual([
      expect.objectContaining({
        id: 'broken',
        applies: false,
        conditions: [
          expect.objectContaining({ holds: false, failed: expect.stringContaining('overflow') }),
        ],
      }),
      expect.objectContaining({
        id: 'no',
        priority: 5,
        applies: false,
        decided: false,
        conditions: [
          { text: 'context.matches.contains("resource.name ~ ^api")', holds: false },
          { text: '!context.tls.used', holds: false },
        ],
      }),
      expect.objectContaining({
        id: 'yes',
        applies: true,
        decided: true,
        conditions: [
          { text: 'resource.name like "db/*"', holds: true },
          { text: 'context.useCount < 10', holds: true },
        ],
      }),
    ]);
  });

  test('agrees with the decision, whatever is asked', async () => {
    const dice = new Dice(11);
    for (let at = 0; at < 6; at += 1) {
      const set = await compiled(randomSet(dice));
      for (let ask = 0; ask < 8; ask += 1) {
        const asked = randomRequest(dice);
        const { decision, policies } = await explain(set, asked);
        for (const { id, decided, applies, level } of policies) {
          if (decided && decision.reason !== 'policy_failed')
            expect(applies, `${level} ${id}`).toBe(true);
        }
        const forbidding = policies.filter(({ applies, effect }) => applies && effect === 'forbid');
        expect(forbidding.length > 0).toBe(decision.reason === 'forbidden');
      }
      set.close();
    }
  });
});

describe('conflicts', () => {
  const kinds = async (policies: Record<string, string>, more?: PolicySetInput) =>
    (await conflicts(await vault(policies, more))).conflicts.map(
      ({ kind, policyIds }) => `${kind} ${policyIds.join()}`,
    );
  const all = 'principal, action, resource';

  test.each<[string, Record<string, string>, string[]]>([
    [
      'hours that never are',
      {
        a: `permit(${all}) when { context.time.minuteOfDay >= 1080 && context.time.minuteOfDay < 480 };`,
      },
      ['never_matching a'],
    ],
    [
      'two names at once',
      { a: `permit(${all}) when { resource.name == "a" && resource.name == "b" };` },
      ['never_matching a'],
    ],
    [
      'a name outside its pattern',
      { a: `permit(${all}) when { resource.name == "a" && resource.name like "b*" };` },
      ['never_matching a'],
    ],
    [
      'an action that is done to something else',
      { a: 'permit(principal, action == Action::"key.rotate", resource in Namespace::"x");' },
      ['never_matching a'],
    ],
    [
      'all that it permits is forbidden',
      { a: `permit(principal, action, resource in Namespace::"x");`, b: `forbid(${all});` },
      ['shadowed a,b'],
    ],
    [
      'a secret of a namespace',
      {
        a: `permit(principal, action, resource == Secret::"x:y");`,
        b: 'forbid(principal, action, resource in Namespace::"x");',
      },
      ['shadowed a,b'],
    ],
    [
      'a narrower pattern',
      {
        a: `permit(${all}) when { resource.name like "db/main/*" };`,
        b: `permit(${all}) when { resource.name like "db/*" };`,
      },
      ['shadowed a,b'],
    ],
    [
      'a narrower interval',
      {
        a: `permit(${all}) when { context.useCount < 5 };`,
        b: `permit(${all}) when { context.useCount <= 5 };`,
      },
      ['shadowed a,b'],
    ],
    [
      'obligations that never hold',
      {
        a: `@log("x") permit(${all}) when { context.tls.used };`,
        b: `@priority("1") permit(${all});`,
      },
      ['shadowed a,b'],
    ],
    [
      'a contradiction',
      {
        a: `permit(${all}) when { context.tls.used };`,
        b: `forbid(${all}) when { context.useCount > 5 };`,
      },
      ['contradictory a,b'],
    ],
    [
      'obligations that meet',
      {
        a: `@log("x") permit(${all}) when { context.tls.used };`,
        b: `permit(${all}) when { context.useCount > 5 };`,
      },
      ['overlapping a,b'],
    ],
    [
      'nothing: other actions',
      {
        a: 'permit(principal, action == Action::"secret.read", resource);',
        b: 'forbid(principal, action == Action::"secret.list", resource);',
      },
      [],
    ],
    [
      'nothing: other namespaces',
      {
        a: 'permit(principal, action, resource in Namespace::"x");',
        b: 'forbid(principal, action, resource in Namespace::"y");',
      },
      [],
    ],
    [
      'nothing: other hours',
      {
        a: `permit(${all}) when { context.time.weekday < 3 };`,
        b: `forbid(${all}) when { context.time.weekday >= 3 };`,
      },
      [],
    ],
    [
      'nothing: one when the other not',
      {
        a: `permit(${all}) when { context.tls.used };`,
        b: `forbid(${all}) unless { context.tls.used };`,
      },
      [],
    ],
    [
      'nothing: other names',
      {
        a: `permit(${all}) when { resource.name like "a*" };`,
        b: `forbid(${all}) when { resource.name like "b*" };`,
      },
      [],
    ],
    [
      'two roles may meet',
      {
        a: 'permit(principal in Role::"x", action, resource);',
        b: 'forbid(principal in Role::"y", action, resource);',
      },
      ['contradictory a,b'],
    ],
  ])('%s', async (_, policies, expected) => {
    expect(await kinds(policies)).toEqual(expected);
  });

  test('a guardrail that forbids some of what a vault permits is none', async () => {
    const organization = {
      otherwise: 'permit' as const,
      policies: [
        { id: 'o', cedar: 'forbid(principal, action == Action::"secret.delete", resource);' },
      ],
    };
    expect(await kinds({ a: `permit(${all});` }, { organization })).toEqual([]);
  });

  test('what is said to be shadowed decides nothing, whatever is asked', async () => {
    for (let seed = 0; seed < 12; seed += 1) {
      const dice = new Dice(seed);
      const source = randomSet(dice);
      const set = await compiled(source);
      const { conflicts: found } = await conflicts(set);
      const idle = new Set(
        found
          .filter(({ kind }) => kind === 'shadowed' || kind === 'never_matching')
          .map(({ policyIds }) => policyIds[0]),
      );
      const [first] = idle;
      const level = ['organization', 'vault'].find((name) =>
        source[name as 'vault']?.policies.some(({ id }) => id === first),
      ) as 'vault' | undefined;
      if (first === undefined || level === undefined || !source[level]) continue;
      const without = await compiled({
        ...source,
        [level]: {
          ...source[level],
          policies: source[level].policies.filter(({ id }) => id !== first),
        },
      });
      for (let ask = 0; ask < 40; ask += 1) {
        const asked = randomRequest(dice);
        const before = decide(set, asked);
        const after = decide(without, asked);
        if (before.errors.length + after.errors.length > 0) continue;
        expect(after.decision, `seed ${seed}: ${first}`).toBe(before.decision);
      }
      set.close();
      without.close();
    }
  });
});

describe('simulate', () => {
  test('counts what would be denied, allowed and obliged differently', async () => {
    const before = await vault({
      a: 'permit(principal, action == Action::"secret.read", resource);',
    });
    const after = await vault({
      a: 'permit(principal, action == Action::"secret.read", resource) when { context.useCount < 5 };',
      b: '@log("x") permit(principal, action == Action::"secret.read", resource) when { context.useCount == 1 };',
      c: 'permit(principal, action == Action::"secret.delete", resource);',
    });
    const requests = [
      request({ context: { useCount: 9 } }),
      request({ context: { useCount: 1 } }),
      request({ context: { useCount: 2 } }),
      request({ action: 'secret.delete' }),
      request({ action: 'secret.rotate' }),
    ];
    const result = await simulate(before, after, requests);
    expect(result).toMatchObject({
      requests: 5,
      counts: {
        newly_denied: 1,
        newly_allowed: 1,
        obligations_changed: 1,
        reason_changed: 0,
        unchanged: 2,
      },
      untold: 0,
    });
    expect(result.differences.map(({ index, change }) => [index, change])).toEqual([
      [0, 'newly_denied'],
      [3, 'newly_allowed'],
      [1, 'obligations_changed'],
    ]);
    expect(
      changeBetween(decide(before, requests[0] as never), decide(before, requests[0] as never)),
    ).toBeUndefined();
  });
});
