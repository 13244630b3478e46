/** Limits of backups in the agent's API, with their reasons. */
export const backupApiLimits = {
  // A request waits within the ordinary limit of a request.
  waitMaxSeconds: 15,
  patternsMax: 50,
  labelMaxLength: 1_000,
  problemMaxLength: 500,
  keepMax: 10_000,
} as const;
