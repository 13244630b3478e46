/** Tables of a vault, and how they came to be: each version is a step that is done once, in order. */
import { type Generated, sql } from 'kysely';
import { vaultLimits } from './limits.ts';
import { dataTags } from './record-data.ts';
import {
  bytesColumn,
  integerColumn,
  nameColumn,
  positionColumn,
  textColumn,
} from './sql/columns.ts';
import type { Queries, SqlKind, SqlStore } from './sql/sql-store.ts';
import { SchemaBusy, SchemaMissing, SchemaTooNew } from './vault-error.ts';

/** In the place of a time that never comes: sorts last, and needs no index of its own. */
export const never = Number.MAX_SAFE_INTEGER;

export interface VaultTable {
  /** Counted up by the database: the order in which a rekey walks. */
  position: Generated<number>;
  id: string;
  token: string;
  /** Encrypted. */
  value: Uint8Array;
  /** JSON, a map of strings. */
  data: string;
  created_at: number;
  updated_at: number;
  /** Or {@link never}. */
  expires_at: number;
  /** Or {@link never}. */
  soft_deleted_at: number;
}

/** Settings; `object_type` is `vault`, `object_id` says whose. */
export interface VaultMetaTable {
  id: Generated<number>;
  object_type: string;
  object_id: string;
  meta_key: string;
  meta_value: string | null;
  created_at: number;
  updated_at: number;
}

/** One row for each entry of a record's metadata: a hash of name and value, to find records by. */
export interface VaultDataTagTable {
  tag: string;
  record_id: string;
}

/** Rekeys that are not finished. A finished one leaves nothing. */
export interface VaultRekeyTable {
  id: string;
  /** Who works on it now. */
  owner: string;
  /** Tells whether a later run has the same passwords, to whoever has them. */
  proof: Uint8Array;
  /** The position up to which all is done. */
  after_position: number;
  /** Counts and ids, JSON. */
  found: string;
  started_at: number;
  updated_at: number;
}

export interface VaultSchema {
  vault: VaultTable;
  vault_meta: VaultMetaTable;
  vault_data_tag: VaultDataTagTable;
  vault_rekey: VaultRekeyTable;
}

interface Migration {
  version: number;
  /** May be run again after it was cut off: MySQL commits each statement by itself. */
  up(queries: Queries<VaultSchema>, kind: SqlKind): Promise<void>;
}

export const migrations: readonly Migration[] = [
  { version: 1, up: createRecords },
  { version: 2, up: createDataTags },
  { version: 3, up: createRekeyJournal },
];
export const currentVersion = migrations.length;

async function createRecords(queries: Queries<VaultSchema>, kind: SqlKind): Promise<void> {
  const time = integerColumn(kind);
  await sql`
    create table if not exists vault (
      position ${positionColumn(kind)},
      id ${nameColumn(kind, vaultLimits.maxIdCharacters)} not null,
      token ${nameColumn(kind, vaultLimits.maxTokenCharacters)} not null,
      value ${bytesColumn(kind)} not null,
      data ${textColumn(kind)} not null,
      created_at ${time} not null,
      updated_at ${time} not null,
      expires_at ${time} not null,
      soft_deleted_at ${time} not null
    ) ${sql.raw(kind === 'sqlite' ? 'strict' : kind === 'mysql' ? 'engine = InnoDB' : '')}
  `.execute(queries);
  // Room in each page for the records that a rekey rewrites, so that no index is touched.
  if (kind === 'postgresql') {
    await sql`alter table vault set (fillfactor = 50)`.execute(queries);
    // A sealed value does not compress; trying costs time.
    await sql`alter table vault alter column value set storage external`.execute(queries);
  }
  await index(queries, kind, 'vault_id', 'vault', ['id'], true);
  await index(queries, kind, 'vault_token', 'vault', ['token'], true);
  for (const time of ['created_at', 'updated_at', 'expires_at', 'soft_deleted_at']) {
    // SQLite and InnoDB end every index with the position by themselves.
    const columns = kind === 'postgresql' ? [time, 'position'] : [time];
    await index(queries, kind, `vault_${time}`, 'vault', columns);
  }
}

async function createDataTags(queries: Queries<VaultSchema>, kind: SqlKind): Promise<void> {
  await sql`
    create table if not exists vault_data_tag (
      tag ${nameColumn(kind, 32)} not null,
      record_id ${nameColumn(kind, vaultLimits.maxIdCharacters)} not null,
      primary key (tag, record_id)
    ) ${sql.raw(kind === 'sqlite' ? 'strict, without rowid' : '')}
  `.execute(queries);
  await index(queries, kind, 'vault_data_tag_record', 'vault_data_tag', ['record_id']);
  await tagAll(queries);
}

async function createRekeyJournal(queries: Queries<VaultSchema>, kind: SqlKind): Promise<void> {
  await sql`
    create table if not exists vault_rekey (
      id ${nameColumn(kind, 64)} not null primary key,
      owner ${nameColumn(kind, 64)} not null,
      proof ${bytesColumn(kind)} not null,
      after_position ${integerColumn(kind)} not null,
      found ${textColumn(kind)} not null,
      started_at ${integerColumn(kind)} not null,
      updated_at ${integerColumn(kind)} not null
    ) ${sql.raw(kind === 'sqlite' ? 'strict' : '')}
  `.execute(queries);
}

async function tagAll(queries: Queries<VaultSchema>): Promise<void> {
  await queries.deleteFrom('vault_data_tag').execute();
  for (let after = 0; ; ) {
    const rows = await queries
      .selectFrom('vault')
      .select(['position', 'id', 'data'])
      .where('position', '>', after)
      .where('data', '<>', '{}')
      .orderBy('position')
      .limit(500)
      .execute();
    const last = rows.at(-1);
    if (last === undefined) return;
    for (const { id, data } of rows) {
      const tags = dataTags(JSON.parse(data)).map((tag) => ({ tag, record_id: id }));
      await queries.insertInto('vault_data_tag').values(tags).execute();
    }
    after = last.position;
  }
}

async function index(
  queries: Queries<VaultSchema>,
  kind: SqlKind,
  name: string,
  table: string,
  columns: string[],
  unique = false,
): Promise<void> {
  if (kind === 'mysql') {
    // MySQL has no "if not exists" here.
    const { rows } = await sql`
      select 1 from information_schema.statistics
      where table_schema = database() and table_name = ${table} and index_name = ${name}
      limit 1
    `.execute(queries);
    if (rows.length > 0) return;
  }
  await sql`
    create ${sql.raw(unique ? 'unique' : '')} index ${sql.raw(kind === 'mysql' ? '' : 'if not exists')}
    ${sql.ref(name)} on ${sql.table(table)} (${sql.join(columns.map((column) => sql.ref(column)))})
  `.execute(queries);
}

/** How long another process may take to bring the tables up to date. */
const lockWaitSeconds = 60;

/**
 * Brings the tables to the current version, or to an earlier one for a test. Several processes may do
 * it at once: one does it, the others wait. Nothing it does touches a stored value or time.
 * @throws SchemaTooNew where a later program made them; SchemaBusy where another does not get done
 */
export async function migrateVault(
  store: SqlStore<VaultSchema>,
  nowMs: number,
  toVersion: number = currentVersion,
): Promise<{ from: number; to: number }> {
  return store.write(
    async (queries) => {
      const lock = sql`'keystead vault migration'`;
      if (store.kind === 'postgresql') {
        await sql`select pg_advisory_xact_lock(hashtextextended(${lock}, 0))`.execute(queries);
      }
      if (store.kind === 'mysql') {
        const { rows } = await sql<{ has: number | null }>`
        select get_lock(concat(database(), '.', ${lock}), ${lockWaitSeconds}) as has
      `.execute(queries);
        if (Number(rows[0]?.has) !== 1) throw new SchemaBusy(lockWaitSeconds);
      }
      try {
        await createMeta(queries, store.kind);
        const from = await readVersion(queries);
        if (from > currentVersion) throw new SchemaTooNew(from, currentVersion);
        for (const { version, up } of migrations) {
          if (version <= from || version > toVersion) continue;
          await up(queries, store.kind);
          await writeVersion(queries, version, nowMs);
        }
        return { from, to: Math.max(from, toVersion) };
      } finally {
        if (store.kind === 'mysql') {
          await sql`select release_lock(concat(database(), '.', ${lock}))`.execute(queries);
        }
      }
    },
    { isBulk: true },
  );
}

/** @throws SchemaMissing, SchemaTooNew where the tables are of another version */
export async function requireCurrentSchema(store: SqlStore<VaultSchema>): Promise<void> {
  // A table that is not there is version 0; what else is wrong shows with the first query.
  const found = await readVersion(store.db).catch(() => 0);
  if (found > currentVersion) throw new SchemaTooNew(found, currentVersion);
  if (found < currentVersion) throw new SchemaMissing(found, currentVersion);
}

async function createMeta(queries: Queries<VaultSchema>, kind: SqlKind): Promise<void> {
  await sql`
    create table if not exists vault_meta (
      id ${positionColumn(kind)},
      object_type ${nameColumn(kind, 32)} not null,
      object_id ${nameColumn(kind, 64)} not null,
      meta_key ${nameColumn(kind, vaultLimits.maxSettingNameCharacters)} not null,
      meta_value ${textColumn(kind)},
      created_at ${integerColumn(kind)} not null,
      updated_at ${integerColumn(kind)} not null
    ) ${sql.raw(kind === 'sqlite' ? 'strict' : '')}
  `.execute(queries);
  const columns = ['object_type', 'object_id', 'meta_key'];
  await index(queries, kind, 'vault_meta_object', 'vault_meta', columns, true);
}

const versionKey = { object_type: 'vault', object_id: 'schema', meta_key: 'version' } as const;

async function readVersion(queries: Queries<VaultSchema>): Promise<number> {
  const row = await queries
    .selectFrom('vault_meta')
    .select('meta_value')
    .where((where) => where.and(versionKey))
    .executeTakeFirst();
  return Number(row?.meta_value ?? 0);
}

async function writeVersion(
  queries: Queries<VaultSchema>,
  version: number,
  nowMs: number,
): Promise<void> {
  const changed = await queries
    .updateTable('vault_meta')
    .set({ meta_value: String(version), updated_at: nowMs })
    .where((where) => where.and(versionKey))
    .executeTakeFirst();
  if (changed.numUpdatedRows > 0n) return;
  await queries
    .insertInto('vault_meta')
    .values({
      ...versionKey,
      meta_value: String(version),
      created_at: nowMs,
      updated_at: nowMs,
    })
    .execute();
}
