/** What a vault may hold, with the reasons. The numbers of the original plan are the defaults. */
export const secretLimits = {
  namespacesMax: 1_000,
  secretsPerNamespaceDefault: 10_000,
  // A million rows in one namespace still answer by index; its export takes minutes.
  secretsPerNamespaceMost: 1_000_000,
  maxVersionsDefault: 10,
  // Each version of a full value is 1 MiB.
  maxVersionsMost: 100,
  topSecretsMax: 50,
  // The newest accesses of each namespace.
  accessLogPerNamespace: 1_000,
  // A namespace of the default size full of full values, and their base64.
  archiveMaxBytes: 16 * 1_024 * 1_024 * 1_024,
  // Exports of one agent under way, and imports: each holds a snapshot of the store, or an archive on the disk.
  transfersAtOnce: 4,
} as const;
