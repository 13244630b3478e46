import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TrustedHead } from '@keystead/contracts/agent-api/audit';
import fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import { parseLine } from './audit-entry.ts';
import { fact, freshLogFile, openTrail, readLog, rechain, writeLog } from './audit-log.fixture.ts';
import type { AuditHead } from './audit-trail.ts';
import { verifyAudit } from './audit-verification.ts';

type Log = Map<string, string[]>;

const entriesOf = (log: Log) => [...log.values()].flat();
const copyOf = (log: Log): Log => new Map([...log].map(([name, lines]) => [name, [...lines]]));
const runs = process.env.KEYSTEAD_PROVE === 'full' ? 2_000 : 60;

let original: Log;
let trustedHeads: TrustedHead[];
/** Of each entry, in order: the file and the place in it. */
let places: [string, number][];

beforeAll(async () => {
  const logFile = freshLogFile();
  const heads: AuditHead[] = [];
  for (let run = 0; run < 4; run += 1) {
    const trail = await openTrail(logFile, { rotationBytes: 3_000 });
    trail.onHead((head) => heads.push(head));
    for (let number = 0; number < 8; number += 1) await trail.record(fact(run * 10 + number));
    await trail.stop();
  }
  original = readLog(logFile);
  trustedHeads = heads.map(({ chainId, sequence, hash }) => ({
    chain: chainId.toString('hex'),
    sequence,
    hash: hash.toString('hex'),
  }));
  places = [...original].flatMap(([name, lines]) =>
    lines.map((_, index): [string, number] => [name, index]),
  );
});

async function verify(log: Log, heads: TrustedHead[] = []) {
  const logFile = freshLogFile();
  writeLog(logFile, log);
  try {
    return await verifyAudit(logFile, { trustedHeads: heads });
  } finally {
    rmSync(join(logFile, '..'), { recursive: true });
  }
}

test('what was written verifies, alone and with the heads that were kept', async () => {
  expect(original.size).toBeGreaterThan(4);
  const verified = await verify(original, trustedHeads);
  expect(verified).toMatchObject({
    ok: true,
    problem: null,
    entries: places.length,
    firstSequence: 1,
    lastSequence: places.length,
    trustedHeads: { given: trustedHeads.length, confirmed: trustedHeads.length },
  });
});

test('two lines of shell can verify an entry', async () => {
  const { hash } = await import('node:crypto');
  const [first = '', second = ''] = entriesOf(original);
  const previous = parseLine(first)?.hash;
  const open = second.slice(0, second.lastIndexOf(',"hash"'));
  expect(hash('sha256', `${previous}${open}`, 'hex')).toBe(parseLine(second)?.hash);
});

// The very last line is the last head itself, which no head covers.
const anEntry = fc.nat().map((number) => number % (places.length - 1));

test('whatever byte of an entry is changed, that entry is named', async () => {
  await fc.assert(
    fc.asyncProperty(anEntry, fc.nat(), fc.integer({ min: 1, max: 255 }), async (n, at, xor) => {
      const log = copyOf(original);
      const [name, index] = places[n] as [string, number];
      const line = Buffer.from(log.get(name)?.[index] ?? '');
      const byte = at % line.length;
      line[byte] = (line[byte] ?? 0) ^ xor;
      const logFile = freshLogFile();
      writeLog(logFile, log);
      const file = join(logFile, '..', name);
      const bytes = readFileSync(file);
      const offset = (log.get(name) ?? [])
        .slice(0, index)
        .reduce((sum, earlier) => sum + Buffer.byteLength(earlier) + 1, 0);
      line.copy(bytes, offset);
      writeFileSync(file, bytes);
      const { ok, problem } = await verifyAudit(logFile);
      expect(ok).toBe(false);
      expect(problem?.sequence).toBe(n + 1);
      rmSync(join(logFile, '..'), { recursive: true });
    }),
    { numRuns: runs },
  );
});

test('whatever entry is removed, the place is named; the last are missed by the heads', async () => {
  await fc.assert(
    fc.asyncProperty(anEntry, fc.integer({ min: 1, max: 10 }), async (n, count) => {
      const log = copyOf(original);
      const removed = new Map<string, number[]>();
      for (const [name, index] of places.slice(n, n + count)) {
        removed.set(name, [...(removed.get(name) ?? []), index]);
      }
      for (const [name, indexes] of removed) {
        const left = (log.get(name) ?? []).filter((_, index) => !indexes.includes(index));
        if (left.length === 0) log.delete(name);
        else log.set(name, left);
      }
      const { problem } = await verify(log, trustedHeads);
      expect(problem?.sequence).toBe(
        n === 0 && !log.has([...original.keys()][0] ?? '') ? 1 : n + 1,
      );
    }),
    { numRuns: runs },
  );
});

test('entries that changed places or came twice are named', async () => {
  await fc.assert(
    fc.asyncProperty(anEntry, anEntry, fc.boolean(), async (one, other, twice) => {
      fc.pre(one !== other);
      const log = copyOf(original);
      const [first, second] = [Math.min(one, other), Math.max(one, other)];
      const [firstName, firstIndex] = places[first] as [string, number];
      const [secondName, secondIndex] = places[second] as [string, number];
      const firstLine = log.get(firstName)?.[firstIndex] ?? '';
      const secondLine = log.get(secondName)?.[secondIndex] ?? '';
      if (twice) log.get(firstName)?.splice(firstIndex, 0, secondLine);
      else {
        (log.get(firstName) ?? [])[firstIndex] = secondLine;
        (log.get(secondName) ?? [])[secondIndex] = firstLine;
      }
      const { problem } = await verify(log);
      expect(problem?.sequence).toBe(first + 1);
    }),
    { numRuns: runs },
  );
});

test('a log that was cut off anywhere is found by the heads that were kept', async () => {
  await fc.assert(
    fc.asyncProperty(anEntry, fc.nat(), async (n, at) => {
      fc.pre(n > 0);
      const log = copyOf(original);
      const [name, index] = places[n] as [string, number];
      const names = [...log.keys()];
      for (const later of names.slice(names.indexOf(name) + 1)) log.delete(later);
      const lines = log.get(name) ?? [];
      const cut = lines[index] ?? '';
      log.delete(name);
      if (index > 0) log.set('audit.log', lines.slice(0, index));
      const logFile = freshLogFile();
      writeLog(logFile, log);
      // Cut inside the line, which looks like a crash.
      const torn = at % 2 === 0 && index > 0 ? cut.slice(0, at % cut.length) : '';
      if (torn !== '') writeFileSync(join(logFile, '..', 'audit.log'), torn, { flag: 'a' });
      expect(await verifyAudit(logFile)).toMatchObject({ tornBytes: torn.length });
      const { problem } = await verifyAudit(logFile, { trustedHeads });
      expect(problem).toMatchObject({ kind: 'missing_entries', sequence: n + 1 });
      rmSync(join(logFile, '..'), { recursive: true });
    }),
    { numRuns: runs },
  );
});

test('an entry that was rewritten and chained anew is found by the next head in the log', async () => {
  await fc.assert(
    fc.asyncProperty(anEntry, async (n) => {
      const log = copyOf(original);
      const [name, index] = places[n] as [string, number];
      const line = log.get(name)?.[index] ?? '';
      fc.pre(line.includes('"type":"operation"'));
      (log.get(name) ?? [])[index] = line.replace('"result":"done"', '"result":"denied"');
      const { problem } = await verify(rechain(log));
      const head = entriesOf(log).findIndex(
        (later, place) => place > n && later.includes('"type":"head"'),
      );
      expect(problem).toMatchObject({ kind: 'wrong_head', sequence: head + 1 });
    }),
    { numRuns: runs },
  );
});

test('a log that was rewritten without its heads chains well, and is found by the heads that were kept', async () => {
  await fc.assert(
    fc.asyncProperty(anEntry, async (n) => {
      const log = copyOf(original);
      const [name, index] = places[n] as [string, number];
      const line = log.get(name)?.[index] ?? '';
      fc.pre(line.includes('"type":"operation"'));
      (log.get(name) ?? [])[index] = line.replace('"result":"done"', '"result":"denied"');
      for (const [file, lines] of log) {
        log.set(
          file,
          lines.filter((each) => !each.includes('"type":"head"')),
        );
      }
      const rewritten = rechain(log);
      // The names tell the first entry.
      const renamed: Log = new Map(
        [...rewritten.values()].map((lines, place) => [
          place === rewritten.size - 1
            ? 'audit.log'
            : `audit.log.${String(parseLine(lines[0] ?? '')?.sequence).padStart(12, '0')}`,
          lines,
        ]),
      );
      expect(await verify(renamed)).toMatchObject({ ok: true, heads: 0 });
      const { problem } = await verify(renamed, trustedHeads);
      expect(problem?.kind).toMatch(/wrong_head|missing_entries/);
    }),
    { numRuns: runs },
  );
});

test('a new log in the place of the old one is found by the heads that were kept', async () => {
  const logFile = freshLogFile();
  const trail = await openTrail(logFile);
  for (let number = 0; number < 60; number += 1) await trail.record(fact(number));
  await trail.stop();
  const { problem } = await verifyAudit(logFile, { trustedHeads });
  expect(problem).toMatchObject({ kind: 'other_chain' });
});

test('a file that is missing in the middle, at the beginning or at the end is found', async () => {
  for (const [number, name] of [...original.keys()].entries()) {
    const log = copyOf(original);
    const first = parseLine(log.get(name)?.[0] ?? '')?.sequence;
    log.delete(name);
    const { problem } = await verify(log, trustedHeads);
    expect(problem).toMatchObject({
      kind: 'missing_entries',
      sequence: number === 0 ? 1 : first,
    });
  }
});

test('whatever stands in the files, verifying answers', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 2_000 }), fc.nat(), async (noise, at) => {
      const logFile = freshLogFile();
      writeLog(logFile, original);
      const file = join(logFile, '..', 'audit.log');
      const bytes = readFileSync(file);
      const place = at % bytes.length;
      writeFileSync(
        file,
        Buffer.concat([bytes.subarray(0, place), Buffer.from(noise), bytes.subarray(place)]),
      );
      const verified = await verifyAudit(logFile, { trustedHeads });
      expect(verified.ok).toBe(noise.length === 0);
      rmSync(join(logFile, '..'), { recursive: true });
    }),
    { numRuns: runs },
  );
});
