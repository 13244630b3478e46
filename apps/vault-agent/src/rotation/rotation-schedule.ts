/** When a secret is rotated: pure, given the time and a random number from 0 to 1. */
import type { RotationPolicy, RotationTrigger } from '@keystead/contracts/agent-api/rotation';
import { Cron } from 'croner';

/** What is wrong with a cron pattern or its timezone, or undefined. */
export function problemOfSchedule(schedule: RotationPolicy['schedule']): string | undefined {
  if (schedule === null) return undefined;
  try {
    new Intl.DateTimeFormat('en', { timeZone: schedule.timezone });
  } catch {
    return `there is no timezone ${schedule.timezone}`;
  }
  try {
    const next = new Cron(schedule.cron, { timezone: schedule.timezone, mode: '5-part' }).nextRun();
    return next === null ? 'the schedule never comes' : undefined;
  } catch {
    return 'the schedule is no cron pattern of five parts';
  }
}

/** The next time by interval or schedule, whichever comes first; undefined where neither is set. */
export function nextDue(
  policy: Pick<RotationPolicy, 'everySeconds' | 'schedule'>,
  lastMs: number,
): { atMs: number; trigger: RotationTrigger } | undefined {
  const { everySeconds, schedule } = policy;
  const interval = everySeconds === null ? undefined : lastMs + everySeconds * 1_000;
  const planned =
    schedule === null
      ? undefined
      : new Cron(schedule.cron, { timezone: schedule.timezone, mode: '5-part' })
          .nextRun(new Date(lastMs))
          ?.getTime();
  if (interval !== undefined && (planned === undefined || interval <= planned)) {
    return { atMs: interval, trigger: 'interval' };
  }
  return planned === undefined ? undefined : { atMs: planned, trigger: 'schedule' };
}

/**
 * How long to wait after so many failures in a row (from 1): doubling up to a bound, and of that
 * something between half and all, so that many that failed together do not come back together.
 */
export function retryDelayMs(
  retry: Pick<RotationPolicy['retry'], 'firstDelaySeconds' | 'longestDelaySeconds'>,
  failures: number,
  random: number,
): number {
  const longest = Math.max(retry.firstDelaySeconds, retry.longestDelaySeconds);
  const bound = Math.min(longest, retry.firstDelaySeconds * 2 ** Math.min(failures - 1, 40));
  return Math.round(bound * 1_000 * (0.5 + 0.5 * random));
}

/** After a failed attempt: when the next is, or that there is none. */
export function afterFailure(
  retry: RotationPolicy['retry'],
  attempt: number,
  nowMs: number,
  random: number,
): { retryAtMs: number } | { gaveUp: true } {
  if (attempt >= retry.attempts) return { gaveUp: true };
  return { retryAtMs: nowMs + retryDelayMs(retry, attempt, random) };
}

/** When the runner has to look at a rotation next; null where nothing but a request wakes it. */
export function wakeAtMs(row: {
  isPaused: boolean;
  requestedAtMs: number | null;
  retryAtMs: number | null;
  nextDueMs: number | null;
  noticeSeconds: number;
  noticedDueMs: number | null;
}): number | null {
  if (row.requestedAtMs !== null) return row.requestedAtMs;
  if (row.isPaused) return null;
  // While an attempt is to be repeated, the regular time waits for its end.
  if (row.retryAtMs !== null) return row.retryAtMs;
  if (row.nextDueMs === null) return null;
  const isNoticed = row.noticeSeconds === 0 || row.noticedDueMs === row.nextDueMs;
  return isNoticed ? row.nextDueMs : row.nextDueMs - row.noticeSeconds * 1_000;
}

/** How far ahead something that has happened may lie: the clocks of agents differ. */
const clockDifferenceMs = 3_600_000;

/**
 * What a clock that was ahead has left in a row, brought back to what can be, or undefined where nothing
 * is wrong: the next time is never further than one interval away, or a rotation would never come again.
 */
export function mendedTimes(
  row: {
    requestedAtMs: number | null;
    retryAtMs: number | null;
    nextDueMs: number | null;
    lastRotatedMs: number | null;
  },
  policy: Pick<RotationPolicy, 'everySeconds' | 'schedule' | 'retry'>,
  nowMs: number,
): typeof row | undefined {
  const { firstDelaySeconds, longestDelaySeconds } = policy.retry;
  const retryMostMs = Math.max(firstDelaySeconds, longestDelaySeconds) * 1_000;
  const latest = (time: number | null, mostMs: number, insteadMs: number) =>
    time !== null && time > mostMs + clockDifferenceMs ? insteadMs : time;
  const dueMs = nextDue(policy, nowMs)?.atMs;
  const mended = {
    requestedAtMs: latest(row.requestedAtMs, nowMs, nowMs),
    retryAtMs: latest(row.retryAtMs, nowMs + retryMostMs, nowMs),
    nextDueMs: dueMs === undefined ? row.nextDueMs : latest(row.nextDueMs, dueMs, dueMs),
    lastRotatedMs: latest(row.lastRotatedMs, nowMs, nowMs),
  };
  const isSame =
    mended.requestedAtMs === row.requestedAtMs &&
    mended.retryAtMs === row.retryAtMs &&
    mended.nextDueMs === row.nextDueMs &&
    mended.lastRotatedMs === row.lastRotatedMs;
  return isSame ? undefined : mended;
}
