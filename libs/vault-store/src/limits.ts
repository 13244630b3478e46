/** Every limit of this library, with its reason. */

export const vaultLimits = {
  /** Where a password is set; one that is only used to read may be of an older rule. */
  minPasswordCharacters: 12,
  maxPasswordBytes: 4 * 1024,

  /** The width of the column, which a unique index of MySQL can carry. */
  maxTokenCharacters: 255,
  maxIdCharacters: 64,
  /** A generated token: below 128 bits it could be guessed. */
  minTokenBits: 128,
  maxTokenBits: 512,
  maxTokenPrefixCharacters: 16,

  /** A value is held in memory whole, several times over. */
  maxValueBytes: 1024 * 1024,
  /** Metadata is read with every record. */
  maxDataEntries: 64,
  maxDataNameCharacters: 128,
  maxDataValueCharacters: 4_096,
  maxDataBytes: 64 * 1024,

  pageRecords: 100,
  maxPageRecords: 1_000,
  /** A page by offset reads all it skips; a cursor does not. */
  maxOffset: 100_000,
  maxCursorCharacters: 1_024,
  /** Ids or tokens named in one query, below the number of parameters that every database takes. */
  maxNamedRecords: 1_000,

  /** The width of its column. */
  maxSettingNameCharacters: 128,
  maxSettingBytes: 64 * 1024,

  /** Each is 32 bytes that open records: few, and not for long. */
  keyCacheEntries: 256,
  /** Keys that have opened nothing yet: those on their way, and guesses. */
  keyCacheUnproven: 64,
  keyCacheTtlMs: 5 * 60_000,

  /** Whoever loses a race lost it to one who won: so many changes of one record at once all end. */
  changeAttempts: 64,

  /** One transaction: long enough that its commit costs little, short enough to hold nobody up. */
  rekeyPageRecords: 1_000,
  rekeyPageBytes: 2 * 1024 * 1024,
  /** Read, encrypted or waiting to be written: this times the page is what a rekey holds. */
  rekeyPagesInFlight: 4,
  /** Threads, whoever asks: each has a heap. */
  maxRekeyWorkers: 8,
  /** Ids that a result names; all of them are counted. */
  maxReportedIds: 1_000,
  /** Runs that nobody finished; the oldest is forgotten, and its passwords are searched from the start. */
  maxOpenJournals: 16,
  /** Rows that changed while a rekey ran are looked at again, this many times. */
  rekeyRounds: 3,
  /** How far clocks of processes and transactions under way may lie apart. */
  rekeyOverlapMs: 5_000,

  sweepBatchRecords: 1_000,
} as const;

const relations: [boolean, string][] = [
  [vaultLimits.pageRecords <= vaultLimits.maxPageRecords, 'a page by default is a page'],
  [
    vaultLimits.maxValueBytes * 2 <= vaultLimits.rekeyPageBytes,
    'the largest value fits into a page of a rekey, with its header',
  ],
  [
    Math.ceil(vaultLimits.maxTokenBits / 5) + 7 + 1 + vaultLimits.maxTokenPrefixCharacters <=
      vaultLimits.maxTokenCharacters,
    'the longest generated token fits into its column',
  ],
];
for (const [holds, meaning] of relations) {
  if (!holds) throw new Error(`limits of the vault store contradict each other: ${meaning}`);
}
