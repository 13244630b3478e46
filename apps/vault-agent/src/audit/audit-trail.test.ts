import { spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { isAuditHeadSignedBy } from '@keystead/agent-protocol/audit-head';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { bookkeepingBody, chainLine, operationBody, parseLine } from './audit-entry.ts';
import { closedFiles } from './audit-files.ts';
import { fact, freshLogFile, openTrail, readLog } from './audit-log.fixture.ts';
import { AuditSigner } from './audit-signer.ts';
import {
  AuditBlocked,
  type AuditDisk,
  type AuditHead,
  AuditInUse,
  type AuditNotice,
  type AuditTrail,
  type AuditTrailOptions,
} from './audit-trail.ts';
import { verifyAudit } from './audit-verification.ts';

/** For tests of what comes after the waiting. That the waiting is short enough is tested with the real ones. */
const quick = { blockedAfterMs: 300, probeMs: 50, headsApartMs: 20 };

const open: AuditTrail[] = [];
afterEach(async () => {
  for (const trail of open.splice(0)) await trail.stop();
});

async function begin(
  logFile: string,
  options: Partial<AuditTrailOptions> = {},
): Promise<AuditTrail> {
  const trail = await openTrail(logFile, options);
  open.push(trail);
  return trail;
}

async function until(holds: () => boolean, withinMs = 30_000): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!holds()) {
    if (performance.now() > endMs) throw new Error('it did not come to pass in time');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const operations = (logFile: string) =>
  [...readLog(logFile).values()]
    .flat()
    .map((line) => parseLine(line))
    .filter((line) => line?.type === 'operation');
const requestIds = (logFile: string) => operations(logFile).map(({ requestId }) => requestId);

/** How long it took until the entry was refused. */
async function refusedAfterMs(trail: AuditTrail): Promise<number> {
  const startMs = performance.now();
  await expect(trail.record(fact(0))).rejects.toThrow(AuditBlocked);
  return performance.now() - startMs;
}

test('an entry is on the disk when it is acknowledged, with who, what, when, where and result', async () => {
  const logFile = freshLogFile();
  const trail = await begin(logFile, { now: () => Date.UTC(2026, 0, 2, 3, 4, 5, 678) });
  await trail.record(
    fact(1, {
      phase: 'outcome',
      result: 'denied',
      code: 'permission_denied',
      context: { network: '10.0.0.0/8', attempts: 3 },
    }),
  );
  const [entry] = operations(logFile);
  expect(entry).toEqual({
    sequence: 2,
    at: '2026-01-02T03:04:05.678Z',
    type: 'operation',
    requestId: 'req-1',
    identity: { kind: 'api_key', id: 'key_1', name: 'robot 1' },
    address: '127.0.0.1',
    action: 'secret.read-value',
    operation: 'secrets.read-value',
    namespace: 'production',
    secret: 'database/1',
    phase: 'outcome',
    result: 'denied',
    code: 'permission_denied',
    decidedBy: ['role reader'],
    context: { network: '10.0.0.0/8', attempts: 3 },
    hash: expect.stringMatching(/^[0-9a-f]{64}$/),
  });
});

test('whatever stands in an entry, its line says the same', () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary-ascii', maxLength: 40 }),
    fc.string({ unit: 'grapheme', maxLength: 40 }),
    fc.constant('\ud800 alone'),
  );
  const time = fc.integer({ min: 0, max: 8.64e15 });
  fc.assert(
    fc.property(text, text, text, fc.option(text), time, (id, name, secret, context, atMs) => {
      const identity = Object.freeze({ kind: 'jwt' as const, id, name });
      const told = fact(1, {
        requestId: name,
        identity,
        address: secret,
        resource: { secret, other: id },
        decidedBy: [id, name],
        context: context === null ? undefined : { [context]: context },
      });
      const line = JSON.stringify({
        at: new Date(atMs).toISOString(),
        type: 'operation',
        requestId: name,
        identity,
        address: secret,
        action: told.action,
        operation: told.operation,
        secret,
        other: id,
        phase: 'outcome',
        result: 'done',
        decidedBy: [id, name],
        ...(context === null ? {} : { context: { [context]: context } }),
      });
      expect(operationBody(told, atMs)).toBe(line);
      // Once more of one who is known.
      expect(operationBody(told, atMs)).toBe(line);
    }),
    { numRuns: 50 },
  );
});

test('half of a crowd is waited for as it comes, and who comes alone waits for nobody', async () => {
  const trail = await begin(freshLogFile(), {
    disk: { write: writeNow },
    timings: { gatherMs: 60_000 },
  });
  const { counters } = trail;
  await Promise.all(Array.from({ length: 40 }, (_, number) => trail.record(fact(number))));
  const before = counters.commits;
  const recorded: Promise<void>[] = [];
  for (let number = 0; number < 20; number += 1) {
    recorded.push(trail.record(fact(number)));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await Promise.all(recorded);
  expect(counters.commits - before).toBeLessThanOrEqual(3);
  const alone = counters.commits;
  for (let number = 0; number < 20; number += 1) await trail.record(fact(number));
  expect(counters.commits - alone).toBeGreaterThanOrEqual(20);
});

test('entries that wait together share a sync and keep the order of their calls', async () => {
  const logFile = freshLogFile();
  const trail = await begin(logFile);
  await Promise.all(Array.from({ length: 500 }, (_, number) => trail.record(fact(number))));
  expect(trail.counters.commits).toBeLessThan(20);
  expect(requestIds(logFile)).toEqual(Array.from({ length: 500 }, (_, number) => `req-${number}`));
});

test('the chain goes on over a restart, and verifies', async () => {
  const logFile = freshLogFile();
  for (let run = 0; run < 3; run += 1) {
    const trail = await openTrail(logFile);
    await trail.record(fact(run));
    await trail.stop();
  }
  const verified = await verifyAudit(logFile);
  expect(verified).toMatchObject({ ok: true, heads: 3, entries: 7, lastSequence: 7, files: 1 });
});

test('files and key are for their owner alone', async () => {
  const logFile = freshLogFile();
  await begin(logFile);
  for (const file of [logFile, `${logFile}.key`]) expect(statSync(file).mode & 0o077).toBe(0);
});

test('one process at a time, and no lock stays behind', async () => {
  const logFile = freshLogFile();
  const trail = await openTrail(logFile);
  await expect(openTrail(logFile)).rejects.toThrow(AuditInUse);
  void trail.record(fact(0)).catch(() => undefined);
  void trail.stop();
  // Whoever stops it a second time waits as long.
  await trail.stop();
  await begin(logFile);
});

test('a text of an entry is bounded, and no text breaks a line', async () => {
  const logFile = freshLogFile();
  const trail = await begin(logFile);
  const nasty = `a\n"},"hash":"${'0'.repeat(64)}"}\n\u0000\ud800${'\u0001'.repeat(100_000)}`;
  await trail.record(
    fact(1, {
      requestId: nasty,
      identity: { kind: 'anonymous', id: nasty, name: nasty },
      address: nasty,
      operation: nasty,
      resource: { namespace: nasty, secret: nasty, other: nasty },
      decidedBy: Array.from({ length: 100 }, () => nasty),
      context: Object.fromEntries(Array.from({ length: 100 }, (_, n) => [`${n}${nasty}`, nasty])),
    }),
  );
  await trail.record(fact(2));
  expect(requestIds(logFile)).toHaveLength(2);
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
});

test('a full file is closed and the chain goes on in the next', async () => {
  const logFile = freshLogFile();
  const trail = await begin(logFile, { rotationBytes: 4_000 });
  for (let number = 0; number < 40; number += 1) await trail.record(fact(number));
  const files = readLog(logFile);
  expect(files.size).toBeGreaterThan(3);
  expect(requestIds(logFile)).toEqual(Array.from({ length: 40 }, (_, number) => `req-${number}`));
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true, files: files.size });
});

test('what is older than the retention is removed, and the rest verifies', async () => {
  const logFile = freshLogFile();
  const clock = { nowMs: Date.UTC(2026, 0, 1) };
  const options = {
    rotationBytes: 4_000,
    retentionDays: 30,
    now: () => clock.nowMs,
    monotonicNow: () => clock.nowMs,
  };
  const trail = await begin(logFile, options);
  for (let day = 0; day < 60; day += 1) {
    clock.nowMs += 86_400_000;
    for (let number = 0; number < 3; number += 1) await trail.record(fact(number));
    await trail.retire();
  }
  const kept = operations(logFile).map(({ at }) => Date.parse(at));
  const oldestDays = (clock.nowMs - Math.min(...kept)) / 86_400_000;
  expect(oldestDays).toBeGreaterThanOrEqual(30);
  expect(oldestDays).toBeLessThan(36);
  const verified = await verifyAudit(logFile);
  expect(verified).toMatchObject({ ok: true });
  expect(verified.firstSequence).toBeGreaterThan(50);
  // The same files gone without a word are found.
  const [oldest] = await closedFiles(logFile);
  rmSync(oldest?.path ?? '');
  expect((await verifyAudit(logFile)).problem).toMatchObject({
    kind: 'missing_entries',
    sequence: verified.firstSequence,
  });
});

test('what is not old enough, or is let go by who has not the key, is not accepted as retired', async () => {
  const logFile = freshLogFile();
  const trail = await openTrail(logFile, { rotationBytes: 3_000 });
  for (let number = 0; number < 30; number += 1) await trail.record(fact(number));
  await trail.stop();
  const [forgotten] = await closedFiles(logFile);
  const first = parseLine(
    readFileSync((await closedFiles(logFile))[1]?.path ?? '')
      .toString()
      .split('\n')[0] ?? '',
  );
  if (forgotten === undefined || first?.type !== 'file') throw new Error('nothing was closed');
  const key = AuditSigner.atFile(`${logFile}.key`);
  const own = new AuditSigner(generateKeyPairSync('ed25519').privateKey);
  const facts = {
    through: first.sequence - 1,
    lastHash: first.previous,
    before: first.at,
    retentionDays: 30,
  };
  const whole = readFileSync(logFile, 'utf8');
  const last = parseLine(whole.trim().split('\n').at(-1) ?? '');
  rmSync(forgotten.path);
  const months = 40 * 86_400_000;
  for (const [at, signer, problem] of [
    [Date.now() + months, own, 'wrong_retirement'],
    [Date.now(), key, 'wrong_retirement'],
    // In order, and no head covers it.
    [Date.now() + months, key, 'missing_entries'],
  ] as const) {
    const signature = signer.signRetirement({ chain: first.chain, ...facts }).toString('base64');
    const { line } = chainLine(
      bookkeepingBody('retired', at, { ...facts, signature }),
      (last?.sequence ?? 0) + 1,
      last?.hash ?? '',
    );
    writeFileSync(logFile, whole + line);
    expect((await verifyAudit(logFile)).problem).toMatchObject({
      kind: problem,
      sequence: problem === 'missing_entries' ? 1 : (last?.sequence ?? 0) + 1,
    });
  }
  // The next run signs a head over it: then it is.
  const later = await openTrail(logFile);
  await later.record(fact(31));
  await later.stop();
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true, firstSequence: first.sequence });
});

test('a clock that jumped ten years ahead does not wipe the history', async () => {
  const logFile = freshLogFile();
  const clock = { nowMs: Date.UTC(2026, 0, 1) };
  const trail = await begin(logFile, { rotationBytes: 2_000, now: () => clock.nowMs });
  for (let number = 0; number < 20; number += 1) await trail.record(fact(number));
  clock.nowMs += 10 * 365 * 86_400_000;
  await trail.record(fact(20));
  expect(await trail.retire()).toBe(0);
  expect(requestIds(logFile)).toHaveLength(21);
});

test('a head is signed each thousand entries, each minute and at the end', async () => {
  const logFile = freshLogFile();
  const clock = { monotonicMs: 0 };
  const trail = await openTrail(logFile, { monotonicNow: () => clock.monotonicMs });
  const heads: AuditHead[] = [];
  trail.onHead((head) => heads.push(head));
  await trail.record(fact(1));
  await until(() => heads.length === 1);
  const many = () =>
    Promise.all(Array.from({ length: 1_000 }, (_, number) => trail.record(fact(number))));
  clock.monotonicMs += 2_000;
  await many();
  await until(() => heads.length === 2);
  await trail.record(fact(2));
  clock.monotonicMs += 61_000;
  await trail.record(fact(3));
  await until(() => heads.length === 3);
  await trail.record(fact(4));
  await trail.stop();
  expect(heads).toHaveLength(4);
  for (const head of heads) {
    expect(isAuditHeadSignedBy(head, head.signature, head.signerKey)).toBe(true);
  }
  expect(
    await verifyAudit(logFile, {
      trustedHeads: heads.map(({ chainId, sequence, hash }) => ({
        chain: chainId.toString('hex'),
        sequence,
        hash: hash.toString('hex'),
      })),
    }),
  ).toMatchObject({ ok: true, trustedHeads: { given: 4, confirmed: 4 } });
});

test('without new entries there are no new heads', async () => {
  const logFile = freshLogFile();
  const clock = { monotonicMs: 0 };
  const trail = await openTrail(logFile, {
    monotonicNow: () => clock.monotonicMs,
    timings: quick,
  });
  const heads: AuditHead[] = [];
  trail.onHead((head) => heads.push(head));
  await trail.record(fact(1));
  await until(() => heads.length === 1);
  const { size } = statSync(logFile);
  clock.monotonicMs += 3_600_000;
  await new Promise((resolve) => setTimeout(resolve, 200));
  await trail.stop();
  expect(heads).toHaveLength(1);
  expect(statSync(logFile).size).toBe(size);
});

const writeNow: AuditDisk['write'] = async (descriptor, bytes, position) =>
  writeSync(descriptor, bytes, 0, bytes.length, position);

test.each([
  ['never answers', {}, 60_000],
  ['answers late', { timings: quick }, 600],
] as const)(
  'a disk that %s: refused within two seconds, then at once, and written again when it is well',
  async (name, options, lateMs) => {
    const logFile = freshLogFile();
    const slow = { isSlow: false };
    const sync: AuditDisk['sync'] = async () => {
      if (!slow.isSlow) return;
      if (name === 'never answers') await until(() => !slow.isSlow, lateMs);
      else await new Promise((resolve) => setTimeout(resolve, lateMs));
    };
    const trail = await begin(logFile, { ...options, disk: { write: writeNow, sync } });
    const notices: AuditNotice[] = [];
    trail.onNotice((notice) => notices.push(notice));
    await trail.record(fact(1));
    slow.isSlow = true;
    expect(await refusedAfterMs(trail)).toBeLessThan(2_000);
    expect(await refusedAfterMs(trail)).toBeLessThan(100);
    expect(trail.blocked).toBeDefined();
    slow.isSlow = false;
    await until(() => trail.blocked === undefined, 7_000);
    await trail.record(fact(2));
    expect(requestIds(logFile)).toContain('req-2');
    expect(notices.map(({ kind }) => kind)).toEqual(['blocked', 'resumed']);
    const told = readFileSync(logFile, 'utf8').match(/"type":"resumed".*?"refused":\d+/g);
    expect(told).toEqual([expect.stringMatching(/"refused":2$/)]);
    expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
  },
);

test('a disk that is merely slow delays, and refuses nothing', async () => {
  const logFile = freshLogFile();
  const trail = await begin(logFile, {
    disk: {
      write: writeNow,
      sync: () => new Promise((resolve) => setTimeout(resolve, 100)),
    },
    timings: quick,
  });
  await Promise.all(Array.from({ length: 50 }, (_, number) => trail.record(fact(number))));
  expect(trail.counters.refused).toBe(0);
});

test('a folder that goes missing blocks, and what comes back is gone on with', async () => {
  const logFile = freshLogFile();
  const folder = dirname(logFile);
  const trail = await begin(logFile, { timings: quick });
  await trail.record(fact(1));
  renameSync(folder, `${folder}-away`);
  expect(await refusedAfterMs(trail)).toBeLessThan(2_000);
  expect(await refusedAfterMs(trail)).toBeLessThan(2_000);
  expect(existsSync(folder)).toBe(false);
  renameSync(`${folder}-away`, folder);
  await until(() => trail.blocked === undefined);
  await trail.record(fact(2));
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
  expect(requestIds(logFile)).toEqual(expect.arrayContaining(['req-1', 'req-2']));
});

test('a log that is deleted under the agent is told, gone on with, and found by verifying', async () => {
  const logFile = freshLogFile();
  const trail = await begin(logFile, { timings: quick });
  await trail.record(fact(1));
  await trail.record(fact(2));
  rmSync(logFile);
  await refusedAfterMs(trail);
  await until(() => trail.blocked === undefined);
  await trail.record(fact(3));
  const { problem } = await verifyAudit(logFile);
  expect(problem).toMatchObject({ kind: 'missing_entries', sequence: 1 });
});

test('a log that is replaced under the agent is not written past: what is there is gone on with', async () => {
  const logFile = freshLogFile();
  const trail = await begin(logFile, { timings: quick });
  await trail.record(fact(1));
  copyFileSync(logFile, `${logFile}.copy`);
  renameSync(`${logFile}.copy`, logFile);
  await refusedAfterMs(trail);
  await until(() => trail.blocked === undefined);
  await trail.record(fact(2));
  expect(requestIds(logFile)).toEqual(['req-1', 'req-2']);
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
});

test.each([
  ['a FIFO', (logFile: string) => makeFifo(logFile)],
  ['a folder', (logFile: string) => mkdirSync(logFile)],
])('%s in the place of the log blocks from the start, without hanging', async (_name, make) => {
  const logFile = freshLogFile();
  await make(logFile);
  const trail = await begin(logFile, { timings: quick });
  expect(trail.blocked).toBeDefined();
  expect(await refusedAfterMs(trail)).toBeLessThan(2_000);
  rmSync(logFile, { recursive: true });
  await until(() => trail.blocked === undefined);
  await trail.record(fact(1));
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true });
});

async function makeFifo(path: string): Promise<void> {
  const made = spawn('mkfifo', [path]);
  await new Promise((resolve) => made.once('close', resolve));
}

test('a line that a crash left unfinished is cut off, said, and no tampering', async () => {
  const logFile = freshLogFile();
  const trail = await openTrail(logFile);
  await trail.record(fact(1));
  await trail.stop();
  appendFileSync(logFile, '{"sequence":4,"at":"2026-01-01T00:00:00.000Z","type":"opera');
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true, tornBytes: 59, mended: 0 });
  const later = await begin(logFile);
  await later.record(fact(2));
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true, tornBytes: 0, mended: 1 });
  expect(requestIds(logFile)).toEqual(['req-1', 'req-2']);
});

test.each([0, 1, 40])(
  'a crash at the birth of a file, after %d bytes, is mended',
  async (bytes) => {
    const logFile = freshLogFile();
    const trail = await openTrail(logFile, { rotationBytes: 1_000 });
    for (let number = 0; number < 9; number += 1) await trail.record(fact(number));
    await trail.stop();
    const before = await verifyAudit(logFile);
    const current = readFileSync(logFile);
    const last = parseLine(current.subarray(0, current.indexOf(10)));
    renameSync(logFile, `${logFile}.${String(last?.sequence).padStart(12, '0')}`);
    writeFileSync(logFile, current.subarray(0, bytes));
    const later = await openTrail(logFile, { rotationBytes: 1_000 });
    await later.record(fact(9));
    await later.stop();
    const after = await verifyAudit(logFile);
    expect(after).toMatchObject({ ok: true, chain: before.chain });
    expect(after.lastSequence).toBeGreaterThan(before.lastSequence);
  },
);

test('damage that no crash leaves is told and stays where it is, for the verification to name', async () => {
  const logFile = freshLogFile();
  const trail = await openTrail(logFile);
  for (let number = 0; number < 9; number += 1) await trail.record(fact(number));
  await trail.stop();
  const text = readFileSync(logFile, 'utf8').replace('database/5', 'database/6');
  writeFileSync(logFile, text);
  const later = await begin(logFile);
  await later.record(fact(10));
  expect((await verifyAudit(logFile)).problem).toMatchObject({ kind: 'wrong_hash', sequence: 8 });
});

test('a file of something else is put aside, and the verification says so', async () => {
  const logFile = freshLogFile();
  writeFileSync(logFile, 'x'.repeat(500_000));
  const trail = await begin(logFile);
  await trail.record(fact(1));
  expect((await verifyAudit(logFile)).problem).toMatchObject({ kind: 'damaged_file' });
});

test('another key than that of the log is found, also when it comes with a file of its own', async () => {
  const logFile = freshLogFile();
  const trail = await openTrail(logFile);
  await trail.record(fact(1));
  await trail.stop();
  rmSync(`${logFile}.key`);
  const later = await begin(logFile);
  await later.record(fact(2));
  expect((await verifyAudit(logFile)).problem).toMatchObject({ kind: 'other_signer' });
});

test('entries cut off while the agent was away are found by the heads that were kept', async () => {
  const logFile = freshLogFile();
  const heads: AuditHead[] = [];
  const trail = await openTrail(logFile);
  trail.onHead((head) => heads.push(head));
  for (let number = 0; number < 5; number += 1) await trail.record(fact(number));
  await trail.stop();
  truncateSync(logFile, readFileSync(logFile, 'utf8').indexOf('"req-3"'));
  const later = await begin(logFile);
  for (let number = 0; number < 9; number += 1) await later.record(fact(number));
  expect(await verifyAudit(logFile)).toMatchObject({ ok: true, mended: 1 });
  const trustedHeads = heads.map(({ chainId, sequence, hash }) => ({
    chain: chainId.toString('hex'),
    sequence,
    hash: hash.toString('hex'),
  }));
  expect((await verifyAudit(logFile, { trustedHeads })).problem?.kind).toBe('wrong_head');
});
