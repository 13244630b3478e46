/** Limits of backups, with their reasons. */
export const backupLimits = {
  // What is listed of a destination: a backup an hour for more than half a year.
  filesListedMax: 10_000,
  // Its manifest is read whole before anything in it is trusted.
  manifestMaxBytes: 64 * 1_024,
  // Manifests that are read side by side: a page of them from far away takes some round trips, not hundreds.
  manifestsAtOnce: 8,
  // The clear part of a backup: ids, times and a wrapped key.
  headerMaxBytes: 64 * 1_024,
  // A piece of a section; larger ones would only cost memory.
  frameMaxBytes: 256 * 1_024,
  // What the last frame says: one line for each of a thousand namespaces.
  summaryMaxBytes: 1_024 * 1_024,
  // Keys and roles are held in memory while they are restored.
  accessMaxBytes: 32 * 1_024 * 1_024,
  // One role with all the permissions that it may have.
  accessLineMaxBytes: 1_024 * 1_024,
  // How one secret is rotated: an API request holds no more.
  policyMaxBytes: 1_024 * 1_024,
  configurationMaxBytes: 1_024 * 1_024,
  // A first retry soon, for what was a moment's trouble; the last a good while later, for what is mended by hand.
  attemptsMax: 5,
  retryFirstMs: 60_000,
  retryMostMs: 3_600_000,
  // Restores, drills and verifications of one agent: each holds a file of the backup, a drill a whole vault.
  runsAtOnce: 4,
  // What came of a run is written again where the store does not answer, over some seconds.
  noteAttempts: 5,
  notePauseMs: 300,
  // Runs that are remembered: the oldest go first.
  runsKept: 1_000,
  // The term of the one that does backups, and how often the others look whether it is gone.
  leaseTtlMs: 30_000,
  // How often is looked for runs whose process is gone, beyond the look at the start.
  abandonedEveryMs: 600_000,
  pollMs: 1_000,
  standbyMs: 5_000,
  // One file to or from one destination; a slower one is given up and tried again.
  transferTimeoutMs: 2 * 3_600_000,
  connectTimeoutMs: 10_000,
  // Nothing moves for so long: the connection is dead.
  idleTimeoutMs: 60_000,
  // S3 takes no smaller parts; two at once are 16 MiB of memory, and 10,000 of them 80 GiB.
  s3PartBytes: 8 * 1_024 * 1_024,
  s3PartsAtOnce: 2,
} as const;
