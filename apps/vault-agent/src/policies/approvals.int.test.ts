import { newUuid, toId } from '@keystead/contracts/ids';
import {
  createSqlDatabase,
  sqlKinds,
  type TestSqlDatabase,
} from '@keystead/test-control-plane/sql-database';
import { openSql, type SqlStore } from '@keystead/vault-store/sql/sql-store';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Caller } from '../access/caller.ts';
import { migrate } from '../store/migrations.ts';
import { testCaller } from '../store/vault.fixture.ts';
import { Approvals } from './approvals.ts';
import { Overrides } from './overrides.ts';
import { PolicyAnchor } from './policy-anchor.ts';
import { type PolicyTables, policyMigrations } from './policy-tables.ts';

describe.each(sqlKinds)('approvals and overrides on %s', (kind) => {
  let database: TestSqlDatabase;
  let stores: SqlStore<PolicyTables>[];
  let shiftMs = 0;
  const now = () => Date.now() + shiftMs;
  // Two agents, each with a store of its own where several may share one.
  let agents: Approvals[];
  beforeAll(async () => {
    database = await createSqlDatabase(kind);
    const store = await openSql<PolicyTables>(database.options);
    stores = kind === 'sqlite' ? [store] : [store, await openSql(database.options)];
    await migrate(store as unknown as SqlStore<unknown>, policyMigrations, Date.now());
    agents = [stores[0]!, stores.at(-1)!].map((each) => new Approvals({ store: each, now }));
  });
  afterAll(async () => {
    for (const store of stores) await store.close();
    await database.drop();
  });
  const person = (id: string, roles: string[]): Caller => ({
    ...testCaller(),
    identity: { kind: 'api_key', id, name: id, roles },
  });
  const requirement = {
    policyId: 'p',
    approvers: ['security'],
    count: 2,
    expiresAfterSeconds: 600,
  };
  const resource = { namespace: 'payments', secret: 'db/password' };
  const require = (agent: number, who = 'ann') =>
    agents[agent]!.require(person(who, []), 'secret.read-value', resource, [requirement]);

  test('what one agent parks another decides, and one of many requests uses it', async () => {
    const asked = await require(0);
    expect(asked.outcome).toBe('pending');
    const decide = (agent: number, who: string) =>
      agents[agent]!.decide(person(who, ['security']), asked.id, 'approve', '');
    // At the same moment, by different people at different agents.
    await Promise.all([decide(0, 'bob'), decide(1, 'cid')]);
    expect((await agents[0]!.get(asked.id)).state).toBe('approved');
    const used = await Promise.all([0, 1, 0, 1, 0, 1].map((agent) => require(agent)));
    expect(used.filter(({ outcome }) => outcome === 'granted')).toHaveLength(1);
  });

  test('a decision of the control plane counts once, whichever agents take it at the same moment', async () => {
    const asked = await require(0, 'fay');
    const decision = {
      id: asked.id,
      decisionId: newUuid(),
      verdict: 'deny',
      approver: { id: toId('person', newUuid()), name: 'G', email: '', roles: ['security'] },
      reason: 'no',
    } as const;
    const outcomes = await Promise.all(
      [0, 1, 0, 1].map((at) => agents[at]!.decideRemotely(decision)),
    );
    expect(outcomes).toEqual(Array(4).fill('accepted'));
    const untold = (await agents[1]!.untold(10)).find(({ id }) => id === asked.id);
    expect(untold).toMatchObject({
      revision: 2,
      state: 'denied',
      decisions: [{ verdict: 'deny', decisionId: decision.decisionId }],
    });
    await agents[1]!.told(asked.id, 2);
    expect((await agents[0]!.untold(10)).map(({ id }) => id)).not.toContain(asked.id);
  });

  test('lists come in pages by state, what is old is forgotten', async () => {
    await require(0, 'dora');
    const all = await agents[1]!.list({ limit: 100 });
    const first = await agents[1]!.list({ limit: 1 });
    const rest = await agents[1]!.list({ limit: 100, cursor: first.nextCursor! });
    expect([...first.items, ...rest.items]).toEqual(all.items);
    expect((await agents[1]!.list({ limit: 100, state: 'used' })).items).toHaveLength(1);
    shiftMs = 700_000;
    expect((await agents[1]!.list({ limit: 100, state: 'pending' })).items).toEqual([]);
    expect((await agents[1]!.list({ limit: 100, state: 'expired' })).items.length).toBeGreaterThan(
      0,
    );
    shiftMs = 100 * 86_400_000;
    await agents[0]!.sweep();
    expect((await agents[1]!.list({ limit: 100 })).items).toEqual([]);
    shiftMs = 0;
  });

  test('the anchor of a set is of its agent and its vault, and cannot be forged', async () => {
    const anchorOf = (agentId: string, byte = 4) =>
      new PolicyAnchor({ store: stores[0]!, key: Buffer.alloc(32, byte), agentId, now });
    const [one, two] = [toId('agent', newUuid()), toId('agent', newUuid())];
    expect(await anchorOf(one).read()).toBeUndefined();
    for (const number of [1, 7]) await anchorOf(one).write({ number, digest: 'a'.repeat(64) });
    expect(await anchorOf(one).read()).toEqual({ number: 7, digest: 'a'.repeat(64) });
    expect(await anchorOf(two).read()).toBeUndefined();
    await expect(anchorOf(one, 5).read()).rejects.toThrow('not written by this vault');
    await stores[0]!.write((queries) =>
      queries.updateTable('policy_anchor').set({ number: 1 }).execute(),
    );
    await expect(anchorOf(one).read()).rejects.toThrow('not written by this vault');
  });

  test('an override that one agent makes all agents see', async () => {
    const key = Buffer.alloc(32, 3);
    const [one, two] = [stores[0]!, stores.at(-1)!].map(
      (store) => new Overrides({ store, key, now }),
    );
    await one!.activate(testCaller('owner'), 'reason: ü', 1);
    await two!.look();
    expect(two!.active).toMatchObject({ reason: 'reason: ü', by: 'system:owner' });
    expect(await two!.revoke()).toBe(true);
    await one!.look();
    expect(one!.active).toBeUndefined();
  });
});
