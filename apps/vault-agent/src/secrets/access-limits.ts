/** Limits of counting accesses, with their reasons. */
import { secretLimits } from '@keystead/contracts/agent-api/secret-limits';

export const accessLimits = {
  // A crash loses what was counted since: less than a second, a slow commit included.
  flushPeriodMs: 500,
  // While the store is away: about 20 MB.
  waitingSecretsMax: 100_000,
  // On SQLite a journal of so many secrets, or of so long, is added up.
  journaledSecretsMax: 50_000,
  addUpPeriodMs: 30_000,
  // About two milliseconds of SQLite's thread.
  secretsPerCommit: 250,
  // One statement's text is prepared once for full batches.
  secretsPerStatement: 50,
  logEntriesPerNamespace: secretLimits.accessLogPerNamespace,
  // Under more load than this the access log is a sample; the audit is complete.
  logEntriesPerFlush: 100,
  // Once in ten minutes.
  flushesPerSweep: 1_200,
  // Statistics look back 24 hours, the current one included.
  hoursKept: 26,
};
