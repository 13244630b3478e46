import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  dueScheduled,
  expiredBackups,
  nextScheduled,
  plausibleGapMs,
  problemOfCron,
  retryPauseMs,
} from './backup-schedule.ts';

const at = (text: string) => Date.parse(text);

test('a pattern that is none is named', () => {
  expect(problemOfCron('0 2 * * *')).toBeUndefined();
  for (const pattern of ['', 'x', '61 * * * *', '* * * * * *', '0 0 31 2 *']) {
    expect(problemOfCron(pattern)).toBeTypeOf('string');
  }
});

test('of the times that went by the latest is due, once', () => {
  const daily = '0 2 * * *';
  expect(dueScheduled(daily, at('2027-01-01T00:00Z'), at('2027-01-01T01:59Z'))).toBeUndefined();
  expect(dueScheduled(daily, at('2027-01-01T00:00Z'), at('2027-01-01T02:00Z'))).toBe(
    at('2027-01-01T02:00Z'),
  );
  expect(dueScheduled(daily, at('2027-01-01T00:00Z'), at('2027-01-09T12:00Z'))).toBe(
    at('2027-01-09T02:00Z'),
  );
  expect(dueScheduled(daily, at('2027-01-09T02:00Z'), at('2027-01-09T12:00Z'))).toBeUndefined();
  // A clock that went back.
  expect(dueScheduled(daily, at('2027-01-09T02:00Z'), at('2026-01-09T12:00Z'))).toBeUndefined();
});

test('a pattern of every minute that was missed for months is decided quickly', () => {
  const startedAt = performance.now();
  const due = dueScheduled('* * * * *', at('2026-01-01T00:00Z'), at('2027-01-01T00:00:30Z'));
  expect(due).toBeGreaterThan(at('2026-12-30T00:00Z'));
  expect(due).toBeLessThanOrEqual(at('2027-01-01T00:00Z'));
  expect(performance.now() - startedAt).toBeLessThan(500);
  expect(nextScheduled('* * * * *', at('2027-01-01T00:00:30Z'))).toBe(at('2027-01-01T00:01Z'));
});

test('pauses grow, stay within their bound, and end', () => {
  const pauses = [1, 2, 3, 4].map((attempt) => retryPauseMs(attempt, 1) as number);
  expect(pauses).toEqual([60_000, 240_000, 960_000, 3_600_000]);
  expect(retryPauseMs(5, 1)).toBeUndefined();
  expect(retryPauseMs(1, 0)).toBe(30_000);
});

const day = (index: number) => ({
  createdAt: new Date(at('2027-06-30T02:00Z') - index * 86_400_000).toISOString(),
});
const nowMs = at('2027-06-30T12:00Z');

test('each rule keeps what it says, and together they keep more', () => {
  const daily = Array.from({ length: 400 }, (_, index) => day(index));
  const left = (retention: Parameters<typeof expiredBackups>[1]) =>
    daily.length - expiredBackups(daily, retention, nowMs).length;
  expect(left({})).toBe(400);
  expect(left({ keepLast: 7 })).toBe(7);
  expect(left({ keepDays: 30 })).toBe(30);
  expect(left({ keepDaily: 10 })).toBe(10);
  expect(left({ keepWeekly: 4 })).toBe(4);
  expect(left({ keepMonthly: 12 })).toBe(12);
  // The newest of the day is also that of its week and month.
  expect(left({ keepDaily: 7, keepWeekly: 4, keepMonthly: 12 })).toBeLessThan(7 + 4 + 12);
  expect(left({ keepLast: 0 })).toBe(1);
  expect(left({ keepDays: 0 })).toBe(1);
});

test('the newest is kept whatever the rules, and nothing is both kept and dropped', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.integer({ min: -100_000_000, max: 0 }), { maxLength: 40 }),
      fc.record(
        {
          keepLast: fc.nat(5),
          keepDays: fc.nat(30),
          keepDaily: fc.nat(5),
          keepWeekly: fc.nat(5),
          keepMonthly: fc.nat(5),
        },
        { requiredKeys: [] },
      ),
      (seconds, retention) => {
        const backups = seconds.map((second) => ({
          createdAt: new Date(nowMs + second * 1_000).toISOString(),
        }));
        const expired = expiredBackups(backups, retention, nowMs);
        expect(new Set(expired).size).toBe(expired.length);
        const newest = [...backups].sort((a, b) => (a.createdAt < b.createdAt ? 1 : -1))[0];
        if (newest) expect(expired).not.toContain(newest);
        const kept = backups.length - expired.length;
        if (Object.keys(retention).length > 0) {
          expect(kept).toBeGreaterThanOrEqual(Math.min(backups.length, retention.keepLast ?? 0));
        } else expect(kept).toBe(backups.length);
        // Applied again, nothing more goes.
        const rest = backups.filter((backup) => !expired.includes(backup));
        expect(expiredBackups(rest, retention, nowMs)).toEqual([]);
      },
    ),
  );
});

test('a clock that was wrong costs no backup', () => {
  const daily = Array.from({ length: 5 }, (_, index) => day(index));
  const future = { createdAt: '2037-06-30T02:00:00.000Z' };
  // Made by a clock ten years ahead, found by one that is right.
  expect(expiredBackups([future, ...daily], { keepLast: 5 }, nowMs)).toEqual([]);
  expect(expiredBackups([future, ...daily], { keepLast: 4 }, nowMs)).toEqual([daily[4]]);
  // Just made, by a clock that is ten years ahead now.
  const made = { id: 'made', ...future };
  const gapMs = plausibleGapMs('0 2 * * *', nowMs);
  expect(gapMs).toBe(3 * 86_400_000);
  const stored = [made, ...daily.map((each, index) => ({ id: String(index), ...each }))];
  const clock = { current: 'made', gapMs };
  for (const retention of [{ keepLast: 1 }, { keepDays: 30 }]) {
    expect(expiredBackups(stored, retention, at(future.createdAt), clock)).toEqual([]);
    expect(expiredBackups(stored, retention, at(future.createdAt))).not.toEqual([]);
  }
});

test('after a step of ten years age is counted in days that had backups, for as long as it takes', () => {
  const retention = { keepDays: 30 };
  const gapMs = plausibleGapMs('0 2 * * *', nowMs);
  const jump = Date.parse('2037-07-01T02:00:00.000Z');
  let stored = Array.from({ length: 40 }, (_, index) => ({ id: `old-${index}`, ...day(index) }));
  const keptAfter: number[] = [];
  for (let night = 0; night < 40; night += 1) {
    const atMs = jump + night * 86_400_000;
    stored = [{ id: `new-${night}`, createdAt: new Date(atMs).toISOString() }, ...stored];
    const clock = { current: `new-${night}`, gapMs };
    const gone = new Set(expiredBackups(stored, retention, atMs, clock));
    stored = stored.filter((each) => !gone.has(each));
    keptAfter.push(stored.filter(({ id }) => id.startsWith('old')).length);
  }
  // The step itself removes nothing, each night after it one, and a month later the last.
  expect(keptAfter[0]).toBe(40);
  expect(keptAfter[1]).toBeGreaterThan(25);
  expect(keptAfter[20]).toBeGreaterThan(5);
  expect(keptAfter[39]).toBe(0);
  // And back: what the wrong clock made takes no other's place.
  const right = [{ id: 'right', ...day(0) }, ...stored];
  expect(expiredBackups(right, { keepLast: 1 }, nowMs)).toEqual([]);
});
