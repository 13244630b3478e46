import { rotationPolicy } from '@keystead/contracts/agent-api/rotation';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  afterFailure,
  mendedTimes,
  nextDue,
  problemOfSchedule,
  retryDelayMs,
  wakeAtMs,
} from './rotation-schedule.ts';

const policy = (given: object) =>
  rotationPolicy.parse({ rotator: { kind: 'generated' }, ...given });
const at = (text: string) => Date.parse(text);

test('of interval and schedule the one that comes first counts', () => {
  const last = at('2026-03-02T00:00:00Z');
  expect(nextDue(policy({}), last)).toBeUndefined();
  expect(nextDue(policy({ everySeconds: 86_400 }), last)).toEqual({
    atMs: at('2026-03-03T00:00:00Z'),
    trigger: 'interval',
  });
  const sundays = { schedule: { cron: '0 3 * * SUN', timezone: 'UTC' } };
  expect(nextDue(policy(sundays), last)).toEqual({
    atMs: at('2026-03-08T03:00:00Z'),
    trigger: 'schedule',
  });
  expect(nextDue(policy({ ...sundays, everySeconds: 86_400 }), last)?.trigger).toBe('interval');
  expect(nextDue(policy({ ...sundays, everySeconds: 8 * 86_400 }), last)?.trigger).toBe('schedule');
});

test('a schedule follows its timezone, also through the change of clocks', () => {
  const nights = { schedule: { cron: '30 2 * * *', timezone: 'Europe/Berlin' } };
  // On 2026-03-29 there is no 02:30 in Berlin.
  const due = nextDue(policy(nights), at('2026-03-28T12:00:00Z'))?.atMs ?? 0;
  expect(due).toBeGreaterThanOrEqual(at('2026-03-29T01:00:00Z'));
  expect(due).toBeLessThanOrEqual(at('2026-03-30T00:30:00Z'));
  expect(nextDue(policy(nights), at('2026-06-01T12:00:00Z'))?.atMs).toBe(
    at('2026-06-02T00:30:00Z'),
  );
});

test('a schedule that is wrong says what', () => {
  const problem = (cron: string, timezone = 'UTC') => problemOfSchedule({ cron, timezone });
  expect(problem('0 3 * * *')).toBeUndefined();
  expect(problem('0 3 * *')).toMatch(/five parts/);
  expect(problem('* * * * * *')).toMatch(/five parts/);
  expect(problem('0 3 31 2 *')).toMatch(/never/);
  expect(problem('0 3 * * *', 'Mars/Olympus')).toMatch(/timezone/);
  expect(problemOfSchedule(null)).toBeUndefined();
});

test('delays double up to their bound, never vanish and never exceed it', () => {
  const retry = { firstDelaySeconds: 30, longestDelaySeconds: 600 };
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 100 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (failures, random) => {
        const delay = retryDelayMs(retry, failures, random);
        expect(delay).toBeGreaterThanOrEqual(15_000);
        expect(delay).toBeLessThanOrEqual(600_000);
        expect(retryDelayMs(retry, failures + 1, random)).toBeGreaterThanOrEqual(delay);
      },
    ),
  );
  expect(retryDelayMs(retry, 3, 1)).toBe(120_000);
});

test('the last attempt is the last', () => {
  const { retry } = policy({ retry: { attempts: 3 } });
  expect(afterFailure(retry, 2, 0, 1)).toEqual({ retryAtMs: 60_000 });
  expect(afterFailure(retry, 3, 0, 1)).toEqual({ gaveUp: true });
});

test('a notice is looked at before the time, once; a request at once; a pause stops the clock', () => {
  const row = {
    isPaused: false,
    requestedAtMs: null,
    retryAtMs: null,
    nextDueMs: 100_000,
    noticeSeconds: 60,
    noticedDueMs: null,
  };
  expect(wakeAtMs(row)).toBe(40_000);
  expect(wakeAtMs({ ...row, noticedDueMs: 100_000 })).toBe(100_000);
  expect(wakeAtMs({ ...row, noticeSeconds: 0 })).toBe(100_000);
  expect(wakeAtMs({ ...row, retryAtMs: 70_000 })).toBe(70_000);
  expect(wakeAtMs({ ...row, isPaused: true })).toBeNull();
  expect(wakeAtMs({ ...row, isPaused: true, requestedAtMs: 5 })).toBe(5);
  expect(wakeAtMs({ ...row, nextDueMs: null })).toBeNull();
});

test('whatever a wrong clock wrote, the next time is within an interval; what is right stays', () => {
  const nowMs = at('2026-03-01T12:00:00Z');
  const time = fc.oneof(fc.constant(null), fc.integer({ min: nowMs - 1e12, max: nowMs + 1e12 }));
  fc.assert(
    fc.property(
      fc.record({ requestedAtMs: time, retryAtMs: time, nextDueMs: time, lastRotatedMs: time }),
      fc.integer({ min: 60, max: 10_000_000 }),
      (row, everySeconds) => {
        const planned = policy({ everySeconds });
        const mended = mendedTimes(row, planned, nowMs) ?? row;
        const latest = nowMs + everySeconds * 1_000 + 3_600_000;
        expect(mended.nextDueMs ?? 0).toBeLessThanOrEqual(latest);
        expect(mended.lastRotatedMs ?? 0).toBeLessThanOrEqual(nowMs + 3_600_000);
        expect(mended.requestedAtMs ?? 0).toBeLessThanOrEqual(nowMs + 3_600_000);
        for (const name of ['requestedAtMs', 'nextDueMs', 'lastRotatedMs'] as const) {
          if ((row[name] ?? 0) <= nowMs) expect(mended[name]).toBe(row[name]);
        }
        expect(mendedTimes(mended, planned, nowMs)).toBeUndefined();
      },
    ),
  );
});
