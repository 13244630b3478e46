/**
 * What follows an attempt. A receiver that was down for a weekend still gets its alerts: thirteen
 * retries over about 75 hours, dense while somebody may be mending it, sparse later. A channel
 * that has failed for five days without one success is disabled, and its owners are told.
 */
import type { SendOutcome } from './send-outcome.ts';

const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/** Pauses between attempts; their sum is 74 h 52 min 35 s. */
export const retryPausesMs: readonly number[] = [
  5 * second,
  30 * second,
  2 * minute,
  5 * minute,
  15 * minute,
  30 * minute,
  1 * hour,
  2 * hour,
  4 * hour,
  8 * hour,
  12 * hour,
  23 * hour,
  24 * hour,
];

export const attemptsMax = retryPausesMs.length + 1;
export const jitterShare = 0.2;
export const jitterMaxMs = 30 * minute;
/** A receiver may ask for patience, but not for years of it. */
export const retryAfterMaxMs = 1 * hour;

export type NextAttempt =
  | { next: 'done' }
  | { next: 'retry'; inMs: number }
  | { next: 'dead'; why: 'permanent' | 'exhausted' };

/**
 * @param attempt the number of the attempt that ended, from 1
 * @param random in [0, 1)
 */
export function nextAttempt(outcome: SendOutcome, attempt: number, random: number): NextAttempt {
  if (outcome.result === 'delivered') {
    return outcome.undelivered?.some(({ permanent }) => !permanent)
      ? retry(attempt, undefined, random)
      : { next: 'done' };
  }
  if (outcome.result === 'permanent') return { next: 'dead', why: 'permanent' };
  return retry(attempt, outcome.retryAfterMs, random);
}

function retry(attempt: number, askedMs: number | undefined, random: number): NextAttempt {
  const pauseMs = retryPausesMs[attempt - 1];
  if (pauseMs === undefined) return { next: 'dead', why: 'exhausted' };
  const jitterMs = Math.min(pauseMs * jitterShare, jitterMaxMs);
  const ownMs = pauseMs - jitterMs + 2 * jitterMs * random;
  // Never earlier than asked, and not all at the very moment asked for.
  const bounded = Math.min(askedMs ?? 0, retryAfterMaxMs);
  const askedForMs = bounded + Math.min(bounded * jitterShare, jitterMaxMs) * random;
  return { next: 'retry', inMs: Math.round(Math.max(ownMs, askedForMs)) };
}

export type ChannelHealth = {
  /** Start of the unbroken run of failures; null while the channel works. */
  failingSinceMs: number | null;
};

export type ChannelVerdict = ChannelHealth & {
  /** Why the channel is disabled by this outcome. */
  disable?: 'gone' | 'failing';
};

/** The channel's health after an attempt that ended at `nowMs`. */
export function channelHealthAfter(
  health: ChannelHealth,
  outcome: SendOutcome,
  nowMs: number,
  disabledAfterMs: number,
): ChannelVerdict {
  if (outcome.result === 'delivered') return { failingSinceMs: null };
  if (outcome.blame === 'installation') return health;
  const failingSinceMs = health.failingSinceMs ?? nowMs;
  if (outcome.result === 'permanent' && outcome.gone) return { failingSinceMs, disable: 'gone' };
  if (nowMs - failingSinceMs >= disabledAfterMs) return { failingSinceMs, disable: 'failing' };
  return { failingSinceMs };
}
