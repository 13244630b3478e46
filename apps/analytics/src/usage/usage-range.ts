/** Which hours a question about usage means. */
import { invalidRequest, type ServiceError } from '@keystead/contracts/errors';

export const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const longestMs = 31 * dayMs;

/** Whole hours, milliseconds since 1970: `[fromMs, toMs)`. */
export interface UsageRange {
  fromMs: number;
  toMs: number;
}

/**
 * Every hour that `[since, until)` touches. What lies ahead has no usage yet, so the answer ends
 * with the hour that runs now; nor has what lies before 1970.
 */
export function usageRange(
  asked: { since?: string | undefined; until?: string | undefined },
  nowMs: number,
): { outcome: 'range'; range: UsageRange } | { outcome: 'invalid'; error: ServiceError } {
  const untilMs = asked.until === undefined ? nowMs : Date.parse(asked.until);
  const sinceMs = asked.since === undefined ? untilMs - dayMs : Date.parse(asked.since);
  if (sinceMs >= untilMs) return invalid('since', 'must be before until, which is now by default');
  if (untilMs - sinceMs > longestMs)
    return invalid('since', 'must be at most 31 days before until');
  const openEndMs = floorHour(nowMs) + hourMs;
  const within = (ms: number) => Math.min(Math.max(ms, 0), openEndMs);
  const fromMs = within(floorHour(sinceMs));
  const toMs = within(floorHour(untilMs + hourMs - 1));
  return { outcome: 'range', range: { fromMs, toMs } };
}

export function hoursOf({ fromMs, toMs }: UsageRange): Date[] {
  return Array.from(
    { length: Math.round((toMs - fromMs) / hourMs) },
    (_, index) => new Date(fromMs + index * hourMs),
  );
}

function floorHour(ms: number): number {
  return Math.floor(ms / hourMs) * hourMs;
}

function invalid(field: string, message: string): { outcome: 'invalid'; error: ServiceError } {
  return { outcome: 'invalid', error: invalidRequest('query', [{ path: [field], message }]) };
}
