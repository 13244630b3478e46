import type { AgentAction } from '@keystead/contracts/agent-api/actions';
import { ServiceError } from '@keystead/contracts/errors';
import { compile, refusingSet } from '@keystead/policy-engine/compile';
import { TrustedClock } from '@keystead/policy-engine/trusted-clock';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Caller } from '../access/caller.ts';
import { Door } from '../access/door.ts';
import type { AuditFact } from '../audit/audit-entry.ts';
import {
  closeVaults,
  openTestVault,
  plainNamespace,
  plainSecret,
  testCaller,
} from '../store/vault.fixture.ts';
import type { Vault } from '../store/vault.ts';
import { Approvals } from './approvals.ts';
import type { ActiveSet, HeldPolicies } from './held-policies.ts';
import { Overrides } from './overrides.ts';
import { PolicyDecider } from './policy-decider.ts';
import { type PolicyTables, policyMigrations } from './policy-tables.ts';
import { PolicyView } from './policy-view.ts';
import { ResourceFactsReader } from './resource-facts.ts';

type Held = { -readonly [K in 'active' | 'previous' | 'staleness']: HeldPolicies[K] };

let vault: Vault;
let held: Held;
let wallMs: number;
let monotonicMs: number;
let facts: AuditFact[];
let alerts: string[];
let approvals: Approvals;
let overrides: Overrides;
let decider: PolicyDecider;
let door: Door;
let clock: TrustedClock;
let readFacts: ResourceFactsReader['read'];

beforeEach(async () => {
  vault = await openTestVault(undefined, { migrations: policyMigrations });
  held = { active: undefined, previous: undefined, staleness: undefined };
  wallMs = Date.parse('2026-06-10T10:00:00Z');
  monotonicMs = 0;
  facts = [];
  alerts = [];
  const store = vault.store.as<PolicyTables>();
  const now = () => wallMs;
  approvals = new Approvals({ store, now });
  overrides = new Overrides({
    store,
    key: vault.keys.derive('override').bytes,
    now,
    monotonicMs: () => monotonicMs,
  });
  const reader = new ResourceFactsReader(vault.store);
  readFacts = (resource) => reader.read(resource);
  clock = new TrustedClock(now, () => monotonicMs);
  decider = new PolicyDecider({
    held,
    facts: { read: (resource) => readFacts(resource) },
    approvals,
    overrides,
    clock,
    vault: { id: 'vlt_1', name: 'main' },
    zone: 'UTC',
    alert: ({ kind, id }) => void alerts.push(`${kind}:${id}`),
    log: { info: () => undefined, warn: () => undefined },
    monotonicMs: () => monotonicMs,
  });
  // Everybody's roles permit everything: what is denied here a policy denied.
  const book = {
    permissionsOf: () => ({ permits: () => 'admin', permitsSome: () => undefined }),
  };
  door = new Door(book as never, { record: async (fact) => void facts.push(fact) });
  door.decider = decider;
});
afterEach(() => closeVaults());

const pass = (seconds: number) => {
  wallMs += seconds * 1_000;
  monotonicMs += seconds * 1_000;
};

async function hold(policies: Record<string, string>, number = 1): Promise<ActiveSet> {
  const compiled = await compile({
    vault: { policies: Object.entries(policies).map(([id, cedar]) => ({ id, cedar })) },
  });
  if (!compiled.ok) throw new Error(JSON.stringify(compiled.problems));
  const set: ActiveSet = {
    number,
    digest: compiled.value.sha256,
    compiled: compiled.value,
    configuration: {},
    staleness: null,
  };
  held.active = set;
  return set;
}

function person(id: string, roles: string[] = ['developer'], given: Partial<Caller> = {}): Caller {
  return {
    identity: { kind: 'api_key', id, name: id, roles },
    requestId: 'req_1',
    address: '10.1.2.3',
    authenticatedAtMs: wallMs,
    tls: true,
    headers: {},
    ...given,
  };
}

const secret = { namespace: 'payments', secret: 'db/password' };
const ask = (
  caller: Caller,
  action: AgentAction = 'secret.read-value',
  resource: object = secret,
) =>
  door
    .perform(caller, { action, operation: 'test', resource, effect: 'read' }, () => 'done')
    .catch((error: unknown) => {
      if (!(error instanceof ServiceError)) throw error;
      return error;
    });

const permitAll = 'permit (principal, action, resource);';

test('without a set roles decide alone; with one it narrows them, and the audit says what decided', async () => {
  expect(await ask(person('ann'))).toBe('done');
  await hold({ readers: 'permit (principal in Role::"reader", action, resource);' });
  expect(await ask(person('ann', ['reader']))).toBe('done');
  expect(facts.at(-1)).toMatchObject({ result: 'done', decidedBy: ['admin', 'readers'] });
  expect(await ask(person('bob'))).toMatchObject({ code: 'permission_denied' });
  expect(facts.at(-1)).toMatchObject({
    result: 'denied',
    context: {
      reason: 'not_permitted',
      level: 'vault',
      policySet: 1,
      method: 'api_key',
      tls: true,
    },
  });
  await hold({
    readers: permitAll,
    never: 'forbid (principal == ApiKey::"ann", action, resource);',
  });
  expect(await ask(person('ann'))).toMatchObject({ code: 'permission_denied' });
  expect(facts.at(-1)?.decidedBy).toEqual(['never']);
  expect(await ask(person('bob'))).toBe('done');
});

test('a policy sees the tags, the owner and the metadata of what is asked for', async () => {
  const system = testCaller();
  await vault.namespaces.create(system, {
    ...plainNamespace,
    name: 'payments',
    owner: 'ann',
    tags: ['pci'],
  });
  await vault.secrets.create(system, 'payments', {
    ...plainSecret,
    name: 'db/password',
    value: 'x',
    tags: ['production'],
    metadata: { tier: '1' },
  });
  await vault.secrets.create(system, 'payments', { ...plainSecret, name: 'other', value: 'x' });
  await hold({
    tagged: `permit (principal, action, resource is Secret) when {
      resource.tags.contains("production") && resource.namespace.tags.contains("pci") &&
      resource.hasTag("tier") && resource.getTag("tier") == "1" };`,
  });
  expect(await ask(person('ann'))).toBe('done');
  expect(
    await ask(person('ann'), 'secret.read-value', { ...secret, secret: 'other' }),
  ).toMatchObject({ code: 'permission_denied' });
  // A change is seen within a second.
  await vault.secrets.update(system, 'payments', 'other', {
    tags: ['production'],
    metadata: { tier: '1' },
  });
  const deadline = Date.now() + 3_000;
  while (
    (await ask(person('ann'), 'secret.read-value', { ...secret, secret: 'other' })) !== 'done'
  ) {
    if (Date.now() > deadline) throw new Error('it was not seen');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});

test('lists, top lists and counts show nothing of what policies hide, and use nothing up', async () => {
  const system = testCaller();
  for (const name of ['payments', 'open', 'closed']) {
    await vault.namespaces.create(system, { ...plainNamespace, name });
  }
  const names = Array.from({ length: 24 }, (_, index) => `db/${String(index).padStart(2, '0')}`);
  for (const [index, name] of names.entries()) {
    const tags = index % 3 === 0 ? ['hidden'] : [];
    await vault.secrets.create(system, 'payments', { ...plainSecret, name, value: 'x', tags });
    await vault.secrets.readValue(system, 'payments', name);
  }
  await hold({
    all: `@throttle("1000 per hour by identity") @alert("low: seen") ${permitAll}`,
    tagged: `forbid (principal == ApiKey::"eve", action == Action::"secret.read",
      resource is Secret) when { resource.tags.contains("hidden") };`,
    named: `forbid (principal == ApiKey::"eve", action == Action::"secret.read",
      resource == Secret::"payments:db/22");`,
    closed: `forbid (principal == ApiKey::"eve", action == Action::"namespace.read",
      resource == Namespace::"closed");`,
    'without-open': `forbid (principal == ApiKey::"joe", action == Action::"secret.read",
      resource in Namespace::"open");`,
  });
  /** What the work is given to see by. */
  const through = async <T>(who: string, action: AgentAction, work: (caller: Caller) => T) => {
    const caller = person(who);
    const about = action === 'namespace.list' ? {} : { namespace: 'payments' };
    const narrows = true;
    const errand = { action, operation: 'test', resource: about, effect: 'read', narrows } as const;
    return door.perform(caller, errand, () => work(caller));
  };
  const walk = async (who: string) => {
    const pages: string[][] = [];
    let cursor: string | undefined;
    do {
      const page = await through(who, 'secret.list', ({ sees }) =>
        vault.secrets.list('payments', { limit: 5, ...(cursor && { cursor }) }, sees),
      );
      pages.push(page.items.map(({ name }) => name));
      cursor = page.nextCursor ?? undefined;
      if (cursor !== undefined) expect(cursor).toBe(pages.at(-1)?.at(-1));
    } while (cursor !== undefined);
    return pages;
  };
  const visible = names.filter((name, index) => index % 3 !== 0 && name !== 'db/22');
  // Every page but the last is full: where something was left out cannot be told.
  expect((await walk('eve')).map(({ length }) => length)).toEqual([5, 5, 5]);
  expect((await walk('eve')).flat()).toEqual(visible);
  expect((await walk('ann')).flat()).toEqual(names);
  const counts = decider.takeCounts();
  expect(counts).toMatchObject({ allowed: 3 + 3 + 5, denied: 0 });
  expect(alerts).toHaveLength(11);

  const statistics = (who: string) =>
    through(who, 'namespace.statistics', (caller) =>
      vault.namespaces.statistics('payments', 50, caller),
    );
  const hidden = await statistics('eve');
  expect(hidden.topSecrets.map(({ name }) => name).sort()).toEqual(visible);
  expect(hidden).toMatchObject({ secretCount: null, totalBytes: null, accessCount: null });
  expect(await statistics('ann')).toMatchObject({ secretCount: 24, accessCount: 24 });
  const log = await through('eve', 'namespace.statistics', ({ sees }) =>
    vault.namespaces.accessLog('payments', { limit: 100 }, sees),
  );
  expect(new Set(log.items.map(({ secret }) => secret))).toEqual(new Set(visible));

  const listed = (who: string) =>
    through(who, 'namespace.list', async ({ sees, seesAllOf }) => {
      const { items } = await vault.namespaces.list({ limit: 10 }, sees);
      return Promise.all(
        items.map(async ({ name }) => `${name} ${await seesAllOf?.({ namespace: name })}`),
      );
    });
  // One of the two that hide looks at what a secret is, wherever it lies.
  expect(await listed('eve')).toEqual(['open false', 'payments false']);
  expect(await listed('joe')).toEqual(['closed true', 'open false', 'payments true']);
  expect(await listed('ann')).toEqual(['closed true', 'open true', 'payments true']);
  await overrides.activate(person('ann'), 'the door is stuck', 5);
  await overrides.look();
  expect((await walk('eve')).flat()).toEqual(names);
});

test('a store that is away denies where a policy has to know more, and the caller is told so', async () => {
  await hold({
    tagged: 'permit (principal, action, resource is Secret) when { resource.tags.contains("x") };',
  });
  readFacts = () => Promise.reject(new ServiceError('unavailable', { detail: 'not now' }));
  expect(await ask(person('ann'))).toMatchObject({ code: 'unavailable', detail: 'not now' });
  expect(facts.at(-1)).toMatchObject({ result: 'failed', context: { reason: 'not_decided' } });
});

test('a clock that was moved denies what depends on the time', async () => {
  await hold({
    hours: `permit (principal, action, resource) when {
      context.time.minuteOfDay >= 540 && context.time.minuteOfDay < 1020 };`,
  });
  expect(await ask(person('ann'))).toBe('done');
  wallMs += 3_600_000;
  expect(await ask(person('ann'))).toMatchObject({ code: 'permission_denied' });
  expect(facts.at(-1)?.context).toMatchObject({ reason: 'clock_untrusted', clockTrusted: false });
});

test('what a policy asks to be told is told, for a denial too', async () => {
  await hold({
    noted:
      '@log("somebody reads") @alert("high: payments are read") permit (principal, action, resource);',
    forbidden:
      '@notify("security-team: tried") forbid (principal == ApiKey::"eve", action, resource);',
  });
  expect(await ask(person('ann'))).toBe('done');
  expect(facts.at(-1)?.context).toEqual({ log: 'somebody reads', alert: 'high' });
  expect(alerts).toEqual(['api_key:ann']);
  expect(await ask(person('eve'))).toMatchObject({ code: 'permission_denied' });
  expect(facts.at(-1)?.context).toMatchObject({ notify: 'security-team', reason: 'forbidden' });
  expect(alerts).toEqual(['api_key:ann', 'api_key:eve']);
});

test('a throttle counts by whom it says, and says when to come again', async () => {
  await hold({
    slow: '@throttle("2 per minute by identity") permit (principal, action, resource);',
  });
  expect(await ask(person('ann'))).toBe('done');
  pass(20);
  expect(await ask(person('ann'))).toBe('done');
  expect(await ask(person('bob'))).toBe('done');
  expect(await ask(person('ann'))).toMatchObject({ code: 'rate_limited', retryAfterSeconds: 40 });
  expect(facts.at(-1)).toMatchObject({ result: 'throttled', decidedBy: ['slow'] });
  pass(40);
  expect(await ask(person('ann'))).toBe('done');
});

const needsApproval = {
  guarded:
    '@require_approval("2 of security, owners within 30 minutes") permit (principal, action, resource);',
};
const pendingId = (answer: unknown) =>
  /apr_[0-9a-z]{26}/.exec((answer as ServiceError).detail ?? '')?.[0] ?? '';

test('a throttle counts what is let through alone, and refuses before anybody is asked to agree', async () => {
  await hold({
    guarded:
      '@require_approval("1 of security within 1 hour") @throttle("2 per hour by identity") permit (principal, action, resource);',
  });
  const ann = person('ann');
  const agree = (id: string) => approvals.decide(person('bob', ['security']), id, 'approve', '');
  const parked = pendingId(await ask(ann));
  // Asking whether the others have agreed by now is not counted.
  for (let number = 0; number < 5; number += 1) expect(pendingId(await ask(ann))).toBe(parked);
  await agree(parked);
  expect(await ask(ann)).toBe('done');
  // Two that are granted at once: one place is left.
  for (const action of ['secret.read', 'secret.delete'] as const) {
    await agree(pendingId(await ask(ann, action)));
  }
  const both = await Promise.all([ask(ann, 'secret.read'), ask(ann, 'secret.delete')]);
  expect(both.filter((answer) => answer === 'done')).toHaveLength(1);
  expect(both).toContainEqual(expect.objectContaining({ code: 'rate_limited' }));
  expect(await ask(ann)).toMatchObject({ code: 'rate_limited', retryAfterSeconds: 3_600 });
  // Nothing more waits, and what was granted and not used is still there.
  const { items } = await approvals.list({ limit: 10 });
  expect(items.map(({ state }) => state).sort()).toEqual(['approved', 'used', 'used']);
});

test('what never began, and what is told once more, takes no place of a throttle; what failed does', async () => {
  await hold({
    slow: '@throttle("2 per hour by identity") permit (principal, action, resource);',
    alone:
      '@throttle("1 per minute by secret") permit (principal, action == Action::"secret.create", resource);',
  });
  const perform = (more: object, work: () => unknown = () => 'done') =>
    door
      .perform(
        person('ann'),
        { action: 'secret.create', operation: 'test', resource: secret, effect: 'write', ...more },
        work,
      )
      .catch((error: unknown) => error);
  expect(await perform({})).toBe('done');
  // One of two is late: the other is not counted.
  for (let number = 0; number < 3; number += 1) {
    expect(await perform({})).toMatchObject({ code: 'rate_limited', retryAfterSeconds: 60 });
  }
  expect(await perform({ effect: 'read', isRepeated: true })).toBe('done');
  pass(60);
  // Its second part is refused: nothing of it happens.
  const also = [{ action: 'secret.create', resource: secret }];
  expect(await perform({ also })).toMatchObject({ code: 'rate_limited' });
  const missing = () => {
    throw new ServiceError('not_found');
  };
  expect(await perform({}, missing)).toMatchObject({ code: 'not_found' });
  pass(60);
  expect(await perform({})).toMatchObject({ code: 'rate_limited', retryAfterSeconds: 3_480 });
});

test('an approval is used by what happens alone, and a repetition needs none', async () => {
  await hold(needsApproval);
  const perform = (more: object, work: () => unknown = () => 'done') =>
    door
      .perform(
        person('ann'),
        {
          action: 'secret.read-value',
          operation: 'test',
          resource: secret,
          effect: 'write',
          ...more,
        },
        work,
      )
      .catch((error: unknown) => error);
  const id = pendingId(await perform({}));
  for (const who of ['bob', 'cid']) {
    await approvals.decide(person(who, ['security']), id, 'approve', '');
  }
  const state = async () => (await approvals.get(id)).state;
  const fail = (code: ConstructorParameters<typeof ServiceError>[0]) => () => {
    throw new ServiceError(code);
  };
  expect(await perform({}, fail('precondition_failed'))).toMatchObject({
    code: 'precondition_failed',
  });
  expect(await state()).toBe('approved');
  const also = [{ action: 'secret.create', resource: { namespace: 'elsewhere' } }];
  expect(await perform({ also })).toMatchObject({ code: 'permission_denied' });
  expect(await state()).toBe('approved');
  let isBroken = true;
  const broken = new Door({ permissionsOf: () => ({ permits: () => 'admin' }) } as never, {
    record: async () => {
      if (isBroken) throw new ServiceError('unavailable');
    },
  });
  broken.decider = decider;
  for (const effect of ['write', 'read'] as const) {
    const errand = { action: 'secret.read-value', operation: 'test', resource: secret } as const;
    await expect(
      broken.perform(person('ann'), { ...errand, effect }, () => 'done'),
    ).rejects.toMatchObject({ code: 'unavailable' });
    expect(await state()).toBe('approved');
  }
  isBroken = false;
  // One that was asked for meanwhile does not hide the one that was given back.
  expect(
    await perform({}, async () => {
      await perform({});
      throw new ServiceError('conflict');
    }),
  ).toMatchObject({ code: 'conflict' });
  expect(await perform({})).toBe('done');
  expect(await state()).toBe('used');
  expect(await perform({ effect: 'read', isRepeated: true })).toBe('done');
  // Nobody knows how far a failure came.
  expect(await perform({})).toMatchObject({ code: 'permission_denied' });
});

test('what needs approval waits for as many as the policy says, once, for its requester alone', async () => {
  await hold(needsApproval);
  const first = await ask(person('ann'));
  expect(first).toMatchObject({
    code: 'permission_denied',
    detail: expect.stringContaining('2 of'),
  });
  const id = pendingId(first);
  // Asking again is the same request.
  expect(pendingId(await ask(person('ann')))).toBe(id);
  expect(facts.at(-1)?.context).toMatchObject({ reason: 'approval_pending', approval: id });
  const bob = person('bob', ['security']);
  expect(await approvals.decide(bob, id, 'approve', 'fine')).toMatchObject({ state: 'pending' });
  expect(await ask(person('ann'))).toMatchObject({ code: 'permission_denied' });
  await expect(approvals.decide(bob, id, 'approve', '')).rejects.toMatchObject({
    code: 'conflict',
  });
  const approved = await approvals.decide(
    person('cid', ['owners', 'developer']),
    id,
    'approve',
    '',
  );
  expect(approved).toMatchObject({
    state: 'approved',
    requestedBy: 'api_key:ann',
    decisions: [{ by: 'api_key:bob', comment: 'fine' }, { by: 'api_key:cid' }],
  });
  // For somebody else, for something else it is nothing.
  expect(await ask(person('eve'))).toMatchObject({ code: 'permission_denied' });
  expect(await ask(person('ann'), 'secret.delete')).toMatchObject({ code: 'permission_denied' });
  expect(await ask(person('ann'))).toBe('done');
  expect(facts.at(-1)?.context).toEqual({ approval: id });
  expect((await approvals.get(id)).state).toBe('used');
  expect(pendingId(await ask(person('ann')))).not.toBe(id);
});

test('two at the same moment use one approval once', async () => {
  await hold({
    guarded:
      '@require_approval("1 of security within 1 hour") permit (principal, action, resource);',
  });
  const id = pendingId(await ask(person('ann')));
  await approvals.decide(person('bob', ['security']), id, 'approve', '');
  const answers = await Promise.all([ask(person('ann')), ask(person('ann')), ask(person('ann'))]);
  expect(answers.filter((answer) => answer === 'done')).toHaveLength(1);
});

test('nobody agrees to their own request, nor without the role, nor too late', async () => {
  await hold(needsApproval);
  const id = pendingId(await ask(person('ann', ['security'])));
  await expect(
    approvals.decide(person('ann', ['security']), id, 'approve', ''),
  ).rejects.toMatchObject({ code: 'permission_denied', detail: expect.stringContaining('asked') });
  await expect(approvals.decide(person('bob'), id, 'approve', '')).rejects.toMatchObject({
    code: 'permission_denied',
  });
  await expect(
    approvals.decide(person('bob', ['security']), 'apr_01h455vb4pex5vsknk084sn02q', 'deny', ''),
  ).rejects.toMatchObject({ code: 'not_found' });
  pass(30 * 60);
  await expect(
    approvals.decide(person('bob', ['security']), id, 'approve', ''),
  ).rejects.toMatchObject({ code: 'conflict', detail: 'The approval is expired' });
  expect((await approvals.get(id)).state).toBe('expired');
});

test('one denial is enough, and is not asked away', async () => {
  await hold(needsApproval);
  const id = pendingId(await ask(person('ann')));
  await approvals.decide(person('bob', ['security']), id, 'deny', 'not today');
  const again = await ask(person('ann'));
  expect(pendingId(again)).toBe(id);
  expect(again).toMatchObject({ detail: expect.stringContaining('denied') });
  pass(31 * 60);
  expect(pendingId(await ask(person('ann')))).not.toBe(id);
  const states = (await approvals.list({ limit: 10 })).items.map(({ state }) => state);
  expect(states).toEqual(['pending', 'denied']);
  expect((await approvals.list({ limit: 10, state: 'denied' })).items).toHaveLength(1);
});

test('an approval that a changed policy no longer asks for is worth nothing', async () => {
  await hold(needsApproval);
  const id = pendingId(await ask(person('ann')));
  for (const name of ['bob', 'cid']) {
    await approvals.decide(person(name, ['security']), id, 'approve', '');
  }
  await hold({
    guarded:
      '@require_approval("1 of board within 30 minutes") permit (principal, action, resource);',
  });
  expect(pendingId(await ask(person('ann')))).not.toBe(id);
});

test('whoever asks for too much at once has to wait', async () => {
  await hold(needsApproval);
  for (let index = 0; index < 20; index += 1) {
    await ask(person('ann'), 'secret.read-value', { ...secret, secret: `item-${index}` });
  }
  expect(
    await ask(person('ann'), 'secret.read-value', { ...secret, secret: 'one-more' }),
  ).toMatchObject({ code: 'limit_reached' });
  expect(pendingId(await ask(person('bob')))).not.toBe('');
});

test('what ended long ago is forgotten', async () => {
  await hold(needsApproval);
  await ask(person('ann'));
  pass(100 * 86_400);
  await approvals.sweep();
  expect((await approvals.list({ limit: 10 })).items).toEqual([]);
});

test('a set that is stale restricts or denies as it says, and never what shows it', async () => {
  await hold({ all: permitAll });
  held.staleness = 'restrict';
  expect(await ask(person('ann'))).toBe('done');
  expect(await ask(person('ann'), 'secret.update')).toMatchObject({ code: 'permission_denied' });
  held.staleness = 'deny';
  expect(await ask(person('ann'))).toMatchObject({ code: 'permission_denied' });
  expect(facts.at(-1)?.context).toEqual({ reason: 'stale', contract: 'deny', policySet: 1 });
  expect(await ask(person('ann'), 'policy.read', {})).toBe('done');
  held.staleness = 'keep';
  expect(await ask(person('ann'), 'secret.update')).toBe('done');
});

test('a set that is damaged denies everything', async () => {
  held.active = {
    number: 3,
    digest: '',
    compiled: refusingSet('corrupt_set'),
    configuration: {},
    staleness: null,
  };
  expect(await ask(person('ann'))).toMatchObject({ code: 'permission_denied' });
  expect(facts.at(-1)?.context).toMatchObject({ reason: 'corrupt_set' });
});

test('duties of the agent go on under a set that does not name them, and stop where it does', async () => {
  const duty = testCaller('rotation');
  await hold({
    office: `forbid (principal, action, resource) unless { context has address };`,
    none: 'permit (principal in Role::"nobody", action, resource);',
  });
  expect(await ask(duty, 'secret.rotate')).toBe('done');
  await hold({
    frozen: 'forbid (principal is System, action == Action::"secret.rotate", resource);',
  });
  expect(await ask(duty, 'secret.rotate')).toMatchObject({ code: 'permission_denied' });
  expect(facts.at(-1)?.decidedBy).toEqual(['frozen']);
  expect(await ask(duty, 'backup.create', {})).toBe('done');
});

test('an override of the owner lets policies be for its time, and everybody is told', async () => {
  await hold({ none: 'forbid (principal, action, resource);' });
  const told: string[] = [];
  overrides.onChange((override, isActive) =>
    told.push(`${isActive ? 'begins' : 'ends'} ${override.reason}`),
  );
  const override = await overrides.activate(testCaller('owner'), 'the door is stuck', 30);
  expect(await ask(person('ann'))).toMatchObject({ code: 'permission_denied' });
  await overrides.look();
  expect(await ask(person('ann'))).toBe('done');
  expect(facts.at(-1)).toMatchObject({
    decidedBy: ['admin', 'emergency-override'],
    context: { override: override.id },
  });
  const view = new PolicyView({ held, overrides, decider, clock });
  expect(view.read()).toMatchObject({
    decides: 'override',
    override: { reason: 'the door is stuck', by: 'system:owner' },
  });
  // Setting the clock back does not make it longer.
  monotonicMs += 30 * 60_000;
  expect(await ask(person('ann'))).toMatchObject({ code: 'permission_denied' });
  await overrides.look();
  expect(told).toEqual(['begins the door is stuck', 'ends the door is stuck']);
  expect(view.read().decides).toBe('policies');
});

test('an override ends when it is revoked', async () => {
  await hold({ none: 'forbid (principal, action, resource);' });
  await overrides.activate(testCaller('owner'), 'reason', 30);
  await overrides.look();
  expect(await ask(person('ann'))).toBe('done');
  expect(await overrides.revoke()).toBe(true);
  expect(await ask(person('ann'))).toMatchObject({ code: 'permission_denied' });
  expect(await overrides.revoke()).toBe(false);
});

test('whoever can write the store, but not open its keys, makes no override and prolongs none', async () => {
  await hold({ none: 'forbid (principal, action, resource);' });
  const store = vault.store.as<PolicyTables>();
  const foreign = new Overrides({ store, key: Buffer.alloc(32, 1), now: () => wallMs });
  await foreign.activate(testCaller('eve'), 'because', 60);
  await overrides.look();
  expect(overrides.active).toBeUndefined();
  await overrides.activate(testCaller('owner'), 'reason', 1);
  await store.write((queries) =>
    queries
      .updateTable('policy_override')
      .set({ until_ms: wallMs + 86_400_000 })
      .execute(),
  );
  await overrides.look();
  expect(overrides.active).toBeUndefined();
  await expect(overrides.activate(testCaller('owner'), ' ', 30)).rejects.toThrow('reason');
  await expect(overrides.activate(testCaller('owner'), 'reason', 100_000)).rejects.toThrow(
    'minutes',
  );
});

test('decisions are counted, also by what the set before would have said', async () => {
  const before = await hold({ ann: 'permit (principal == ApiKey::"ann", action, resource);' });
  const now = await hold({ bob: 'permit (principal == ApiKey::"bob", action, resource);' }, 2);
  held.previous = before;
  await ask(person('ann'));
  await ask(person('bob'));
  await ask(person('cid'));
  expect(decider.takeCounts()).toEqual({
    number: 2,
    digest: now.digest,
    allowed: 1,
    denied: 2,
    newlyAllowed: 1,
    newlyDenied: 1,
    errors: 0,
  });
  expect(decider.takeCounts()).toBeUndefined();
  // After an hour nothing is decided twice any more.
  pass(3_601);
  await ask(person('ann'));
  expect(decider.takeCounts()).toMatchObject({ denied: 1, newlyDenied: 0 });
});

test('the policies that decide can be listed in pages, and a change of the set ends the walk', async () => {
  await hold(Object.fromEntries(['a', 'b', 'c'].map((id) => [id, permitAll])));
  const view = new PolicyView({ held, overrides, decider, clock });
  const first = view.list({ limit: 2 });
  expect(first.items.map(({ id, effect }) => `${id} ${effect}`)).toEqual(['a permit', 'b permit']);
  const rest = view.list({ limit: 2, cursor: first.nextCursor! });
  expect([rest.items.map(({ id }) => id), rest.nextCursor]).toEqual([['c'], null]);
  await hold({ d: permitAll }, 2);
  expect(() => view.list({ limit: 2, cursor: first.nextCursor! })).toThrow(ServiceError);
});
