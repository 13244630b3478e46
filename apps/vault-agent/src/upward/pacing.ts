/** When the next head and the next report of usage go up. Pure. */
import { upwardLimits } from './upward-limits.ts';

const hourMs = 3_600_000;

/**
 * While the control plane receipts heads, one for each minute or thousand entries with new entries, at
 * most one a second. While it does not, the distance grows in step with what waits: what waits after a
 * time grows only with its square root, and a later head covers what an earlier one would have.
 */
export function isHeadDue(since: { ms: number; entries: number }, headsWaiting: number): boolean {
  if (since.entries === 0) return false;
  const { headEveryMs, headEveryEntries, headsApartMs, headsWaitingBeforeSparse } = upwardLimits;
  const factor = Math.max(1, headsWaiting / headsWaitingBeforeSparse);
  if (since.ms >= headEveryMs * factor) return true;
  return factor === 1 && since.entries >= headEveryEntries && since.ms >= headsApartMs;
}

/** Within one clock hour, so that hours can be added up without a rest. */
export function usagePeriodEndMs(startMs: number, reportsWaiting: number): number {
  const hourEndMs = (Math.floor(startMs / hourMs) + 1) * hourMs;
  if (reportsWaiting >= upwardLimits.usageWaitingBeforeSparse) return hourEndMs;
  return Math.min(startMs + upwardLimits.usagePeriodMs, hourEndMs);
}
