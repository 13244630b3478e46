/**
 * Takes what a backup holds into a vault. It is read to its end before anything is written; then secrets,
 * roles and keys are one transaction. Files that a running agent uses are never put in place: they are
 * laid beside, in a folder that appears when it is complete.
 */
import { createWriteStream } from 'node:fs';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { RestoreOrder } from '@keystead/contracts/agent-api/backup';
import { ServiceError } from '@keystead/contracts/errors';
import type { StreamIdentity } from '@keystead/envelope/sealed-stream';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import type { AccessTables } from '../access/access-tables.ts';
import type { Caller } from '../access/caller.ts';
import { anyNameMatcher } from '../access/name-pattern.ts';
import type { ImportCounts } from '../namespaces/archive-import.ts';
import { type ArchiveRow, decodeRows } from '../namespaces/archive-rows.ts';
import { removeNamespace } from '../namespaces/namespaces.ts';
import { dropOrphans, keepUses, restartRotations } from '../rotation/rotation-restart.ts';
import type { RotationSchema } from '../rotation/rotation-tables.ts';
import type { AgentSchema } from '../store/agent-tables.ts';
import { lockNamespace, lockVault } from '../store/locks.ts';
import type { Vault } from '../store/vault.ts';
import { type AccessLine, readAccess, takeAccess } from './backup-access.ts';
import type { BackupReader, BackupSummary } from './backup-archive.ts';
import { backupLimits as limits } from './backup-limits.ts';
import { type RecordQueries, readRecords, takeRecords } from './backup-records.ts';
import { type RotationLine, readRotations, takeRotations } from './backup-rotations.ts';
import { upTo } from './backup-sections.ts';
import { workPath } from './stored-backups.ts';

export type RestoreChoices = Pick<
  RestoreOrder,
  'contents' | 'mode' | 'namespaces' | 'secrets' | 'records' | 'existing' | 'force' | 'dryRun'
>;

export interface Restored {
  summary: BackupSummary;
  counts: ImportCounts;
  removedNamespaces: number;
  /** Of the token vault. */
  records: number;
  /** Secrets that are rotated as the backup says. */
  rotations: number;
  files: string[];
  /** Something newer than the backup was overwritten, because that was wanted. */
  wasForced: boolean;
}

export interface RestoreOptions {
  vault: Vault;
  /** The backup, on this machine. */
  reader: BackupReader;
  identities: readonly StreamIdentity[];
  /**
   * False: anybody may have made it. What says who may do what, and where values are sent, is not taken
   * from them.
   */
  isAuthorKnown: boolean;
  caller: Caller;
  choices: RestoreChoices;
  /** Where files of the backup are laid. */
  folder: string;
  now: () => number;
  /** Called between the steps; tests end the process there. */
  onStep?: (step: RestoreStep) => void | Promise<void>;
}

export const restoreSteps = ['read', 'removed', 'written', 'laid'] as const;
export type RestoreStep = (typeof restoreSteps)[number];

const noCounts: ImportCounts = {
  namespaces: 0,
  created: 0,
  replaced: 0,
  skipped: 0,
  versions: 0,
  bytes: 0,
};

/** What the first reading finds. */
interface Found {
  namespaceNames: string[];
  access: AccessLine[];
  /** Backups of before have none, and say nothing of rotation. */
  hasRotations: boolean;
  /** File names, laid in the folder that is not complete yet. */
  files: string[];
}

/**
 * @throws ServiceError `conflict` where it would overwrite what is newer and `force` is not set, or where
 * something is there already; Corrupt, WrongKey
 */
export async function restore(options: RestoreOptions): Promise<Restored> {
  const { vault, choices, caller, identities, reader } = options;
  const step = options.onStep ?? (() => undefined);
  requireContents(reader, choices);
  if (!options.isAuthorKnown && choices.contents.includes('access')) {
    throw new ServiceError('unprocessable', {
      detail:
        'Roles and keys are not taken from an unknown author: name the author under backup.authors',
    });
  }
  const laid = join(options.folder, `restored-${reader.header.id}`);
  const unfinished = workPath(options.folder, 'restoring');
  try {
    const found = await readAll(reader, identities, choices, unfinished);
    found.hasRotations &&= options.isAuthorKnown;
    const { summary } = reader;
    const guard = new Guard(vault, reader, summary, found, choices);
    await vault.store.snapshot((queries) => guard.check(queries));
    await step('read');
    const isFull = choices.mode === 'full';
    let removedNamespaces = 0;
    let records = { taken: 0, overwroteNewer: false };
    let rotations = 0;
    /** Of secrets that are rotated: their ids stay, so that their history does. */
    let rotated = new Map<string, string>();
    const before = async (queries: Queries<AgentSchema>) => {
      await guard.check(queries);
      if (choices.contents.includes('access')) {
        await takeAccess(queries as unknown as Queries<AccessTables>, found.access);
      }
      if (choices.contents.includes('records')) {
        records = await takeRecords(
          queries as unknown as RecordQueries,
          recordsOf(reader, identities, choices),
          { ...choices, backedUpAtMs: reader.header.createdAtMs },
        );
      }
      if (!choices.contents.includes('secrets') || !isFull) return;
      const rotation = queries as unknown as Queries<RotationSchema>;
      rotated = await rotatedSecrets(rotation);
      const removed = await lockAll(vault, queries);
      await restartRotations(rotation, vault.store.kind, options.now());
      if (found.hasRotations) await rotation.deleteFrom('rotation').execute();
      else await keepUses(rotation);
      await removeAll(queries, removed);
      removedNamespaces = removed.length;
      await step('removed');
    };
    const after = async (queries: Queries<AgentSchema>, changed: readonly string[]) => {
      const rotation = queries as unknown as Queries<RotationSchema>;
      if (found.hasRotations) {
        const lines = rotationsOf(reader, identities, choices);
        rotations = await takeRotations(rotation, lines, new Set(changed));
      }
      if (isFull) await dropOrphans(rotation);
    };
    let counts = noCounts;
    if (choices.contents.includes('secrets')) {
      counts = await vault.transfer.importRows(caller, () => rowsOf(reader, identities, choices), {
        existing: isFull ? 'fail' : choices.existing,
        intoEmpty: isFull,
        idHere: (namespace, secret) => rotated.get(`${namespace} ${secret}`),
        createNamespaces: true,
        dryRun: choices.dryRun,
        before,
        after,
      });
    } else if (!choices.dryRun) {
      await vault.store.writeInBulk(before);
    }
    await step('written');
    const files = found.files.map((name) => join(laid, name));
    if (choices.dryRun || files.length === 0) {
      await rm(unfinished, { recursive: true, force: true });
    } else {
      await rm(laid, { recursive: true, force: true });
      await rename(unfinished, laid);
    }
    await step('laid');
    await vault.directory.look();
    return {
      summary,
      counts,
      removedNamespaces,
      files: choices.dryRun ? [] : files,
      records: records.taken,
      rotations,
      wasForced: (guard.wasForced || records.overwroteNewer) && !choices.dryRun,
    };
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    throw error;
  }
}

/** The rows of the secrets, the whole backup being read to its end. */
export async function* rowsOf(
  reader: BackupReader,
  identities: readonly StreamIdentity[],
  choices: Pick<RestoreChoices, 'mode' | 'namespaces' | 'secrets'>,
): AsyncGenerator<ArchiveRow, void, undefined> {
  for await (const { name, content } of reader.sections(identities)) {
    if (name === 'secrets') yield* selected(decodeRows(content), choices);
  }
  void reader.summary;
}

async function* selected(
  rows: AsyncIterable<ArchiveRow>,
  { namespaces = ['*'], secrets }: Pick<RestoreChoices, 'namespaces' | 'secrets'>,
): AsyncGenerator<ArchiveRow, void, undefined> {
  const takesNamespace = anyNameMatcher(namespaces);
  const takesSecret = anyNameMatcher(secrets ?? ['*']);
  /** Whose secrets are looked at. */
  let namespace: ArchiveRow | undefined;
  let isToldOf = false;
  let isTaken = false;
  for await (const row of rows) {
    if (row.kind === 'namespace') {
      namespace = takesNamespace(row.name) ? row : undefined;
      // With patterns for secrets, a namespace comes along only where one matches.
      isToldOf = namespace !== undefined && secrets === undefined;
      if (isToldOf) yield row;
      continue;
    }
    if (namespace === undefined) continue;
    if (row.kind === 'secret') isTaken = takesSecret(row.name);
    if (!isTaken) continue;
    if (!isToldOf) yield namespace;
    isToldOf = true;
    yield row;
  }
}

async function* recordsOf(
  reader: BackupReader,
  identities: readonly StreamIdentity[],
  { records = ['*'] }: Pick<RestoreChoices, 'records'>,
) {
  const takes = anyNameMatcher(records);
  for await (const { name, content } of reader.sections(identities)) {
    if (name !== 'records') continue;
    for await (const record of readRecords(content)) if (takes(record.id)) yield record;
  }
}

/** They stand before the secrets, so that little is read for them. */
async function* rotationsOf(
  reader: BackupReader,
  identities: readonly StreamIdentity[],
  { namespaces = ['*'], secrets = ['*'] }: RestoreChoices,
): AsyncGenerator<RotationLine, void, undefined> {
  const takesNamespace = anyNameMatcher(namespaces);
  const takesSecret = anyNameMatcher(secrets);
  for await (const { name, content } of reader.sections(identities)) {
    if (name !== 'rotations') continue;
    for await (const line of readRotations(content)) {
      if (takesNamespace(line.namespace) && takesSecret(line.secret)) yield line;
    }
    return;
  }
}

function requireContents(reader: BackupReader, choices: RestoreChoices): void {
  const missing = choices.contents.filter((name) => !reader.header.contents.includes(name));
  if (missing.length === 0) return;
  throw new ServiceError('unprocessable', {
    detail: `The backup does not hold: ${missing.join(', ')}`,
  });
}

async function readAll(
  reader: BackupReader,
  identities: readonly StreamIdentity[],
  choices: RestoreChoices,
  folder: string,
): Promise<Found> {
  const found: Found = { namespaceNames: [], access: [], hasRotations: false, files: [] };
  const wanted = new Set<string>(choices.contents);
  for await (const section of reader.checkedSections(identities)) {
    if (section.name === 'secrets' && wanted.has('secrets')) {
      for await (const row of selected(decodeRows(section.content), choices)) {
        if (row.kind === 'namespace') found.namespaceNames.push(row.name);
      }
    }
    if (section.name === 'rotations' && wanted.has('secrets')) {
      found.hasRotations = true;
      for await (const _ of readRotations(section.content));
    }
    if (section.name === 'access' && wanted.has('access')) {
      found.access.push(...(await readAccess(section.content)));
    }
    if (section.name === 'records' && wanted.has('records')) {
      for await (const _ of readRecords(section.content));
    }
    const isFile = section.name === 'audit' || section.name === 'configuration';
    if (isFile && wanted.has(section.name) && section.file !== undefined) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      await pipeline(
        Readable.from(
          section.name === 'audit'
            ? section.content
            : upTo(section.content, limits.configurationMaxBytes, section.file),
          { objectMode: false },
        ),
        createWriteStream(join(folder, section.file), { mode: 0o600, flags: 'wx', flush: true }),
      );
      found.files.push(section.file);
    }
  }
  if (found.files.length > 0) await syncFolder(folder);
  return found;
}

/** Notices that the store is newer than the backup where it would be overwritten. */
class Guard {
  readonly #vault: Vault;
  readonly #reader: BackupReader;
  readonly #revisions: Map<string, number>;
  readonly #names: Set<string>;
  readonly #choices: RestoreChoices;
  wasForced = false;

  constructor(
    vault: Vault,
    reader: BackupReader,
    summary: BackupSummary,
    found: Found,
    choices: RestoreChoices,
  ) {
    this.#vault = vault;
    this.#reader = reader;
    this.#revisions = new Map(summary.revisions.map(({ id, revision }) => [id, revision]));
    this.#names = new Set(found.namespaceNames);
    this.#choices = choices;
  }

  /** @throws ServiceError `conflict` */
  async check(queries: Queries<AgentSchema>): Promise<void> {
    const { mode, existing, contents, force } = this.#choices;
    if (!contents.includes('secrets')) return;
    // Nothing that is there is touched.
    if (mode === 'selected' && existing !== 'replace') return;
    const namespaces = await queries
      .selectFrom('namespace')
      .select(['id', 'name', 'revision'])
      .orderBy('name')
      .execute();
    const isSameVault = this.#reader.header.vaultId === this.#vault.store.vaultId;
    const newer = namespaces.filter(({ id, name, revision }) => {
      if (mode === 'selected' && !this.#names.has(name)) return false;
      const then = isSameVault ? this.#revisions.get(id) : undefined;
      return then === undefined || revision > then;
    });
    if (newer.length === 0) return;
    if (force) {
      this.wasForced = true;
      return;
    }
    const told = newer.slice(0, 10).map(({ name }) => name);
    const more = newer.length > told.length ? ` and ${newer.length - told.length} more` : '';
    throw new ServiceError('conflict', {
      detail: isSameVault
        ? `The vault is newer than the backup: ${told.join(', ')}${more} changed since. Force it to overwrite them`
        : `The backup is one of another vault, and would overwrite ${told.join(', ')}${more}. Force it to do so`,
    });
  }
}

/** Always in this order: namespaces, then the vault, which stops new ones. @returns their ids */
async function lockAll(vault: Vault, queries: Queries<AgentSchema>): Promise<string[]> {
  const { kind } = vault.store;
  const ids = async () =>
    (await queries.selectFrom('namespace').select('id').orderBy('id').execute()).map(
      ({ id }) => id,
    );
  for (const id of await ids()) await lockNamespace(kind, queries, id);
  await lockVault(kind, queries);
  return ids();
}

async function removeAll(queries: Queries<AgentSchema>, ids: readonly string[]): Promise<void> {
  for (const id of ids) await removeNamespace(queries, id);
  await queries
    .updateTable('vault_state')
    .set({ namespace_count: 0 })
    .where('only', '=', 1)
    .execute();
}

async function rotatedSecrets(queries: Queries<RotationSchema>): Promise<Map<string, string>> {
  const rows = await queries
    .selectFrom('rotation')
    .innerJoin('secret', 'secret.id', 'rotation.secret_id')
    .innerJoin('namespace', 'namespace.id', 'secret.namespace_id')
    .select(['secret.id', 'secret.name', 'namespace.name as namespace'])
    .execute();
  return new Map(rows.map(({ id, name, namespace }) => [`${namespace} ${name}`, id]));
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
