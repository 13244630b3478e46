import { randomBytes } from 'node:crypto';
import { Listing } from '@keystead/access/listing';
import { InstallationKey } from '@keystead/access/sealing';
import { TenantWork } from '@keystead/access/tenant-work';
import type { AuditHeadReport, RetainedEvent } from '@keystead/contracts/agent-link';
import { commandsChainOf } from '@keystead/contracts/audit-chain';
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId } from '@keystead/contracts/ids';
import { listAgentEvents, listAuditHeads } from '@keystead/contracts/monitoring';
import { permissionsOf } from '@keystead/contracts/permissions';
import type { Bus } from '@keystead/messaging/bus';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { AuditHeads } from '../audit-heads/audit-heads.ts';
import { Watch, type WatchedAgent } from '../monitoring.fixture.ts';
import { AgentEvents } from './agent-events.ts';

let watch: Watch;
let events: AgentEvents;
let heads: AuditHeads;

beforeAll(async () => {
  watch = await Watch.open();
  const key = new InstallationKey(randomBytes(32));
  const work = new TenantWork(watch.database, key);
  const listing = new Listing(key);
  heads = new AuditHeads(work, listing);
  const bus = { nudge: () => {} } as unknown as Bus;
  events = new AgentEvents(watch.database, work, listing, watch.desk, heads, bus);
});
afterAll(() => watch.close());

let sequence = 0;
function event(agent: WatchedAgent, told: Partial<RetainedEvent>): RetainedEvent {
  sequence += 1;
  const { organizationId, agentId, bootId } = agent;
  return {
    organizationId,
    agentId,
    bootId,
    sequence,
    kind: 'security_notice',
    occurredAtMs: Date.now(),
    details: {},
    signature: '',
    ...told,
  };
}
const notice = (agent: WatchedAgent, word: string) =>
  event(agent, { details: { notice: word, identityRef: null, count: 1 } });
const head = (agent: WatchedAgent, at: number, changes: Partial<AuditHeadReport> = {}) =>
  event(agent, {
    kind: 'audit_head',
    auditHead: {
      chainId: '01'.repeat(16),
      sequence: at,
      hash: at.toString(16).padStart(64, '0'),
      atMs: 1_700_000_000_000 + at,
      entriesSincePrevious: 10,
      signature: 'certificate',
      signerKeyDigest: 'aa'.repeat(32),
      ...changes,
    },
  });
const usage = (agent: WatchedAgent, count: number) =>
  event(agent, {
    kind: 'operation_counts',
    operationCounts: {
      periodStartMs: Date.now(),
      periodEndMs: Date.now(),
      counts: [{ operation: 'secret_read', outcome: 'done', count, p50Us: 1, p95Us: 2, p99Us: 3 }],
      topSecrets: [],
      namespaces: 1,
      secrets: 1,
      storedBytes: 1,
    },
  });
const ctxOf = ({ organizationId }: WatchedAgent): TenantCtx => ({
  organizationId,
  actor: { kind: 'person', id: 'usr', name: 'Viewer' },
  role: 'viewer',
  permissions: [...permissionsOf.viewer],
  personId: newUuid(),
  credentialId: newUuid(),
  requestId: newUuid(),
  address: null,
  userAgent: null,
  idempotencyKey: null,
});
const shownHeads = (agent: WatchedAgent, query: Record<string, string> = {}) =>
  heads.list(ctxOf(agent), {
    params: { id: toId('agent', agent.agentId) },
    query: listAuditHeads.query.parse(query),
    body: {},
    ifMatch: null,
  });

async function oneAgent(): Promise<WatchedAgent> {
  const [agent] = await watch.fleet();
  if (agent === undefined) throw new Error('no agent');
  return agent;
}

test('an event that is sent again, alone or in another batch, changes nothing', async () => {
  const agent = await oneAgent();
  const batch = [
    notice(agent, 'guessing'),
    usage(agent, 5),
    head(agent, 10),
    event(agent, { kind: 'rotation', details: { outcome: 'gave_up', attempt: 5 } }),
  ];
  expect(await events.record([...batch, ...batch.slice(0, 2)])).toEqual({ recorded: 4, known: 2 });
  expect(await events.record([...batch, usage(agent, 1)])).toEqual({ recorded: 1, known: 4 });
  await Promise.all([events.record(batch), events.record(batch)]);
  const owed = await watch.rows(
    `select payload from messaging.outbox where topic = 'usage.reported' and payload->>'agentId' = $1`,
    agent.agentId,
  );
  expect(owed).toHaveLength(2);
  expect((await watch.told(agent.vaultId)).sort()).toEqual([
    'agent.rotation_failed',
    'agent.security',
  ]);
  expect((await shownHeads(agent)).items).toMatchObject([{ sequence: 10, contradiction: null }]);
  const listed = await events.list(ctxOf(agent), {
    params: { id: toId('agent', agent.agentId) },
    query: listAgentEvents.query.parse({ kind: 'rotation' }),
    body: {},
    ifMatch: null,
  });
  expect(listed.items).toMatchObject([
    { kind: 'rotation', details: { outcome: 'gave_up', attempt: 5 } },
  ]);
});

test('an audit that is blocked is told at once, once for a vault, and ends when each agent resumed', async () => {
  const [one, other] = (await watch.fleet(2)) as [WatchedAgent, WatchedAgent];
  await events.record([notice(one, 'audit_blocked')]);
  await events.record([notice(other, 'audit_blocked')]);
  expect(await watch.told(one.vaultId)).toEqual(['agent.audit_blocked']);
  await events.record([notice(one, 'audit_resumed')]);
  expect(await watch.alerts(one.vaultId)).toMatchObject([
    { kind: 'agent.audit_blocked', severity: 'critical', status: 'open', agent_count: 2 },
  ]);
  await events.record([notice(other, 'audit_resumed')]);
  expect(await watch.alerts(one.vaultId)).toMatchObject([{ status: 'resolved' }]);
});

test('a backup that gave up is told, and ends with the next that succeeds', async () => {
  const agent = await oneAgent();
  const backup = (kind: string, outcome: string) =>
    event(agent, { kind: 'backup', details: { kind, outcome } });
  await events.record([backup('backup', 'failed')]);
  expect(await watch.told(agent.vaultId)).toEqual([]);
  await events.record([backup('backup', 'gave_up')]);
  await events.record([backup('drill', 'succeeded')]);
  expect(await watch.alerts(agent.vaultId)).toMatchObject([
    {
      kind: 'agent.backup_failed',
      status: 'open',
      reasons: ['backup_gave_up'],
      summary: expect.stringContaining('the last attempt of a backup failed'),
    },
  ]);
  await events.record([backup('backup', 'succeeded')]);
  expect(await watch.alerts(agent.vaultId)).toMatchObject([{ status: 'resolved' }]);
});

test('a rotation that falls due is told ahead of time, quietly', async () => {
  const agent = await oneAgent();
  await events.record([event(agent, { kind: 'rotation', details: { outcome: 'due_soon' } })]);
  expect(await watch.alerts(agent.vaultId)).toMatchObject([
    { kind: 'agent.rotation_due', severity: 'info', status: 'open' },
  ]);
});

test('a further kind of suspicion takes the place of the alert that is open', async () => {
  const agent = await oneAgent();
  await events.record([notice(agent, 'guessing')]);
  await events.record([notice(agent, 'guessing')]);
  await events.record([notice(agent, 'new_network')]);
  const alerts = await watch.alerts(agent.vaultId);
  expect(alerts).toMatchObject([
    { status: 'resolved', reasons: ['guessing'] },
    { status: 'open', reasons: ['guessing', 'new_network'] },
  ]);
  expect(alerts[0].superseded_by_id).toBe(alerts[1].id);
  expect(await watch.told(agent.vaultId)).toHaveLength(2);
});

test('a rewritten audit is found from outside: another hash, a shorter chain, another chain', async () => {
  const agent = await oneAgent();
  await events.record([head(agent, 10), head(agent, 20), head(agent, 30)]);
  // The log of commands beside the agent is a chain of its own, and replaces nothing.
  const beside = commandsChainOf(Buffer.from('01'.repeat(16), 'hex')).toString('hex');
  await events.record([head(agent, 2, { chainId: beside })]);
  expect(await watch.told(agent.vaultId)).toEqual([]);
  await events.record([head(agent, 20, { hash: 'ff'.repeat(32) })]);
  expect(await watch.alerts(agent.vaultId)).toMatchObject([
    { kind: 'agent.audit_rewritten', severity: 'critical', reasons: ['other_hash'] },
  ]);
  await events.record([head(agent, 25, { atMs: 1_700_000_900_000 })]);
  await events.record([head(agent, 1, { chainId: '02'.repeat(16) })]);
  await events.record([head(agent, 40, { signature: 'invalid' })]);
  expect((await watch.alerts(agent.vaultId)).at(-1)).toMatchObject({
    status: 'open',
    reasons: ['chain_replaced', 'other_hash', 'signature_invalid', 'went_back'],
  });
  const contradicting = await shownHeads(agent, { contradicting: 'true', sort: 'receivedAt' });
  expect(contradicting.items.map(({ contradiction }) => contradiction)).toEqual([
    'other_hash',
    'went_back',
    'chain_replaced',
    'signature_invalid',
  ]);
  expect((await shownHeads(agent, { contradicting: 'false' })).items).toHaveLength(4);
});

test('heads that are recorded in another order than they were taken contradict nothing', async () => {
  const agent = await oneAgent();
  const taken = [head(agent, 10), head(agent, 20), head(agent, 30), head(agent, 40)];
  await events.record(taken.slice(2));
  await events.record(taken.slice(0, 2));
  const next = { ...agent, bootId: newUuid() };
  await Promise.all([events.record([head(next, 50)]), events.record([head(next, 60)])]);
  expect(await watch.told(agent.vaultId)).toEqual([]);
});

test("a head signed by an earlier certificate's key counts as the agent's", async () => {
  const agent = await oneAgent();
  const key = 'bb'.repeat(32);
  await events.record([head(agent, 1, { signature: 'other_key', signerKeyDigest: key })]);
  expect((await shownHeads(agent)).items).toMatchObject([{ signature: 'other_key' }]);
  await events.record([head(agent, 2, { signerKeyDigest: key })]);
  await events.record([head(agent, 3, { signature: 'other_key', signerKeyDigest: key })]);
  await events.record([
    head(agent, 4, { signature: 'other_key', signerKeyDigest: 'cc'.repeat(32) }),
  ]);
  const shown = await shownHeads(agent, { sort: 'receivedAt' });
  expect(shown.items.map(({ signature }) => signature)).toEqual([
    'certificate',
    'certificate',
    'certificate',
    'other_key',
  ]);
});

test("another organization's audit heads are answered like absent ones", async () => {
  const [own, foreign] = [await oneAgent(), await oneAgent()];
  await events.record([head(foreign, 1)]);
  const answers = await Promise.all(
    [foreign.agentId, newUuid()].map((agentId) =>
      shownHeads({ ...own, agentId }).catch((error: unknown) => error),
    ),
  );
  expect(answers[0]).toMatchObject({ code: 'not_found' });
  expect(answers[1]).toEqual(answers[0]);
});

test('events of an agent that is gone are kept, and nobody is told', async () => {
  const agent = { ...(await oneAgent()), agentId: newUuid() };
  expect(await events.record([notice(agent, 'guessing'), usage(agent, 1)])).toEqual({
    recorded: 2,
    known: 0,
  });
  expect(await watch.told(agent.vaultId)).toEqual([]);
});
