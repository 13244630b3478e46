/** Limits of what the agent tells the control plane, with their reasons. */
import { limits } from '@keystead/contracts/limits';

export const upwardLimits = {
  /** Heads go up as they are taken, up to one a second, while they are receipted. */
  headsApartMs: 1_000,
  headEveryMs: 60_000,
  headEveryEntries: 1_000,
  /** Without receipts the distance grows with what waits: a month offline leaves some 2,300 heads. */
  headsWaitingBeforeSparse: 60,
  /** One report of usage; when a day of them waits, one an hour. */
  usagePeriodMs: 5 * 60_000,
  usageWaitingBeforeSparse: 288,
  usageTickMs: 1_000,
  countsPerReport: limits.operationCountsPerEvent,
  topSecrets: limits.topSecretsPerEvent,
  /** Secrets that are counted in a period to find the most read ones. */
  secretsCounted: 1_000,
  /** The same notice about the same identity is told once in this time, with how often it came. */
  noticesApartMs: 60_000,
  noticesCounted: 1_000,
  /** What could not be written down, for example on a full disk, is tried again. */
  unwrittenMax: 256,
  retryMs: 5_000,
} as const;
