/**
 * Steps that bring a store up to date, each once. Every domain brings its own; a step is never changed
 * after it was released. MySQL commits after every statement that defines something, so a step has to
 * bear being begun again: tables are made `if not exists`, indexes by {@link createIndex}.
 */
import { nameColumn } from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind, SqlStore } from '@keystead/vault-store/sql/sql-store';
import { sql } from 'kysely';

export interface Migration {
  /** Unique over all domains, e.g. `rotation-1`. */
  name: string;
  apply(queries: Queries<unknown>, kind: SqlKind): Promise<void>;
}

interface MigrationSchema {
  keystead_migration: { name: string; applied_at_ms: number };
}

/** The store was written by a newer version: this one would not understand it. */
export class StoreTooNew extends Error {
  constructor(name: string) {
    super(`the store was written by a newer version: it has the step ${name}, unknown here`);
    this.name = 'StoreTooNew';
  }
}

/** The lock of PostgreSQL that agents starting together wait for; any number that is ours. */
const lockNumber = 7_305_817_001;
const lockName = 'keystead migration';
/** Longer than a store is brought up to date. */
const lockWaitDefaultSeconds = 60;

/** Another agent has been bringing the store up to date for longer than that takes. */
export class StoreBusy extends Error {
  constructor(lockWaitSeconds: number) {
    super(
      `another agent has been bringing the store up to date for ${lockWaitSeconds} s: start again later`,
    );
    this.name = 'StoreBusy';
  }
}

/**
 * Applies what is missing; agents that start at the same moment wait for one another.
 * @throws StoreTooNew, StoreBusy
 */
export async function migrate(
  store: SqlStore<unknown>,
  migrations: readonly Migration[],
  nowMs: number,
  lockWaitSeconds = lockWaitDefaultSeconds,
): Promise<void> {
  const names = new Set(migrations.map(({ name }) => name));
  if (names.size !== migrations.length) throw new Error('two migrations have one name');
  const apply = (queries: Queries<unknown>) => applyMissing(queries, store.kind, migrations, nowMs);
  // SQLite has one writer: whoever comes second finds everything done.
  if (store.kind === 'sqlite') return store.write(apply);
  await store.bulk.connection().execute(async (queries) => {
    const isPostgresql = store.kind === 'postgresql';
    if (isPostgresql) await sql`select pg_advisory_lock(${lockNumber})`.execute(queries);
    else await lockMysql(queries, lockWaitSeconds);
    try {
      await queries.transaction().execute(apply);
    } finally {
      await (isPostgresql
        ? sql`select pg_advisory_unlock(${lockNumber})`
        : sql`select release_lock(${lockName})`
      ).execute(queries);
    }
  });
}

async function lockMysql(queries: Queries<unknown>, lockWaitSeconds: number): Promise<void> {
  const { rows } = await sql<{ has: number | null }>`
    select get_lock(${lockName}, ${lockWaitSeconds}) as has
  `.execute(queries);
  if (Number(rows[0]?.has) !== 1) throw new StoreBusy(lockWaitSeconds);
}

async function applyMissing(
  queries: Queries<unknown>,
  kind: SqlKind,
  migrations: readonly Migration[],
  nowMs: number,
): Promise<void> {
  const known = queries as Queries<MigrationSchema>;
  await known.schema
    .createTable('keystead_migration')
    .ifNotExists()
    .addColumn('name', nameColumn(kind, 64), (column) => column.primaryKey().notNull())
    .addColumn('applied_at_ms', sql`bigint`, (column) => column.notNull())
    .execute();
  const rows = await known.selectFrom('keystead_migration').select('name').execute();
  const done = new Set(rows.map(({ name }) => name));
  for (const name of done) {
    if (!migrations.some((migration) => migration.name === name)) throw new StoreTooNew(name);
  }
  for (const migration of migrations) {
    if (done.has(migration.name)) continue;
    await migration.apply(queries, kind);
    await known
      .insertInto('keystead_migration')
      .values({ name: migration.name, applied_at_ms: nowMs })
      .execute();
  }
}

/** An index, unless an earlier attempt at the same step has made it. */
export async function createIndex(
  queries: Queries<unknown>,
  kind: SqlKind,
  name: string,
  table: string,
  columns: readonly string[],
): Promise<void> {
  const index = queries.schema
    .createIndex(name)
    .on(table)
    .columns(columns as string[]);
  if (kind !== 'mysql') return index.ifNotExists().execute();
  try {
    await index.execute();
  } catch (error) {
    // ER_DUP_KEYNAME: MySQL has no `if not exists` here.
    if ((error as { errno?: number }).errno !== 1061) throw error;
  }
}
