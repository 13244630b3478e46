/** When to do things: pure, given randomness from 0 inclusive to 1 exclusive. */

/** The next heartbeat: the server's pace ±10 %, so that agents do not beat in step. */
export function nextBeatMs(intervalMs: number, random: number): number {
  return Math.round(intervalMs * (0.9 + 0.2 * random));
}

const firstRetryMs = 500;
const longestRetryMs = 15_000;

/** Full jitter: anywhere up to a bound that doubles with every failure. */
export function nextRetryMs(failures: number, random: number): number {
  const bound = Math.min(longestRetryMs, firstRetryMs * 2 ** Math.min(failures, 10));
  return Math.round(bound * random);
}

const longestToldMs = 3_600_000;

/** What the server asks for, kept to the letter; undefined where it asks for nothing. It silences nobody for ever. */
export function toldDelayMs(toldMs: number): number | undefined {
  return toldMs > 0 ? Math.min(toldMs, longestToldMs) : undefined;
}

/** A refused certificate does not get better by asking often. */
export function refusedRetryMs(random: number): number {
  return Math.round(240_000 + 120_000 * random);
}

/** Another process has this identity: coming back at once would only chase it away. */
export function supersededRetryMs(random: number): number {
  return Math.round(2_000 + 4_000 * random);
}

/** Renewal falls due at half life, spread over a tenth of it. */
export function renewalDueMs(notBeforeMs: number, notAfterMs: number, random: number): number {
  return notBeforeMs + (notAfterMs - notBeforeMs) * (0.5 + 0.1 * random);
}

const jumpMs = 2_000;

/** How far the wall clock moved against the monotonic one, or 0 where it runs as it should. */
export function clockJumpMs(wallElapsedMs: number, monotonicElapsedMs: number): number {
  const difference = Math.round(wallElapsedMs - monotonicElapsedMs);
  return Math.abs(difference) >= jumpMs ? difference : 0;
}
