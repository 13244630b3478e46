/** Limits of forwarding the audit, with their reasons. */
export const forwardingLimits = {
  /** How long a new entry waits at most before it is on its way. */
  everyMs: 1_000,
  /** What is sent in one piece. */
  batchLines: 500,
  batchBytes: 256 * 1024,
  /** A receiver that does not take a piece within this time has failed. */
  sendWithinMs: 10_000,
  /** What a receiver that cannot acknowledge gets before it is asked to close, which acknowledges it. */
  unconfirmedLines: 10_000,
  unconfirmedMs: 30_000,
  /** Failures in a row before it is left alone, and for how long: doubled each time. */
  failuresBeforeOpen: 3,
  firstPauseMs: 1_000,
  longestPauseMs: 60_000,
  /** The position is written so often at most: after a crash as much is sent twice. */
  saveEveryMs: 1_000,
  /** RFC 5426: a datagram holds one message; what is longer does not arrive on every way. */
  datagramBytes: 60_000,
  /** Datagrams beyond what a receiver's buffer holds are lost without a word: a pause after so many. */
  burstBytes: 32 * 1024,
  burstPauseMs: 2,
  answerBytes: 64 * 1024,
} as const;
