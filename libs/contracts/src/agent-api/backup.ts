/**
 * Backups of a vault: made by schedule or on demand, verified, restored as a whole or in part, and drilled
 * (R9). What opens a backup travels in a request's body, over TLS like every value.
 */
import { z } from 'zod';
import { backupApiLimits as limits } from './backup-limits.ts';
import { listQuery, namePattern, page } from './fields.ts';
import { agentOperation } from './operation.ts';

const group = 'Backup';

/**
 * `secrets`: namespaces, secrets, all their versions, and how they are rotated. `records`: the token vault, whose values stay
 * under their own passwords. `access`: roles and API keys, of which only
 * hashes exist. `audit`: the audit log. `configuration`: vault.yaml.
 */
export const backupContents = ['secrets', 'records', 'access', 'audit', 'configuration'] as const;
export type BackupContent = (typeof backupContents)[number];

const contents = z
  .array(z.enum(backupContents))
  .min(1)
  .max(backupContents.length)
  .refine((list) => new Set(list).size === list.length, 'must not name anything twice');
const backupId = z.string().regex(/^bkp_[0-9a-z]{26}$/, 'must be bkp_ and 26 characters');
const runId = z.string().regex(/^bkr_[0-9a-z]{26}$/, 'must be bkr_ and 26 characters');
const label = z.string().min(1).max(limits.labelMaxLength);
const byId = z.strictObject({ id: backupId });
const waitSeconds = z.number().int().min(0).max(limits.waitMaxSeconds).default(0);

export const backup = z.object({
  id: z.string(),
  vaultId: z.string(),
  createdAt: z.string(),
  agentVersion: z.string(),
  contents: z.array(z.enum(backupContents)),
  namespaces: z.number().int(),
  secrets: z.number().int(),
  versions: z.number().int(),
  /** Of the sealed file. */
  bytes: z.number().int(),
  sha256: z.string(),
  /** The key that signed it, `keystead-author-…`; null where none did. */
  author: z.string().nullable(),
  /** Where it is kept, as the configuration's destinations are shown. */
  destinations: z.array(z.string()),
});
export type Backup = z.infer<typeof backup>;

export const backupRunKinds = ['backup', 'verify', 'restore', 'drill'] as const;
export type BackupRunKind = (typeof backupRunKinds)[number];
/** `waiting`: for its turn, or for the next attempt after a failure. */
export const backupRunStates = ['waiting', 'running', 'succeeded', 'failed', 'gave-up'] as const;
export type BackupRunState = (typeof backupRunStates)[number];

export const backupRun = z.object({
  id: z.string(),
  kind: z.enum(backupRunKinds),
  state: z.enum(backupRunStates),
  trigger: z.enum(['schedule', 'request']),
  /** From 1. */
  attempt: z.number().int(),
  backupId: z.string().nullable(),
  requestedBy: z.string(),
  startedAt: z.string(),
  endedAt: z.string().nullable(),
  nextAttemptAt: z.string().nullable(),
  problem: z.object({ code: z.string(), message: z.string() }).nullable(),
  result: z
    .object({
      bytes: z.number().int(),
      namespaces: z.number().int(),
      secrets: z.number().int(),
      versions: z.number().int(),
      /** Of a restore. */
      created: z.number().int().optional(),
      replaced: z.number().int().optional(),
      skipped: z.number().int().optional(),
      removedNamespaces: z.number().int().optional(),
      /** Of the token vault: held, or taken. */
      records: z.number().int().optional(),
      /** Secrets that are rotated, of those held or taken. */
      rotations: z.number().int().optional(),
      dryRun: z.boolean().optional(),
      /** Where files that are not put in place by themselves were written. */
      files: z.array(z.string()).optional(),
      /** SHA-256 over all that comes from the store, as the backup says and as it was found. */
      contentRoot: z.string().optional(),
      foundRoot: z.string().optional(),
      /**
       * The key that signed it, and by what that is known here: as this vault's own, as one that the
       * configuration names, or because the key provider vouches for it.
       */
      author: z
        .object({
          key: z.string().nullable(),
          knownBy: z.enum(['vault', 'configuration', 'key-provider']).nullable(),
        })
        .optional(),
      /** Destinations that have it. */
      destinations: z.array(z.string()).optional(),
      durationMs: z.number().int(),
    })
    .nullable(),
});
export type BackupRun = z.infer<typeof backupRun>;

/** What opens a backup that the vault's own key provider does not: of another vault, or after its loss. */
const openedBy = z.union([
  z.strictObject({ passphrase: z.string().min(1).max(4_096) }),
  z.strictObject({ identity: z.string().min(1).max(200) }),
]);

export const createBackup = agentOperation('backups.create', {
  method: 'POST',
  path: '/v1/backups',
  summary: 'Make a backup now; the answer may wait for its end',
  tag: group,
  action: 'backup.create',
  body: z
    .strictObject({
      contents: contents.optional(),
      /** Some of the configured ones; without it all. */
      destinations: z.array(label).min(1).max(20).optional(),
      waitSeconds,
    })
    .prefault({}),
  output: backupRun,
  status: 202,
});

export const listBackups = agentOperation('backups.list', {
  method: 'GET',
  path: '/v1/backups',
  summary: 'List the backups that the destinations have, the newest first',
  tag: group,
  action: 'backup.read',
  query: listQuery({}),
  output: page(backup),
});

export const readBackup = agentOperation('backups.read', {
  method: 'GET',
  path: '/v1/backups/{id}',
  summary: 'Show a backup',
  tag: group,
  action: 'backup.read',
  params: byId,
  output: backup,
});

export const deleteBackup = agentOperation('backups.delete', {
  method: 'DELETE',
  path: '/v1/backups/{id}',
  summary: 'Delete a backup from every destination',
  tag: group,
  action: 'backup.delete',
  params: byId,
  status: 204,
});

export const verifyBackup = agentOperation('backups.verify', {
  method: 'POST',
  path: '/v1/backups/{id}/verify',
  summary: 'Read a backup to its end, checking every checksum, without restoring anything',
  tag: group,
  action: 'backup.verify',
  params: byId,
  body: z
    .strictObject({ destination: label.optional(), openedBy: openedBy.optional(), waitSeconds })
    .prefault({}),
  output: backupRun,
  status: 202,
});

export const restoreBackup = agentOperation('backups.restore', {
  method: 'POST',
  path: '/v1/backups/{id}/restore',
  summary: 'Restore a backup as a whole, or what is selected of it, all or nothing',
  tag: group,
  action: 'backup.restore',
  params: byId,
  body: z
    .strictObject({
      destination: label.optional(),
      openedBy: openedBy.optional(),
      contents: contents.default(['secrets']),
      /**
       * `full`: the vault holds what the backup holds and nothing else. `selected`: secrets that match
       * are taken in beside what is there.
       */
      mode: z.enum(['full', 'selected']).default('selected'),
      namespaces: z.array(namePattern).min(1).max(limits.patternsMax).optional(),
      secrets: z.array(namePattern).min(1).max(limits.patternsMax).optional(),
      /** Ids of records of the token vault. */
      records: z.array(namePattern).min(1).max(limits.patternsMax).optional(),
      /** What happens to a secret that is there already; in mode `full` all are replaced. */
      existing: z.enum(['fail', 'skip', 'replace']).default('fail'),
      /** Also where that overwrites what is newer than the backup. */
      force: z.boolean().default(false),
      /** Also what is signed by nobody who is known here. */
      acceptUnknownAuthor: z.boolean().default(false),
      dryRun: z.boolean().default(false),
      waitSeconds,
    })
    .refine(
      ({ mode, namespaces, secrets, records }) =>
        mode === 'selected' ||
        (namespaces === undefined && secrets === undefined && records === undefined),
      'mode full takes everything: it has no patterns',
    )
    .prefault({}),
  output: backupRun,
  status: 202,
});
export type RestoreOrder = z.output<typeof restoreBackup.body>;

export const drillBackup = agentOperation('backups.drill', {
  method: 'POST',
  path: '/v1/backups/{id}/drill',
  summary: 'Restore a backup into a scratch vault, compare it with what the backup says, drop it',
  tag: group,
  action: 'backup.drill',
  params: byId,
  body: z
    .strictObject({ destination: label.optional(), openedBy: openedBy.optional(), waitSeconds })
    .prefault({}),
  output: backupRun,
  status: 202,
});

export const listBackupRuns = agentOperation('backup-runs.list', {
  method: 'GET',
  path: '/v1/backup-runs',
  summary: 'List what was done with backups, the newest first',
  tag: group,
  action: 'backup.read',
  query: listQuery({
    kind: z.enum(backupRunKinds).optional(),
    state: z.enum(backupRunStates).optional(),
  }),
  output: page(backupRun),
});

export const readBackupRun = agentOperation('backup-runs.read', {
  method: 'GET',
  path: '/v1/backup-runs/{id}',
  summary: 'Show how far a backup, a verification, a restore or a drill is',
  tag: group,
  action: 'backup.read',
  params: z.strictObject({ id: runId }),
  output: backupRun,
});

export const backupOperations = [
  createBackup,
  listBackups,
  readBackup,
  deleteBackup,
  verifyBackup,
  restoreBackup,
  drillBackup,
  listBackupRuns,
  readBackupRun,
];
