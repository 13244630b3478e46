import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isAuditHeadSignedBy } from '@keystead/agent-protocol/audit-head';
import {
  AuditHeadSigner,
  Event,
  OperationCounts,
  SecurityNoticeKind,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { newUuid } from '@keystead/contracts/ids';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { fact, freshLogFile, openTrail } from '../audit/audit-log.fixture.ts';
import { AuditSearch } from '../audit/audit-search.ts';
import type { AuditTrail } from '../audit/audit-trail.ts';
import { CommandsLog, commandsLogOf } from '../audit/commands-log.ts';
import { DurableQueue, type EventKind } from '../durable-queue.ts';
import { NameReferences } from './name-references.ts';
import { Upward, type UpwardOptions } from './upward.ts';

const cleanUp: (() => unknown)[] = [];
afterEach(async () => {
  for (const work of cleanUp.splice(0).reverse()) await work();
});

const hourMs = 3_600_000;
const startMs = Date.UTC(2026, 0, 1);

class Clock {
  unixMs = startMs;
  readonly now = () => this.unixMs;
  readonly monotonicNow = () => this.unixMs - startMs + 5;
}

function openQueue(maxEvents = 10_000): DurableQueue {
  const file = join(mkdtempSync(join(tmpdir(), 'keystead-upward-')), 'queue.db');
  const queue = new DurableQueue(
    file,
    { bootId: newUuid(), startedAtUnixMs: startMs, configuration: {} },
    maxEvents,
  );
  cleanUp.push(() => queue.close());
  return queue;
}

function begin(clock: Clock, queue: DurableQueue, options: Partial<UpwardOptions> = {}): Upward {
  return new Upward({
    queue,
    names: new NameReferences(Buffer.alloc(32, 1)),
    sizes: async () => ({ namespaces: 2, secrets: 30, storedBytes: 4_000 }),
    identityKey: () => undefined,
    log: pino({ level: 'silent' }),
    now: clock.now,
    monotonicNow: clock.monotonicNow,
    ...options,
  });
}

async function openAudit(clock: Clock, rotationBytes = 1_000_000): Promise<AuditTrail> {
  const trail = await openTrail(freshLogFile(), {
    now: clock.now,
    monotonicNow: clock.monotonicNow,
    rotationBytes,
  });
  cleanUp.push(() => trail.stop());
  return trail;
}

const settle = () => new Promise((resolve) => setImmediate(resolve));
const kindsOf = (queue: DurableQueue) =>
  queue.after(0, 20_000).map(({ event }) => event.kind as EventKind);
const valuesOf = <C extends EventKind['$case']>(queue: DurableQueue, name: C) =>
  kindsOf(queue)
    .filter((kind): kind is Extract<EventKind, { $case: C }> => kind.$case === name)
    .map(({ value }) => value as Extract<EventKind, { $case: C }>['value']);
const reading = (secret: string) => ({
  action: 'secret.read-value' as const,
  resource: { namespace: 'production', secret },
});

test('usage goes up each five minutes with sizes and without a name', async () => {
  const clock = new Clock();
  const queue = openQueue();
  const upward = begin(clock, queue);
  for (let number = 0; number < 50; number += 1) {
    upward.settled(reading('database/password'), 'done', 3);
  }
  upward.settled(reading('database/password'), 'denied', 1);
  upward.tick();
  clock.unixMs += 5 * 60_000;
  upward.tick();
  await settle();
  const [report] = valuesOf(queue, 'operationCounts');
  expect(report).toMatchObject({
    periodStartUnixMs: startMs,
    periodEndUnixMs: startMs + 300_000,
    namespaces: 2,
    secrets: 30,
    storedBytes: 4_000,
    topSecrets: [
      {
        secretRef: new NameReferences(Buffer.alloc(32, 1)).secret(
          'production',
          'database/password',
        ),
        count: 50,
      },
    ],
  });
  expect(report?.counts.map(({ count }) => count)).toEqual([50, 1]);
  const wire = queue.after(0, 10).map(({ event }) => Buffer.from(Event.encode(event).finish()));
  for (const bytes of wire) {
    expect(bytes.includes('production')).toBe(false);
    expect(bytes.includes('database')).toBe(false);
  }
});

test('what is done after the hour is in the report of that hour, also without a tick in between', async () => {
  const clock = new Clock();
  const queue = openQueue();
  const upward = begin(clock, queue);
  clock.unixMs = startMs + hourMs - 1;
  upward.tick();
  upward.settled(reading('a'), 'done', 1);
  clock.unixMs = startMs + hourMs + 1;
  upward.settled(reading('b'), 'done', 1);
  await upward.stop();
  const reports = valuesOf(queue, 'operationCounts').filter(({ counts }) => counts.length > 0);
  expect(
    reports.map(({ periodStartUnixMs }) => Math.floor((periodStartUnixMs - startMs) / hourMs)),
  ).toEqual([0, 1]);
  for (const { periodStartUnixMs, periodEndUnixMs } of reports) {
    expect(periodEndUnixMs - periodStartUnixMs).toBeLessThanOrEqual(hourMs);
    expect(Math.floor((periodEndUnixMs - 1) / hourMs)).toBeLessThanOrEqual(
      Math.floor(periodStartUnixMs / hourMs),
    );
  }
});

test.each<[string, KeyObject | undefined, AuditHeadSigner]>([
  [
    'the certificate key',
    generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey,
    AuditHeadSigner.CERTIFICATE,
  ],
  ['the audit key', undefined, AuditHeadSigner.AUDIT_KEY],
])('a head goes up signed by %s', async (_name, key, signer) => {
  const clock = new Clock();
  const queue = openQueue();
  const upward = begin(clock, queue, { identityKey: () => key });
  const trail = await openAudit(clock);
  upward.follow(trail);
  for (let minute = 0; minute < 3; minute += 1) {
    await trail.record(fact(minute));
    clock.unixMs += 61_000;
  }
  await trail.record(fact(9));
  await trail.stop();
  await upward.stop();
  const heads = valuesOf(queue, 'auditHead');
  expect(heads.length).toBeGreaterThanOrEqual(3);
  for (const head of heads) {
    expect(head.signer).toBe(signer);
    expect(isAuditHeadSignedBy(head, head.signature, head.signerKey)).toBe(true);
  }
  // The entries since the head before it, and the last head covers the last entry.
  for (const [number, head] of heads.entries()) {
    const before = heads[number - 1];
    if (before !== undefined) {
      expect(head.entriesSincePrevious).toBe(head.sequence - before.sequence);
    }
  }
  expect(heads.at(-1)?.sequence).toBe((trail.sequence ?? 0) - 1);
});

test('that the audit is blocked is told, also when it cannot be written down at first', async () => {
  const clock = new Clock();
  const kept: EventKind[] = [];
  const full = { isFull: true };
  const queue = {
    append: (kind: EventKind) => {
      if (full.isFull) throw new Error('database or disk is full');
      kept.push(kind);
      return true;
    },
    waitingOf: () => 0,
  } as unknown as DurableQueue;
  const upward = begin(clock, queue);
  upward.notice('AUDIT_BLOCKED');
  upward.tick();
  expect(kept).toEqual([]);
  full.isFull = false;
  clock.unixMs += 5_000;
  upward.tick();
  expect(kept).toMatchObject([
    { $case: 'securityNotice', value: { kind: SecurityNoticeKind.AUDIT_BLOCKED } },
  ]);
  full.isFull = true;
  upward.notice('KEY_UNAVAILABLE');
  for (let number = 0; number < 1_000; number += 1) {
    upward.tell({ $case: 'operationCounts', value: OperationCounts.decode(new Uint8Array()) });
  }
  expect(upward.counters.unwritten).toBeGreaterThan(0);
  full.isFull = false;
  kept.length = 0;
  clock.unixMs += 5_000;
  upward.tick();
  expect(kept[0]).toMatchObject({ value: { kind: SecurityNoticeKind.KEY_UNAVAILABLE } });
  full.isFull = true;
  for (let number = 0; number < 1_000; number += 1) {
    upward.notice('GUESSING', { identity: { kind: 'api_key', id: `key_${number}` } });
  }
  expect(upward.counters.unwritten).toBeGreaterThan(0);
});

test('a thousand denials of one identity are two notices, and the count is right', () => {
  const clock = new Clock();
  const queue = openQueue();
  const upward = begin(clock, queue);
  for (let number = 0; number < 1_000; number += 1) {
    upward.notice('MANY_DENIALS', { identity: { kind: 'api_key', id: 'key_1' } });
    clock.unixMs += 10;
    upward.tick();
  }
  clock.unixMs += 60_000;
  upward.tick();
  expect(valuesOf(queue, 'securityNotice').map(({ count }) => count)).toEqual([1, 999]);
});

test('that the master key was replaced is told, whoever did it; that somebody may not is not', () => {
  const queue = openQueue();
  const upward = begin(new Clock(), queue);
  const errand = { action: 'key.rotate' as const, resource: { other: 'master-key' } };
  upward.settled(errand, 'denied', 1);
  expect(valuesOf(queue, 'securityNotice')).toEqual([]);
  upward.settled(errand, 'done', 1);
  expect(valuesOf(queue, 'securityNotice').map(({ kind }) => kind)).toEqual([
    SecurityNoticeKind.MASTER_KEY_ROTATED,
  ]);
});

test('a rotation and a backup go up by references and numbers', () => {
  const clock = new Clock();
  const queue = openQueue();
  const upward = begin(clock, queue);
  upward.rotation({
    id: 'r1',
    namespace: 'production',
    secret: 'database/password',
    outcome: 'gave-up',
    attempt: 5,
    rotator: 'postgresql',
    nextDueMs: startMs + hourMs,
    problem: { step: 'verify', code: 'refused', message: 'no' },
    atMs: startMs,
  });
  upward.backup({
    kind: 'drill',
    outcome: 'succeeded',
    destination: 's3',
    bytes: 10,
    secrets: 2,
    durationMs: 1.5,
    attempt: 1,
  });
  expect(kindsOf(queue)).toMatchObject([
    { $case: 'rotationReported', value: { outcome: 3, attempt: 5, rotator: 4 } },
    { $case: 'backupReported', value: { kind: 4, outcome: 1, destination: 2, durationMs: 2 } },
  ]);
  for (const { event } of queue.after(0, 10)) {
    const bytes = Buffer.from(Event.encode(event).finish());
    expect(bytes.includes('production') || bytes.includes('database')).toBe(false);
  }
});

test('thirty days without a control plane: the queue is bounded, loses no notice, and the audit works', {
  timeout: 120_000,
}, async () => {
  const clock = new Clock();
  const queue = openQueue(10_000);
  const upward = begin(clock, queue);
  const trail = await openAudit(clock);
  upward.follow(trail);
  trail.onFact(upward.recorded);
  const stepMs = process.env.KEYSTEAD_PROVE === 'full' ? 60_000 : 60 * 60_000;
  const days = 30;
  let notices = 0;
  for (let elapsedMs = 0; elapsedMs < days * 24 * hourMs; elapsedMs += stepMs) {
    await trail.record(fact(elapsedMs));
    upward.settled(reading(`secret/${elapsedMs % 7}`), 'done', 2);
    if (elapsedMs % (24 * hourMs) === 0) {
      upward.notice('MANY_DENIALS', { identity: { kind: 'api_key', id: `key_${elapsedMs}` } });
      notices += 1;
    }
    clock.unixMs += stepMs;
    upward.tick();
    await settle();
  }
  await trail.stop();
  await upward.stop();
  expect(queue.refused).toBe(0);
  expect(queue.waiting).toBeLessThan(6_000);
  expect(valuesOf(queue, 'securityNotice')).toHaveLength(notices);
  const reports = valuesOf(queue, 'operationCounts');
  expect(
    reports.reduce((sum, { counts }) => sum + counts.reduce((all, { count }) => all + count, 0), 0),
  ).toBe((days * 24 * hourMs) / stepMs);
  const heads = valuesOf(queue, 'auditHead');
  expect(heads.at(-1)?.sequence).toBe((trail.sequence ?? 0) - 1);
  expect(heads.map(({ sequence }) => sequence)).toEqual(
    heads.map(({ sequence }) => sequence).toSorted((one, other) => one - other),
  );
});

test('the head of the log that commands wrote beside the agent goes up as a chain of its own', async () => {
  const clock = new Clock();
  const queue = openQueue();
  const upward = begin(clock, queue);
  const logFile = freshLogFile();
  const trail = await openTrail(logFile);
  upward.follow(trail);
  await trail.record(fact(1));
  const commands = new CommandsLog({
    logFile,
    onHead: upward.head,
    log: pino({ level: 'silent' }),
  });
  await commands.look();
  for (let run = 0; run < 2; run += 1) {
    const command = await openTrail(commandsLogOf(logFile));
    await command.record(fact(2 + run));
    await command.stop();
    await commands.look();
    await commands.look();
    clock.unixMs += 61_000;
    upward.tick();
  }
  await trail.stop();
  await commands.stop();
  await upward.stop();
  const chains = Map.groupBy(valuesOf(queue, 'auditHead'), ({ chainId }) =>
    Buffer.from(chainId).toString('hex'),
  );
  expect(chains.size).toBe(2);
  const written = await new AuditSearch(commandsLogOf(logFile)).heads({ limit: 10 });
  const told = chains.get(written.items[0]?.chain ?? '') ?? [];
  expect(told.map(({ sequence }) => sequence)).toEqual(
    written.items.map(({ sequence }) => sequence).toReversed(),
  );
});
