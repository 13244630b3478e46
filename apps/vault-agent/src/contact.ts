/**
 * The agent's own account of whether it is heard: pure, told what happened, answers what to record.
 * Contact is a heartbeat that the control plane recorded; it is lost when coming back failed, when a
 * beat went unanswered, or when beats are not being recorded for three intervals.
 */
export type LossReason = 'stream_ended' | 'no_answer' | 'not_recorded' | 'unreachable' | 'refused';

export type ContactNote =
  | { kind: 'lost'; lastContactUnixMs: number; reason: LossReason }
  | {
      kind: 'regained';
      lostAtUnixMs: number;
      gapMs: number;
      attempts: number;
      reason: LossReason;
    };

export interface Instant {
  unixMs: number;
  monotonicMs: number;
}

export class Contact {
  #last: Instant | undefined;
  #started: Instant;
  #lost: { reason: LossReason } | undefined;
  #attempts = 0;

  constructor(started: Instant) {
    this.#started = started;
  }

  get isLost(): boolean {
    return this.#lost !== undefined;
  }

  get lastContactUnixMs(): number | undefined {
    return this.#last?.unixMs;
  }

  /** A beat was recorded. */
  recorded(now: Instant): ContactNote | undefined {
    const since = this.#last ?? this.#started;
    const lost = this.#lost;
    const attempts = this.#attempts;
    this.#last = now;
    this.#lost = undefined;
    this.#attempts = 0;
    if (lost === undefined) return undefined;
    return {
      kind: 'regained',
      lostAtUnixMs: since.unixMs,
      gapMs: Math.max(0, Math.round(now.monotonicMs - since.monotonicMs)),
      attempts,
      reason: lost.reason,
    };
  }

  /** A try to open a session failed. */
  attemptFailed(reason: 'stream_ended' | 'unreachable' | 'refused'): ContactNote | undefined {
    this.#attempts += 1;
    return this.#lose(
      reason === 'unreachable' && this.#last !== undefined ? 'stream_ended' : reason,
    );
  }

  /** A beat was not answered in time. */
  unanswered(): ContactNote | undefined {
    return this.#lose('no_answer');
  }

  /** The server says that a beat was not recorded. */
  notRecorded(now: Instant, intervalMs: number): ContactNote | undefined {
    const since = this.#last ?? this.#started;
    if (now.monotonicMs - since.monotonicMs < 3 * intervalMs) return undefined;
    return this.#lose('not_recorded');
  }

  #lose(reason: LossReason): ContactNote | undefined {
    if (this.#lost !== undefined) return undefined;
    this.#lost = { reason };
    return { kind: 'lost', lastContactUnixMs: this.#last?.unixMs ?? 0, reason };
  }
}
