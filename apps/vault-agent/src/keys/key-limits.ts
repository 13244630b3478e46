/** Limits of the key ring, with their reasons. */
export const keyLimits = {
  // One commit each: few enough that other writes come in between.
  rewrapBatch: 100,
  // A key may be rewrapped again between reading it and reading the masters.
  masterLookups: 4,
  // A blip is over in a second; a provider that is away for long is asked every few minutes.
  providerPauseFirstMs: 1_000,
  providerPauseMostMs: 5 * 60_000,
  // Whoever took the key of a namespace that is then deleted is done by then: a reading has 5 s, a change 15 s.
  retiredKeptMs: 30_000,
};
