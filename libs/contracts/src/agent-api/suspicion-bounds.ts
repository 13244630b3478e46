/** How far the rules of suspicious activity go, in vault.yaml and in policy sets, with their reasons. */
export const suspicionBounds = {
  // One denial is a slip.
  denialsMin: 2,
  denialsMax: 10_000,
  secretsMin: 10,
  // More are not told apart by how they are counted.
  secretsMax: 8_000,
  // Of sets alone: the owner may write any duration.
  withinMinSeconds: 1,
  withinMaxSeconds: 7 * 86_400,
  lockMinSeconds: 60,
  lockMaxSeconds: 7 * 86_400,
} as const;
