/** Limits of what metrics are read from, with their reasons. */
export const metricsLimits = {
  // Rotations are counted over their whole table: no more often, however many ask.
  dutiesEveryMs: 15_000,
  // A store that does not answer holds up no scrape: what was known is told again.
  dutiesWithinMs: 1_000,
  // What is due for so long is not being done: a runner looks every second, and rotates for minutes at most.
  overdueAfterMs: 15 * 60_000,
} as const;
