/** Held by the one agent that rotates. */
export const rotationLease = 'rotation';

/** Limits of the rotations of one agent, with their reasons. */
export const rotatorLimits = {
  // A value of 1 MiB in base64, in JSON.
  outputMaxBytes: 2 * 1_024 * 1_024,
  // What a script wrote before it ended is read within this time.
  scriptPipeGraceMs: 500,
  // A slow verification holds up no others; more would be a storm on the systems behind.
  concurrentMax: 4,
  // Rotations looked at in one turn.
  dueBatch: 100,
  historyPerSecret: 200,
  // Versions before the current one that still wait for their overlap to end; older ones are retired at once.
  retiringPerSecret: 20,
  // What was applied may take a moment until it works everywhere.
  verifyPausesMs: [0, 500, 2_000],
  // How often the runner looks without being woken.
  pollMs: 1_000,
  usesPollMs: 10_000,
  leaseTtlMs: 30_000,
  // Another agent holds the lease.
  standbyMs: 5_000,
  webhookTimeoutMs: 10_000,
  webhookAttempts: 3,
  // Of the time in which an agent stops.
  webhookStopMs: 1_000,
  webhooksWaitingMax: 1_000,
} as const;
