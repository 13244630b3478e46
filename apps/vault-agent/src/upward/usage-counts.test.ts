import {
  Operation,
  OperationOutcome,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { limits } from '@keystead/contracts/limits';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LatencyHistogram } from './latency-histogram.ts';
import { NameReferences } from './name-references.ts';
import { NoticePace } from './notice-pace.ts';
import { isHeadDue, usagePeriodEndMs } from './pacing.ts';
import { upwardLimits } from './upward-limits.ts';
import { UsageCounts } from './usage-counts.ts';

const names = new NameReferences(Buffer.alloc(32, 7));
const sizes = { namespaces: 1, secrets: 2, storedBytes: 3 };
const reference = (namespace: string, name: string) => names.secret(namespace, name);

test('percentiles are those of the durations, within a sixteenth', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 2 ** 31 }), { minLength: 1, maxLength: 300 }),
      fc.constantFrom(0.5, 0.95, 0.99, 1),
      (durations, share) => {
        const histogram = new LatencyHistogram();
        for (const duration of durations) histogram.record(duration);
        const sorted = durations.toSorted((one, other) => one - other);
        const exact = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
        const found = histogram.percentile(share);
        expect(found).toBeGreaterThanOrEqual(exact);
        expect(found).toBeLessThanOrEqual(exact * (1 + 1 / 16) + 1);
      },
    ),
  );
});

test('a report counts what was done by operation and outcome', () => {
  const usage = new UsageCounts(1_000);
  for (let number = 0; number < 10; number += 1) {
    usage.count(Operation.SECRET_READ, OperationOutcome.DONE, 2);
  }
  usage.count(Operation.SECRET_READ, OperationOutcome.DENIED, 1);
  const report = usage.report(2_000, sizes, reference);
  expect(report).toMatchObject({ periodStartUnixMs: 1_000, periodEndUnixMs: 2_000, ...sizes });
  expect(report.counts).toEqual([
    { operation: 1, outcome: 1, count: 10, p50Us: 2_047, p95Us: 2_047, p99Us: 2_047 },
    { operation: 1, outcome: 2, count: 1, p50Us: 1_023, p95Us: 1_023, p99Us: 1_023 },
  ]);
});

test('a report is bounded, and loses no count: the rarest are others', () => {
  const usage = new UsageCounts(0);
  let total = 0;
  for (let operation = 1; operation <= 28; operation += 1) {
    for (let outcome = 1; outcome <= 5; outcome += 1) {
      for (let count = 0; count < operation; count += 1) {
        usage.count(operation as Operation, outcome as OperationOutcome, 1);
        total += 1;
      }
    }
  }
  const { counts } = usage.report(1, sizes, reference);
  expect(counts.length).toBeLessThanOrEqual(limits.operationCountsPerEvent);
  expect(counts.reduce((sum, { count }) => sum + count, 0)).toBe(total);
  expect(new Set(counts.map(({ operation, outcome }) => `${operation} ${outcome}`)).size).toBe(
    counts.length,
  );
});

test('the most read secrets are found among a hundred thousand, by their references alone', () => {
  const usage = new UsageCounts(0);
  for (let number = 0; number < 100_000; number += 1) {
    usage.read('production', `rare/${number}`);
    if (number % 20 === 0) usage.read('production', `often/${(number / 20) % 3}`);
  }
  const { topSecrets } = usage.report(1, sizes, reference);
  expect(topSecrets.length).toBeLessThanOrEqual(limits.topSecretsPerEvent);
  const expected = [0, 1, 2].map((number) => names.secret('production', `often/${number}`));
  expect(topSecrets.slice(0, 3).map(({ secretRef }) => secretRef)).toEqual(
    expect.arrayContaining(expected),
  );
  for (const { count } of topSecrets.slice(0, 3)) {
    expect(count).toBeLessThanOrEqual(1_667);
    expect(count).toBeGreaterThanOrEqual(1_667 - 106);
  }
});

test('a reference says nothing without the key, and differs for what differs', () => {
  const others = new NameReferences(Buffer.alloc(32, 8));
  expect(names.secret('a', 'b')).toHaveLength(32);
  expect(names.secret('a', 'b')).toEqual(new NameReferences(Buffer.alloc(32, 7)).secret('a', 'b'));
  const references = [
    names.secret('a', 'b'),
    names.secret('ab', ''),
    names.secret('', 'ab'),
    names.namespace('ab'),
    names.identity('a', 'b'),
    others.secret('a', 'b'),
  ];
  expect(new Set(references.map((each) => each.toString('hex'))).size).toBe(references.length);
});

test('heads go up each minute or thousand entries, at most one a second, and ever rarer unreceipted', () => {
  expect(isHeadDue({ ms: 3_600_000, entries: 0 }, 0)).toBe(false);
  expect(isHeadDue({ ms: 60_000, entries: 1 }, 0)).toBe(true);
  expect(isHeadDue({ ms: 59_999, entries: 999 }, 0)).toBe(false);
  expect(isHeadDue({ ms: 1_000, entries: 1_000 }, 0)).toBe(true);
  expect(isHeadDue({ ms: 999, entries: 100_000 }, 0)).toBe(false);
  expect(isHeadDue({ ms: 60_000, entries: 100_000 }, 600)).toBe(false);
  expect(isHeadDue({ ms: 600_000, entries: 1 }, 600)).toBe(true);
  // Thirty days without a receipt, with ten thousand entries a second.
  let waiting = 0;
  let sinceMs = 0;
  for (let second = 0; second < 30 * 86_400; second += 1) {
    sinceMs += 1_000;
    if (!isHeadDue({ ms: sinceMs, entries: sinceMs * 10 }, waiting)) continue;
    waiting += 1;
    sinceMs = 0;
  }
  expect(waiting).toBeGreaterThan(1_000);
  expect(waiting).toBeLessThan(2_500);
});

test('a period of usage is within one clock hour', () => {
  fc.assert(
    fc.property(fc.nat(), fc.nat({ max: 1_000 }), (startMs, waiting) => {
      const endMs = usagePeriodEndMs(startMs, waiting);
      expect(endMs).toBeGreaterThan(startMs);
      expect(Math.floor((endMs - 1) / 3_600_000)).toBe(Math.floor(startMs / 3_600_000));
    }),
  );
});

test('the same notice is told at once, then with how often it came; many different ones are bounded', () => {
  const pace = new NoticePace<string>();
  expect(pace.count('a', 0)).toBe(1);
  expect(pace.count('a', 1)).toBe(0);
  expect(pace.count('a', 2)).toBe(0);
  expect(pace.count('b', 3)).toBe(1);
  expect(pace.due(59_999)).toEqual([]);
  expect(pace.due(60_000)).toEqual([{ key: 'a', count: 2 }]);
  expect(pace.due(120_000)).toEqual([]);
  expect(pace.count('a', 120_001)).toBe(1);
  for (let number = 0; number < 5_000; number += 1) pace.count(`k${number}`, 200_000);
  expect(pace.due(300_000).length).toBeLessThanOrEqual(upwardLimits.noticesCounted);
});
