/** Limits of who may come in, with their reasons. */
export const accessLimits = {
  /** Verified keys kept in memory; beyond them a key costs one look-up again. */
  verifiedKeysMax: 10_000,
  verifiedTokensMax: 10_000,
  /** Keys read anew by one query after a change; every database takes so many parameters. */
  keysReadAtOnce: 500,
  /** How often each agent asks whether keys or roles changed: half of the second we promise. */
  revisionPollMs: 400,
  /**
   * While the store cannot be asked, what was verified holds this long: longer, and a revocation made
   * by another agent would not bite; shorter, and a restart of the database would fail every read.
   */
  verdictsTrustedMs: 15_000,
  /** When a key was last used is written at most this often. */
  lastUsedEveryMs: 60_000,
  lastUsedWrittenAtOnceMax: 500,
  /** Guesses that cost nothing: a wrong deployment has more than one replica. */
  freeGuesses: 10,
  firstLockMs: 1_000,
  longestLockMs: 15 * 60_000,
  /** After this long without a guess an address begins anew. */
  guessMemoryMs: 30 * 60_000,
  guessersRemembered: 20_000,
  /** Whoever has to wait is in the audit so often: the first time, and that it goes on. */
  waitsToldEveryMs: 10_000,
  /** Wrong secrets for one key from one network, until it is closed there; from anywhere, until it is told. */
  guessesPerKeyMax: 100,
  /** A token beyond this is refused unread; the headers together have 16 KiB. */
  tokenMaxLength: 8 * 1_024,
  /** Keys of an issuer are fetched anew at most this often. */
  jwksCooldownMs: 10_000,
  jwksMaxAgeMs: 10 * 60_000,
  jwksTimeoutMs: 3_000,
  jwksMaxBytes: 256 * 1_024,
  /** A verified token is verified again after this long, so that a withdrawn key bites. */
  tokenVerdictMs: 60_000,
  /** Networks whose attempts are counted; beyond them the first is forgotten. */
  networksCountedMax: 50_000,
} as const;
