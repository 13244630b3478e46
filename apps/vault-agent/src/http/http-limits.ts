/** Limits of the agent's HTTP, with their reasons. */
export const httpLimits = {
  /** A token has at most 8 KiB. */
  headersMaxBytes: 16 * 1_024,
  headersWithinMs: 10_000,
  /** A body of JSON; a slower network would not be one that secrets are read over. */
  bodyWithinMs: 20_000,
  /** An import of everything that a namespace may hold, over a slow line. */
  streamWithinMs: 30 * 60_000,
  /** Some 400,000 revoked certificates: an authority of that size should have others for its clients. */
  revocationListsMaxBytes: 16 * 1_024 * 1_024,
  handshakeWithinMs: 10_000,
  keepAliveMs: 72_000,
  slowCheckMs: 2_000,
  /** An encoded name of 255 characters; every one of them may take three. */
  pathParameterMaxLength: 1_024,
  connectionsMax: 10_000,
  /** Who watches an import learns no more from more of them. */
  linesEveryMs: 250,
  /** Answers under way when the agent stops. */
  finishWithinMs: 1_000,
  /** Programs behind one address that show new credentials in the same second. */
  crowd: 20,
  burstSeconds: 2,
  identitiesCounted: 20_000,
  /** A throttled caller is in the audit so often. */
  throttledEveryMs: 10_000,
} as const;
