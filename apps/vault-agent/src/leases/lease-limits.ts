/** Limits of leases, with their reasons. */
export const leaseLimits = {
  nameMaxLength: 120,
  holderMaxLength: 120,
  // Shorter, and an ordinary pause of a loaded machine would pass it on.
  ttlMinMs: 1_000,
  // Longer, and a killed holder's duties would wait too long.
  ttlMaxMs: 10 * 60_000,
  // A renewal that the database does not answer may fail twice before the lease is lost.
  renewalsPerTtl: 3,
};
