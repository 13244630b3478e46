/** Limits of the token vault in an agent, with their reasons. */
export const tokenVaultLimits = {
  // Two at once would take each other's time, and a third of the machine is for whoever reads.
  runsAtOnce: 1,
  // What was found is asked for after the end; older ones are in the audit.
  runsKept: 20,
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
