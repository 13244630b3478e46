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
import { Corrupt } from '@keystead/envelope/sealed';
import type { StreamIdentity } from '@keystead/envelope/sealed-stream';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import type { AccessTables } from '../access/access-tables.ts';
import type { Caller } from '../access/caller.ts';
import { anyNameMatcher } from '../access/name-pattern.ts';
import type { ImportCounts } from '../namespaces/archive-import.ts';
import { type ArchiveRow, decodeRows } from '../namespaces/archive-rows.ts';
import { removeNamespace } from '../namespaces/namespaces.ts';
import type { AgentSchema } from '../store/agent-tables.ts';
import { lockNamespace, lockVault } from '../store/locks.ts';
import type { Vault } from '../store/vault.ts';
import { BackupReader, type BackupSummary, type Section } from './backup-archive.ts';
import { backupLimits as limits } from './backup-limits.ts';
import { type RecordQueries, readRecords, takeRecords } from './backup-records.ts';
import { type AccessLine, accessLine } from './backup-sections.ts';
import { workPath } from './stored-backups.ts';

export type RestoreChoices = Pick<
  RestoreOrder,
  'contents' | 'mode' | 'namespaces' | 'secrets' | 'existing' | 'force' | 'dryRun'
>;

export interface Restored {
  summary: BackupSummary;
  counts: ImportCounts;
  removedNamespaces: number;
  /** Of the token vault. */
  records: number;
  files: string[];
  /** Something newer than the backup was overwritten, because that was wanted. */
  wasForced: boolean;
}

export interface RestoreOptions {
  vault: Vault;
  /** The backup, on this machine. */
  file: string;
  identities: readonly StreamIdentity[];
  caller: Caller;
  choices: RestoreChoices;
  /** Where files of the backup are laid. */
  folder: string;
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
  /** File names, laid in the folder that is not complete yet. */
  files: string[];
}

/**
 * @throws ServiceError `conflict` where it would overwrite what is newer and `force` is not set, or where
 * something is there already; Corrupt, WrongKey
 */
export async function restore(options: RestoreOptions): Promise<Restored> {
  const { vault, choices, caller, identities } = options;
  const step = options.onStep ?? (() => undefined);
  const reader = await BackupReader.open(options.file);
  requireContents(reader, choices);
  const laid = join(options.folder, `restored-${reader.header.id}`);
  const unfinished = workPath(options.folder, 'restoring');
  try {
    const found = await readAll(reader, identities, choices, unfinished);
    const { summary } = reader;
    const guard = new Guard(vault, reader, summary, found, choices);
    await vault.store.snapshot((queries) => guard.check(queries));
    await step('read');
    let removedNamespaces = 0;
    let records = { taken: 0, overwroteNewer: false };
    const before = async (queries: Queries<AgentSchema>) => {
      await guard.check(queries);
      if (choices.contents.includes('access')) await takeAccess(queries, found.access);
      if (choices.contents.includes('records')) {
        records = await takeRecords(
          queries as unknown as RecordQueries,
          recordsOf(reader, identities),
          { ...choices, backedUpAtMs: reader.header.createdAtMs },
        );
      }
      if (!choices.contents.includes('secrets') || choices.mode !== 'full') return;
      removedNamespaces = await removeAll(vault, queries);
      await step('removed');
    };
    let counts = noCounts;
    if (choices.contents.includes('secrets')) {
      const isFull = choices.mode === 'full';
      counts = await vault.transfer.importRows(caller, () => rowsOf(reader, identities, choices), {
        existing: isFull ? 'fail' : choices.existing,
        intoEmpty: isFull,
        createNamespaces: true,
        dryRun: choices.dryRun,
        before,
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

async function* recordsOf(reader: BackupReader, identities: readonly StreamIdentity[]) {
  for await (const { name, content } of reader.sections(identities)) {
    if (name === 'records') yield* readRecords(content);
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
  const found: Found = { namespaceNames: [], access: [], files: [] };
  for await (const section of reader.sections(identities)) {
    if (section.name === 'secrets' && choices.contents.includes('secrets')) {
      for await (const row of selected(decodeRows(section.content), choices)) {
        if (row.kind === 'namespace') found.namespaceNames.push(row.name);
      }
    }
    if (section.name === 'access' && choices.contents.includes('access')) {
      found.access.push(...(await readAccess(section)));
    }
    if (section.name === 'records' && choices.contents.includes('records')) {
      for await (const _ of readRecords(section.content));
    }
    const isFile = section.name === 'audit' || section.name === 'configuration';
    if (isFile && choices.contents.includes(section.name) && section.file !== undefined) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      await pipeline(
        Readable.from(section.content, { objectMode: false }),
        createWriteStream(join(folder, section.file), { mode: 0o600, flags: 'wx', flush: true }),
      );
      found.files.push(section.file);
    }
  }
  if (found.files.length > 0) await syncFolder(folder);
  return found;
}

async function readAccess({ content }: Section): Promise<AccessLine[]> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of content) {
    length += chunk.length;
    if (length > limits.accessMaxBytes) throw new Corrupt('too_long');
    chunks.push(chunk);
  }
  const lines = Buffer.concat(chunks).toString('utf8').split('\n');
  return lines
    .filter((line) => line !== '')
    .map((line) => {
      let json: unknown;
      try {
        json = JSON.parse(line);
      } catch {
        throw new Corrupt('content', 'the roles and keys of the backup are no JSON');
      }
      const parsed = accessLine.safeParse(json);
      if (!parsed.success) throw new Corrupt('content', 'the roles and keys are not understood');
      return parsed.data;
    });
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

async function removeAll(vault: Vault, queries: Queries<AgentSchema>): Promise<number> {
  const { kind } = vault.store;
  let removed = 0;
  const ids = async () =>
    (await queries.selectFrom('namespace').select('id').orderBy('id').execute()).map(
      ({ id }) => id,
    );
  // Always in this order: namespaces, then the vault, which stops new ones.
  for (const id of await ids()) await lockNamespace(kind, queries, id);
  await lockVault(kind, queries);
  for (const id of await ids()) {
    await removeNamespace(queries, id);
    removed += 1;
  }
  await queries
    .updateTable('vault_state')
    .set({ namespace_count: 0 })
    .where('only', '=', 1)
    .execute();
  return removed;
}

/** Roles and keys that are missing are added; what is here stays, above all what was revoked since. */
async function takeAccess(
  queries: Queries<AgentSchema>,
  lines: readonly AccessLine[],
): Promise<void> {
  const access = queries as unknown as Queries<AccessTables>;
  const roles = await access.selectFrom('access_role').select('name').execute();
  const keys = await access.selectFrom('api_key').select(['id', 'prefix']).execute();
  const taken = new Set([
    ...roles.map(({ name }) => `role ${name}`),
    ...keys.flatMap(({ id, prefix }) => [`key ${id}`, `prefix ${prefix}`]),
  ]);
  for (const line of lines) {
    if (line.kind === 'role') {
      if (taken.has(`role ${line.name}`)) continue;
      const { kind: _kind, ...role } = line;
      await access
        .insertInto('access_role')
        .values({ ...role, revision: 1 })
        .execute();
    } else {
      if (taken.has(`key ${line.id}`) || taken.has(`prefix ${line.prefix}`)) continue;
      const { kind: _kind, digest, ...key } = line;
      await access
        .insertInto('api_key')
        .values({ ...key, digest: Buffer.from(digest, 'base64') })
        .execute();
    }
  }
  await access
    .updateTable('access_state')
    .set((row) => ({ revision: row('revision', '+', 1) }))
    .execute();
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
