/** Every limit of the audit, with its reason. */

export const auditLimits = {
  /** A caller is told within two seconds that the audit cannot be written; the rest is for the answer. */
  blockedAfterMs: 1_500,
  /** How often what waits is looked at, and how long a blocked trail waits between two tries. */
  watchMs: 100,
  probeMs: 500,
  /** Entries that may wait for the disk: half a second at the highest rate that was measured. */
  waitingMax: 20_000,
  /** What goes to the disk in one piece; a torn end is never longer. */
  batchEntries: 1_000,
  batchBytes: 4 * 1024 * 1024,
  /** What is left of a crowd after each sync: soon after it is gone nobody waits for it. */
  crowdKept: 7 / 8,
  /** Whoever waits for the rest of a crowd waits no longer than this: about as long as a slow sync. */
  gatherMs: 3,
  /** The longest text in an entry, and the most of a list: an entry stays below `lineBytes`. */
  textLength: 512,
  listLength: 16,
  contextEntries: 20,
  contextTextLength: 256,
  lineBytes: 160 * 1024,
  /** A signed head at least so often while there are new entries, and at most each second. */
  headEveryMs: 60_000,
  headEveryEntries: 1_000,
  headsApartMs: 1_000,
  /** How often a running agent looks whether a command has written a log of its own. */
  commandsLookEveryMs: 10_000,
  /** Orderly end: what waits is written for so long. */
  stopWithinMs: 700,
  retentionEveryMs: 3_600_000,
  /** No pass retires more than this part of the closed files, nor any when the clock jumped that far. */
  retiredShare: 24,
  clockJumpMs: 3_600_000,
  /** A file that only grows slowly is closed after this share of the retention, or nothing would ever be retired. */
  fileAgeShare: 1 / 30,
  /** Reading: a block of the index, and what one page may read before it answers what it has. */
  blockBytes: 64 * 1024,
  readBytes: 256 * 1024,
  pageReadBytes: 512 * 1024 * 1024,
  indexedFiles: 256,
  /** Entries that one export writes: some 5 GB, of which nobody is surprised to find the disk full. */
  exportMax: 10_000_000,
} as const;

const relations: [boolean, string][] = [
  [
    auditLimits.blockedAfterMs + 2 * auditLimits.watchMs < 2_000,
    'a blocked operation is refused within two seconds',
  ],
  [
    // Escaped, a character takes up to six bytes.
    6 *
      (10 * auditLimits.textLength +
        auditLimits.listLength * auditLimits.textLength +
        2 * auditLimits.contextEntries * auditLimits.contextTextLength) +
      4_096 <
      auditLimits.lineBytes,
    'every entry fits into a line',
  ],
  [auditLimits.lineBytes < auditLimits.batchBytes, 'every entry fits into a batch'],
];
for (const [holds, reason] of relations) {
  if (!holds) throw new Error(`limits of the audit contradict each other: ${reason}`);
}
