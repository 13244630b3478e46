import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { appendFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CommandOutcome,
  ReplayChange,
  ReplayObstacle,
  ReplayOutcome,
  type ReplayReported,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { policySetDigest } from '@keystead/agent-protocol/policy-set-signature';
import { newUuid, toId } from '@keystead/contracts/ids';
import { type CompiledSet, compile } from '@keystead/policy-engine/compile';
import { decide } from '@keystead/policy-engine/decide';
import type { AccessRequest } from '@keystead/policy-engine/facts';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { NameReferences } from '../../upward/name-references.ts';
import { namesOnly, needsFacts } from '../resource-facts.ts';
import { DecisionJournal } from './decision-journal.ts';
import { replay } from './replay.ts';
import { Replays, type ReplaysOptions } from './replays.ts';

const vault = { id: 'vlt_1', name: 'vault' };
const noon = Date.parse('2026-06-10T12:00:00Z');
const organizationId = newUuid();
const log = { info: () => undefined, warn: () => undefined, error: () => undefined };

let folder: string;
let nowMs: number;
let journal: DecisionJournal;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keystead-replays-'));
  nowMs = noon;
  journal = new DecisionJournal({ folder, now: () => nowMs, log });
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function setOf(...policies: string[]): Promise<CompiledSet> {
  const compiled = await compile(content(...policies));
  if (!compiled.ok) throw new Error(JSON.stringify(compiled.problems));
  return compiled.value;
}

const content = (...policies: string[]) => ({
  vault: { policies: policies.map((cedar, index) => ({ id: `p${index}`, cedar })) },
});

function request(id: string, secret: string, given: Partial<AccessRequest> = {}): AccessRequest {
  return {
    principal: { kind: 'api_key', id, name: id, roles: ['developer'] },
    action: 'secret.read-value',
    resource: { vault, namespace: { name: 'payments' }, secret: { name: secret } },
    context: {
      atMs: nowMs,
      zone: 'UTC',
      clockTrusted: true,
      address: '10.1.2.3',
      authentication: { method: 'api_key', ageSeconds: 0 },
      tls: { used: true },
      headers: {},
      useCount: 0,
    },
    ...given,
  };
}

const allowed = { allowed: true, needsApproval: false, isKnown: false };
const there = {
  read: ({ namespace = '', secret = '' }) => ({
    namespace: { name: namespace, tags: ['prod'], owner: 'team' },
    secret: { name: secret, tags: secret === 'old' ? ['legacy'] : [], metadata: {} },
    useCount: 3,
  }),
};
const replayed = (draft: CompiledSet, more: Partial<Parameters<typeof replay>[0]> = {}) =>
  replay({
    draft,
    files: journal.read(),
    facts: there,
    vault,
    fromMs: 0,
    signal: new AbortController().signal,
    ...more,
  });

test('what a draft would deny, allow and let wait is counted, and the most frequent are named first', async () => {
  for (let count = 0; count < 5; count += 1) journal.note(request('ci', 'db'), allowed);
  journal.note(request('ci', 'other'), allowed);
  journal.note(request('bob', 'db'), { ...allowed, allowed: false });
  journal.note(request('eve', 'db'), { ...allowed, allowed: false });
  journal.note(request('ann', 'db'), allowed);
  const result = await replayed(
    await setOf(
      'permit(principal == ApiKey::"bob", action, resource);',
      '@require_approval("1 of owners within 30 minutes") permit(principal == ApiKey::"ann", action, resource);',
    ),
  );
  expect(result).toMatchObject({
    fromMs: noon,
    decisions: 9,
    newlyDenied: 6,
    newlyAllowed: 1,
    newlyNeedingApproval: 1,
    unchanged: 1,
    differences: [
      { principal: { id: 'ci' }, secret: 'db', change: ReplayChange.NEWLY_DENIED, count: 5 },
      { principal: { id: 'ci' }, secret: 'other', count: 1 },
      { principal: { id: 'bob' }, change: ReplayChange.NEWLY_ALLOWED, count: 1 },
    ],
  });
  expect(result.unevaluated.size).toBe(0);
});

test('a set that decides everything anew that it decided itself finds no difference', async () => {
  const texts = [
    'permit(principal in Role::"developer", action, resource) when { context.time.minuteOfDay >= 700 };',
    'forbid(principal, action, resource) when { resource.name like "db*" && context has address && context.address.isInRange(ip("10.0.0.0/8")) } unless { principal.name == "ci" };',
    '@require_approval("2 of owners within 30 minutes") permit(principal in Role::"guest", action, resource) when { context.authentication.ageSeconds < 60 };',
    'forbid(principal, action == Action::"secret.read-value", resource) when { resource.tags.contains("legacy") };',
    'forbid(principal is System, action == Action::"secret.rotate", resource);',
  ];
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.constantFrom(...texts), { minLength: 1 }),
      fc.array(
        fc.record({
          id: fc.constantFrom('ci', 'bob', 'ann'),
          role: fc.constantFrom('developer', 'guest'),
          secret: fc.constantFrom('db', 'db2', 'old', 'x'),
          address: fc.constantFrom('10.0.0.1', '192.0.2.1', ''),
          age: fc.integer({ min: 0, max: 120 }),
          minute: fc.integer({ min: 0, max: 200 }),
          trusted: fc.boolean(),
        }),
        { minLength: 1, maxLength: 60 },
      ),
      async (policies, asked) => {
        rmSync(folder, { recursive: true, force: true });
        journal = new DecisionJournal({ folder, now: () => nowMs, log });
        const set = await setOf(...policies);
        const isKnown = needsFacts(set);
        for (const each of [...asked].sort((one, other) => one.minute - other.minute)) {
          const facts = isKnown
            ? there.read({ namespace: 'payments', secret: each.secret })
            : namesOnly({ namespace: 'payments', secret: each.secret });
          const put = request(each.id, each.secret);
          put.principal.roles = [each.role];
          put.resource = { vault, namespace: facts.namespace, secret: facts.secret } as never;
          put.context = {
            ...put.context,
            atMs: noon - 3_600_000 + each.minute * 60_000,
            clockTrusted: each.trusted,
            address: each.address,
            authentication: { method: 'api_key', ageSeconds: each.age },
            useCount: facts.useCount,
          };
          const decision = decide(set, put);
          journal.note(put, {
            allowed: decision.decision === 'allow',
            needsApproval: decision.obligations.some(({ kind }) => kind === 'require_approval'),
            isKnown,
          });
        }
        // What the store says has changed since: what was known then counts.
        const facts = isKnown ? { read: () => ({ useCount: 0 }) } : there;
        const result = await replayed(set, { facts });
        expect(result).toMatchObject({ decisions: asked.length, unchanged: asked.length });
        set.close();
      },
    ),
    { numRuns: 25 },
  );
});

test('under a set without policies roles decide alone', async () => {
  journal.note(request('ci', 'db'), allowed);
  journal.note(request('bob', 'db'), { ...allowed, allowed: false });
  const empty = await compile({ networks: {}, namespaces: {} });
  const draft = empty.ok ? empty.value : await setOf();
  expect(await replayed(draft)).toMatchObject({ newlyAllowed: 1, unchanged: 1 });
});

test('what a draft reads of a resource comes from the store, and what is gone is said to be', async () => {
  journal.note(request('ci', 'old'), allowed);
  journal.note(request('ci', 'new'), allowed);
  journal.note(request('ci', 'gone'), allowed);
  const draft = await setOf(
    'permit(principal, action, resource) unless { resource.tags.contains("legacy") };',
  );
  const result = await replayed(draft, {
    facts: {
      read: (resource) => (resource.secret === 'gone' ? namesOnly(resource) : there.read(resource)),
    },
  });
  expect(result).toMatchObject({ decisions: 3, newlyDenied: 1, unchanged: 1 });
  expect(result.unevaluated.get(ReplayObstacle.RESOURCE_GONE)).toBe(1);
});

test('days bound it, and so does its cost; what is damaged or was too much is counted and stops nothing', async () => {
  journal = new DecisionJournal({ folder, now: () => nowMs, log, limits: { entriesPerWindow: 3 } });
  nowMs = noon - 3 * 86_400_000;
  journal.note(request('ci', 'too long ago'), allowed);
  nowMs = noon;
  for (const name of ['a', 'b', 'c', 'd', 'e']) journal.note(request('ci', name), allowed);
  await journal.flush();
  appendFileSync(join(folder, 'decisions.jsonl'), `{"atMs":${noon},"count":\n[]\n{"torn`);
  const after = new DecisionJournal({ folder, now: () => nowMs, log });
  after.note(request('ann', 'after a crash'), allowed);
  await after.flush();
  journal = after;
  const draft = await setOf('permit(principal, action, resource);');
  const result = await replayed(draft, {
    fromMs: noon - 86_400_000,
    limits: { entriesMax: 3 },
  });
  expect(result).toMatchObject({ fromMs: noon, decisions: 9, unchanged: 3 });
  expect(Object.fromEntries(result.unevaluated)).toEqual({
    [ReplayObstacle.NOT_KEPT]: 2,
    [ReplayObstacle.DAMAGED]: 3,
    [ReplayObstacle.COST_LIMIT]: 1,
  });
});

test('files are closed, compressed and read again; the oldest make room', async () => {
  const limits = { fileBytes: 20_000, closedBytesMax: 5_000 };
  journal = new DecisionJournal({ folder, now: () => nowMs, log, limits });
  const draft = await setOf('permit(principal, action, resource);');
  for (let minute = 0; minute < 10; minute += 1) {
    nowMs += 60_000;
    for (let name = 0; name < 100; name += 1) journal.note(request('ci', `s${name}`), allowed);
    await journal.flush();
    if (minute === 2) expect(await replayed(draft)).toMatchObject({ decisions: 300 });
  }
  const closed = readdirSync(folder).filter((name) => name.startsWith('decisions-'));
  expect(closed.every((name) => name.endsWith('.jsonl.gz'))).toBe(true);
  const bytes = closed.reduce((sum, name) => sum + readFileSync(join(folder, name)).length, 0);
  expect(bytes).toBeLessThanOrEqual(limits.closedBytesMax);
  const result = await replayed(draft);
  expect(result.decisions).toBe(100 * closed.length);
  expect(result.fromMs).toBeGreaterThan(noon + 60_000);
});

test('a disk that hangs fills no memory: a few entries wait, what comes then is counted, and said when it is well', async () => {
  const hanging = Promise.withResolvers<void>();
  const append: typeof appendFile = async (...given) => {
    await hanging.promise;
    await appendFile(...given);
  };
  const limits = { entriesWaitingMax: 3 };
  const slow = new DecisionJournal({ folder, now: () => nowMs, log, append, limits });
  for (let minute = 0; minute < 20; minute += 1) {
    for (let time = 0; time < 2; time += 1) slow.note(request('ci', `s${minute}`), allowed);
    void slow.flush();
    nowMs += 60_000;
  }
  hanging.resolve();
  await slow.flush();
  const file = join(folder, 'decisions.jsonl');
  expect(readFileSync(file, 'utf8').match(/"secret"/g)).toHaveLength(3);
  slow.note(request('ci', 'last'), allowed);
  await slow.flush();
  expect(readFileSync(file, 'utf8')).toContain('"notKept":34}');
});

test('the event loop is never held for a tenth of a second, and most of its time is left to others', async () => {
  for (let name = 0; name < 4_000; name += 1) journal.note(request('ci', `s${name}`), allowed);
  await journal.flush();
  const draft = await setOf(
    ...Array.from(
      { length: 300 },
      (_, index) => `permit(principal, action, resource) when { resource.name == "s${index}" };`,
    ),
  );
  // Processor time between two turns of the loop: other processes on the machine do not count.
  let longestMs = 0;
  let turns = 0;
  let before = process.cpuUsage();
  const turn = setInterval(() => {
    const { user, system } = process.cpuUsage(before);
    before = process.cpuUsage();
    longestMs = Math.max(longestMs, (user + system) / 1_000);
    turns += 1;
  }, 1);
  const begun = process.cpuUsage();
  const begunMs = performance.now();
  // Far less than any machine needs for all of them.
  const result = await replayed(draft, { limits: { workMs: 40 } });
  const wallMs = performance.now() - begunMs;
  clearInterval(turn);
  const { user, system } = process.cpuUsage(begun);
  expect(result.decisions).toBe(4_000);
  expect(result.unevaluated.get(ReplayObstacle.COST_LIMIT)).toBeGreaterThan(0);
  expect(turns).toBeGreaterThan(10);
  expect(longestMs).toBeLessThan(100);
  expect((user + system) / 1_000 / wallMs).toBeLessThan(0.8);
});

// Replays as the control plane asks for them

interface Given {
  replays: Replays;
  told: ReplayReported[];
  audited: string[];
}

function open(drafts: Map<string, Buffer>, given: Partial<ReplaysOptions> = {}): Given {
  const told: ReplayReported[] = [];
  const audited: string[] = [];
  const replays = new Replays({
    folder,
    journal,
    names: new NameReferences(Buffer.alloc(32, 7)),
    facts: there,
    vault,
    organizationId: () => organizationId,
    fetch: async ({ digest }) => drafts.get(digest),
    tell: (kind) => void (kind.$case === 'replayReported' && told.push(kind.value)),
    audit: async (id) => void audited.push(id),
    now: () => nowMs,
    log,
    ...given,
  });
  return { replays, told, audited };
}

function order(draft: object | string) {
  const bytes = Buffer.from(typeof draft === 'string' ? draft : JSON.stringify(draft));
  const digest = policySetDigest(bytes);
  const replayId = Buffer.alloc(16, digest.slice(0, 8));
  return {
    bytes,
    digest,
    command: { replayId, draft: { version: 0, digest }, totalBytes: bytes.length, days: 7 },
  };
}
const draftOf = (set: object, organization = organizationId) => ({
  form: 'keystead.policy-draft.v1',
  organizationId: toId('organization', organization),
  set,
});

test('counts and keyed hashes go up, names stay; the audit has it, and the same command begins nothing anew', async () => {
  journal.note(request('ci', 'db/password'), allowed);
  const { bytes, digest, command } = order(
    draftOf(content('forbid(principal, action, resource);')),
  );
  const { replays, told, audited } = open(new Map([[digest, bytes]]));
  expect(replays.carryOut(command)).toBe(CommandOutcome.DONE);
  expect(replays.carryOut(command)).toBe(CommandOutcome.DONE);
  await replays.settled();
  expect(told).toHaveLength(1);
  expect(told[0]).toMatchObject({
    replayId: command.replayId,
    outcome: ReplayOutcome.DONE,
    decisions: 1,
    newlyDenied: 1,
  });
  expect(told[0]?.differences).toHaveLength(1);
  expect(told[0]?.differences[0]?.decisionRef).toHaveLength(32);
  expect(JSON.stringify(told)).not.toMatch(/payments|password|"ci"/);
  const id = Buffer.from(command.replayId).toString('hex');
  expect(audited).toEqual([id]);
  expect(replays.results[0]).toMatchObject({
    replayId: id,
    differences: [{ principal: 'api_key:ci', namespace: 'payments', secret: 'db/password' }],
  });
  // Another run of the agent knows it, and says it again: the control plane asks because it did not hear.
  const again = open(new Map());
  expect(again.replays.carryOut(command)).toBe(CommandOutcome.DONE);
  expect(again.told).toEqual(told);
  expect(again.audited).toEqual([]);
});

test('what is no draft of this organization, or not what was signed, is rejected and says so', async () => {
  const good = draftOf(content('permit(principal, action, resource);'));
  for (const draft of [
    { ...good, form: 'keystead.policy-set.v1' },
    draftOf(good.set, newUuid()),
    draftOf(content('permit(principal, action, resource) when { resource.nmae == "x" };')),
    '{"half',
  ]) {
    const { bytes, digest, command } = order(draft);
    const { replays, told } = open(new Map([[digest, bytes]]));
    replays.carryOut(command);
    await replays.settled();
    expect(told).toMatchObject([{ outcome: ReplayOutcome.REJECTED, decisions: 0 }]);
  }
  const { digest, command } = order(good);
  const { replays, told } = open(new Map([[digest, Buffer.from('{"other":"bytes"}')]]));
  replays.carryOut(command);
  await replays.settled();
  expect(told).toMatchObject([{ outcome: ReplayOutcome.REJECTED }]);
});

test('a draft that does not come is asked for again, and an agent that stops leaves nothing half done', async () => {
  const { bytes, digest, command } = order(
    draftOf(content('permit(principal, action, resource);')),
  );
  const drafts = new Map<string, Buffer>();
  const { replays, told } = open(drafts);
  replays.carryOut(command);
  await replays.settled();
  expect(told).toEqual([]);
  drafts.set(digest, bytes);
  replays.carryOut(command);
  await replays.settled();
  expect(told).toMatchObject([{ outcome: ReplayOutcome.DONE }]);
  const other = order(draftOf(content('forbid(principal, action, resource);')));
  const stopped = open(new Map(), { fetch: () => new Promise(() => undefined) });
  stopped.replays.carryOut(other.command);
  await stopped.replays.stop();
  expect(stopped.told).toEqual([]);
  expect(stopped.replays.results.some(({ draft }) => draft === other.digest)).toBe(false);
});
