/** Limits of the key ring, with their reasons. */
export const keyLimits = {
  // One commit each: few enough that other writes come in between.
  rewrapBatch: 100,
  // A key may be rewrapped again between reading it and reading the masters.
  masterLookups: 4,
};
