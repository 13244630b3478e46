/** When backups are made and which are kept: pure, given the time and a random number from 0 to 1. */
import { Cron } from 'croner';
import { backupLimits } from './backup-limits.ts';

/** What is wrong with a cron pattern, or undefined. */
export function problemOfCron(pattern: string): string | undefined {
  try {
    const next = new Cron(pattern, { timezone: 'UTC', mode: '5-part' }).nextRun();
    return next === null ? 'the schedule never comes' : undefined;
  } catch {
    return 'the schedule is no cron pattern of five parts';
  }
}

/** The first time of the pattern after a moment; undefined where none comes. */
export function nextScheduled(pattern: string, afterMs: number): number | undefined {
  return new Cron(pattern, { timezone: 'UTC', mode: '5-part' })
    .nextRun(new Date(afterMs))
    ?.getTime();
}

/**
 * The scheduled time that is due, the latest where several went by while no agent ran: one backup makes
 * up for all that were missed.
 * @param lastMs of the last one that was begun, or when the schedule began
 */
export function dueScheduled(pattern: string, lastMs: number, nowMs: number): number | undefined {
  let due: number | undefined;
  let next = nextScheduled(pattern, lastMs);
  // A pattern of every minute, missed for two months, is looked at no longer than this.
  for (let steps = 0; next !== undefined && next <= nowMs; steps += 1) {
    due = next;
    if (steps >= 100) {
      const recent = nextScheduled(pattern, Math.max(due, nowMs - 86_400_000));
      return recent !== undefined && recent <= nowMs ? recent : due;
    }
    next = nextScheduled(pattern, next);
  }
  return due;
}

/** After so many failed attempts (from 1): how long to wait, or undefined where none follows. */
export function retryPauseMs(attempt: number, random: number): number | undefined {
  if (attempt >= backupLimits.attemptsMax) return undefined;
  const bound = Math.min(backupLimits.retryMostMs, backupLimits.retryFirstMs * 4 ** (attempt - 1));
  return Math.round(bound * (0.5 + 0.5 * random));
}

export interface Retention {
  /** The newest so many. */
  keepLast?: number | undefined;
  /** Everything that is younger. */
  keepDays?: number | undefined;
  /** The last one of each of the last so many days, ISO weeks, months that have one (UTC). */
  keepDaily?: number | undefined;
  keepWeekly?: number | undefined;
  keepMonthly?: number | undefined;
}

const dayMs = 86_400_000;

/** How far the clocks of agents may differ: what lies further ahead is of a clock that was wrong. */
export const clockDifferenceMs = 3_600_000;

/**
 * How far apart two backups may be before the clock is doubted: two periods of the schedule and a day.
 * Without a schedule, a month.
 */
export function plausibleGapMs(pattern: string | undefined, nowMs: number): number {
  const next = pattern === undefined ? undefined : nextScheduled(pattern, nowMs);
  const second =
    pattern === undefined || next === undefined ? undefined : nextScheduled(pattern, next);
  if (next === undefined || second === undefined) return 31 * dayMs;
  return 2 * (second - next) + dayMs;
}

/**
 * Which backups may go. What any rule keeps is kept; the newest is kept always; without a rule all are.
 * Backups of the future are of a clock that was wrong: they are kept, and take no other's place. A time
 * without backups that is longer than is plausible may never have passed: no backup grows older by more
 * than that in it, and where it ends at this moment nothing goes at all.
 * @param current the `id` of the one just made, which says nothing of the clock
 */
export function expiredBackups<B extends { id?: string; createdAt: string }>(
  backups: readonly B[],
  retention: Retention,
  nowMs: number,
  { current, gapMs }: { current?: string; gapMs?: number } = {},
): B[] {
  const rules = Object.values(retention).filter((value) => value !== undefined);
  if (rules.length === 0) return [];
  const newestFirst = backups
    .filter(({ createdAt }) => Date.parse(createdAt) <= nowMs + clockDifferenceMs)
    .sort((one, other) => (one.createdAt < other.createdAt ? 1 : -1));
  const before = newestFirst.find(({ id }) => id === undefined || id !== current);
  if (gapMs !== undefined && before !== undefined) {
    if (nowMs - Date.parse(before.createdAt) > gapMs) return [];
  }
  const kept = new Set<B>(newestFirst.slice(0, Math.max(1, retention.keepLast ?? 0)));
  if (retention.keepDays !== undefined) {
    const mostMs = retention.keepDays * dayMs;
    let ageMs = 0;
    let laterMs = nowMs;
    for (const backup of newestFirst) {
      const atMs = Date.parse(backup.createdAt);
      ageMs += Math.min(Math.max(0, laterMs - atMs), gapMs ?? Number.POSITIVE_INFINITY);
      laterMs = atMs;
      if (ageMs < mostMs) kept.add(backup);
    }
  }
  const periods: [number, (day: Date) => string][] = [
    [retention.keepDaily ?? 0, (day) => day.toISOString().slice(0, 10)],
    [retention.keepWeekly ?? 0, (day) => String(weekOf(day))],
    [retention.keepMonthly ?? 0, (day) => day.toISOString().slice(0, 7)],
  ];
  for (const [most, periodOf] of periods) {
    const seen = new Set<string>();
    for (const backup of newestFirst) {
      const period = periodOf(new Date(backup.createdAt));
      if (seen.has(period)) continue;
      if (seen.size >= most) break;
      seen.add(period);
      kept.add(backup);
    }
  }
  return newestFirst.filter((backup) => !kept.has(backup));
}

/** Weeks since 1970, beginning on Mondays. */
function weekOf(day: Date): number {
  return Math.floor((Math.floor(day.getTime() / dayMs) + 3) / 7);
}
