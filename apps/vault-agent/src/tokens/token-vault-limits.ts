/** Limits of the token vault in an agent, with their reasons. */
export const tokenVaultLimits = {
  // Two at once would take each other's time, and a third of the machine is for whoever reads.
  runsAtOnce: 1,
  // What was found is asked for after the end; older ones are in the audit.
  runsKept: 100,
  // A run says how far it is, and hears that it is to end.
  runSeenEveryMs: 2_000,
  // Longer than a store may be away from a run that goes on; clocks of agents may differ by some of it.
  runLostAfterMs: 60_000,
  // Of a caller that ends a run of another agent: some rounds of that.
  abortWaitMs: 10_000,
  // An expired token can be renewed for a day, restored for a month, and is gone then.
  markExpiredAfterMs: 24 * 3_600_000,
  deleteExpiredAfterMs: 30 * 24 * 3_600_000,
  // Tokens that one entry of the audit names; it takes 20 texts of 256 characters, and the door needs some.
  referencesInAText: 15,
  referencesMax: 150,
} as const;

if (tokenVaultLimits.markExpiredAfterMs >= tokenVaultLimits.deleteExpiredAfterMs) {
  throw new Error('limits contradict each other: what is marked can come back for a while');
}
if (
  tokenVaultLimits.runSeenEveryMs * 10 > tokenVaultLimits.runLostAfterMs ||
  tokenVaultLimits.runSeenEveryMs * 2 > tokenVaultLimits.abortWaitMs
) {
  throw new Error('limits contradict each other: a run is seen often enough to be waited for');
}
