/** Limits of tokens and records over HTTP, with their reasons. What may be stored is the vault store's to say. */
export const tokenLimits = {
  /** A password is hashed as a whole. */
  passwordMaxLength: 4_096,
  tokenMaxLength: 255,
  recordIdMaxLength: 64,
  /** Of a record: as many as the vault store takes, which are as many as a secret may have. */
  dataEntriesMax: 64,
  dataNameMaxLength: 128,
  dataValueMaxLength: 4_096,
  /** Each is opened, and each that is found is in the answer: with the largest values 100 MiB. */
  readManyMax: 100,
  /** Each is a transaction. */
  changePasswordMax: 100,
  /** A walk by offset reads all it skips; cursors are what lists have. */
  namedMax: 100,
  rekeyTimeoutMaxSeconds: 24 * 3_600,
} as const;
