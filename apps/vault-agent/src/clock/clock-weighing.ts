/** What is believed of a clock: pure, given what it shows and how long ago it was looked at. */
import { clockLimits as limits } from './clock-limits.ts';

export interface ClockState {
  /** Milliseconds since 1970. While the clock is doubted it goes on from where it was. */
  believedMs: number;
  /** How far the clock has stepped away from that, and for how long it has gone on from there. */
  step?: { offMs: number; stayedMs: number };
}

/**
 * @param wallMs what the clock shows
 * @param elapsedMs since the last look, by a clock that never steps; undefined at the first look of a
 * process, which does not know how long none ran
 */
export function weigh(
  { believedMs, step }: ClockState,
  wallMs: number,
  elapsedMs: number | undefined,
): ClockState {
  const expectedMs = believedMs + (elapsedMs ?? 0);
  const offMs = wallMs - expectedMs;
  if (offMs >= -limits.backMostMs && offMs <= limits.forwardMostMs) return { believedMs: wallMs };
  const stayed = step !== undefined && Math.abs(offMs - step.offMs) <= limits.driftMs;
  const stayedMs = stayed ? step.stayedMs + (elapsedMs ?? 0) : 0;
  if (stayedMs >= limits.agreementMs) return { believedMs: wallMs };
  return { believedMs: expectedMs, step: { offMs, stayedMs } };
}
