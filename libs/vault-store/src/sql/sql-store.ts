/**
 * One door to SQL on the customer's side: SQLite in the process, or a PostgreSQL or MySQL/MariaDB that
 * several processes share. Queries go through kysely; this file knows what differs.
 *
 * Guarantees: `write` is one transaction, committed to the disk when it resolves, run again by itself
 * after a deadlock or a lost race. On SQLite writes that wait at the same moment share one commit, each
 * behind a savepoint of its own, so that one that fails takes nothing of the others with it.
 */
import { realpathSync } from 'node:fs';
import type { DatabaseSync } from 'node:sqlite';
import {
  Kysely,
  type KyselyPlugin,
  MysqlDialect,
  type PluginTransformQueryArgs,
  type PluginTransformResultArgs,
  PostgresDialect,
  type QueryResult,
  type RootOperationNode,
  SqliteDialect,
  sql,
  type UnknownRow,
} from 'kysely';
import { impatientMysql, impatientPostgresql } from './server-connections.ts';
import { openSqliteFile, sqliteForKysely } from './sqlite.ts';

export type SqlKind = 'sqlite' | 'postgresql' | 'mysql';

export type SqlOptions =
  | { kind: 'sqlite' /** Path, or `:memory:`. */; file: string }
  | {
      kind: 'postgresql' | 'mysql';
      /** `postgres://…` or `mysql://…`, with user and password. */
      connectionString: string;
      connectionsMax: number;
      connectTimeoutMs: number;
      /** A query that takes longer is given up with its connection; by default 60 s. */
      queryTimeoutMs?: number;
      /** The same for bulk work, where a statement may concern a million rows; by default 30 min. */
      bulkQueryTimeoutMs?: number;
    };

export interface WriteOptions {
  /** Its statements may take long. */
  isBulk?: boolean;
  /** Once it is aborted the next query throws its reason, and so does the end: nothing is written. */
  signal?: AbortSignal;
}

/** What runs queries: the store's reader, or the inside of a transaction. */
export type Queries<Schema> = Kysely<Schema>;

export interface SqlStore<Schema> {
  readonly kind: SqlKind;
  /** For reads. On SQLite a connection of its own: it sees what is committed. */
  readonly db: Queries<Schema>;
  /** The same, for statements that may take long. */
  readonly bulk: Queries<Schema>;
  /** SQLite's reader itself, for statements on a hot path; undefined elsewhere. */
  readonly sqlite: DatabaseSync | undefined;
  /**
   * One transaction. `work` does nothing but queries, because others may wait for it, and may run
   * again, because a database may ask for that.
   */
  write<T>(work: (queries: Queries<Schema>) => Promise<T>, options?: WriteOptions): Promise<T>;
  /** Reads that see one state of the store, however long they take. */
  snapshot<T>(
    work: (queries: Queries<Schema>) => Promise<T>,
    options?: Pick<WriteOptions, 'signal'>,
  ): Promise<T>;
  close(): Promise<void>;
}

/** Runs of a transaction that keeps losing races before it is given up. */
const attemptsMax = 8;
/** Longer than any lock is waited for; a socket that is half open would hold a query for 15 minutes. */
const queryTimeoutDefaultMs = 60_000;
const bulkQueryTimeoutDefaultMs = 30 * 60_000;
/** A connection that rests is tried after this long, so that one that is half open is found. */
const keepAliveAfterMs = 10_000;
/** Writes that share one commit at most: bounds what a failing disk takes back at once. */
const sharedCommitMax = 64;

export async function openSql<Schema>(options: SqlOptions): Promise<SqlStore<Schema>> {
  if (options.kind === 'sqlite') return openSqlite(options.file);
  return options.kind === 'postgresql' ? openPostgresql(options) : openMysql(options);
}

type ServerOptions = Exclude<SqlOptions, { kind: 'sqlite' }>;

/** Refuses every query once the signal is aborted. */
class Abortable implements KyselyPlugin {
  readonly #signal: AbortSignal;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  transformQuery({ node }: PluginTransformQueryArgs): RootOperationNode {
    this.#signal.throwIfAborted();
    return node;
  }

  async transformResult({ result }: PluginTransformResultArgs): Promise<QueryResult<UnknownRow>> {
    return result;
  }
}

/** The work, which ends with the signal's reason once that is aborted. */
function abortable<Schema, T>(
  work: (queries: Queries<Schema>) => Promise<T>,
  signal: AbortSignal | undefined,
): (queries: Queries<Schema>) => Promise<T> {
  if (signal === undefined) return work;
  return async (queries) => {
    signal.throwIfAborted();
    const result = await work(queries.withPlugin(new Abortable(signal)));
    signal.throwIfAborted();
    return result;
  };
}

async function openPostgresql<Schema>(options: ServerOptions): Promise<SqlStore<Schema>> {
  const { default: pg } = await import('pg');
  const { builtins } = pg.types;
  const asNumber = new Set<number>([builtins.INT8, builtins.NUMERIC]);
  const pool = new pg.Pool({
    connectionString: options.connectionString,
    max: options.connectionsMax,
    connectionTimeoutMillis: options.connectTimeoutMs,
    keepAlive: true,
    keepAliveInitialDelayMillis: keepAliveAfterMs,
    // Counts and times fit a double; bigints would spread through every sum.
    types: {
      getTypeParser: (id: number, format?: 'text' | 'binary') =>
        asNumber.has(id) && format !== 'binary' ? Number : pg.types.getTypeParser(id, format),
    },
  });
  // A connection that breaks while idle is replaced; without a listener it would end the process.
  pool.on('error', () => undefined);
  const [db, bulk] = timeoutsOf(options).map(
    (timeoutMs) =>
      new Kysely<Schema>({
        dialect: new PostgresDialect({ pool: impatientPostgresql(pool, timeoutMs) }),
      }),
  ) as [Kysely<Schema>, Kysely<Schema>];
  return serverStore(
    'postgresql',
    db,
    bulk,
    () => pool.end(),
    (work) =>
      bulk
        .transaction()
        .setIsolationLevel('repeatable read')
        .setAccessMode('read only')
        .execute(work),
  );
}

async function openMysql<Schema>(options: ServerOptions): Promise<SqlStore<Schema>> {
  const { createPool } = await import('mysql2');
  const pool = createPool({
    uri: options.connectionString,
    connectionLimit: options.connectionsMax,
    connectTimeout: options.connectTimeoutMs,
    enableKeepAlive: true,
    keepAliveInitialDelay: keepAliveAfterMs,
    charset: 'utf8mb4',
    timezone: 'Z',
    supportBigNumbers: true,
    decimalNumbers: true,
    // The number of rows found, not of rows that differ afterwards: as the others count.
    flags: ['FOUND_ROWS'],
  });
  const [db, bulk] = timeoutsOf(options).map((timeoutMs) => {
    const kysely: Kysely<Schema> = new Kysely<Schema>({
      dialect: new MysqlDialect({
        pool: impatientMysql(pool, timeoutMs),
        onCreateConnection: async (connection) => {
          for (const statement of [
            // Never NO_BACKSLASH_ESCAPES: mysql2 writes parameters into the text with backslashes, and
            // a quote in one would end its string.
            "set session sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ANSI_QUOTES'",
            'set session transaction isolation level read committed',
          ]) {
            await connection.executeQuery(sql.raw(statement).compile(kysely));
          }
        },
      }),
    });
    return kysely;
  }) as [Kysely<Schema>, Kysely<Schema>];
  const end = () =>
    new Promise<void>((resolve, reject) =>
      pool.end((error) => (error ? reject(error) : resolve())),
    );
  return serverStore('mysql', db, bulk, end, (work) =>
    bulk.transaction().setIsolationLevel('repeatable read').execute(work),
  );
}

const timeoutsOf = (options: ServerOptions) => [
  options.queryTimeoutMs ?? queryTimeoutDefaultMs,
  options.bulkQueryTimeoutMs ?? bulkQueryTimeoutDefaultMs,
];

function serverStore<Schema>(
  kind: SqlKind,
  db: Kysely<Schema>,
  bulk: Kysely<Schema>,
  close: () => Promise<void>,
  snapshot: <T>(work: (queries: Queries<Schema>) => Promise<T>) => Promise<T>,
): SqlStore<Schema> {
  return {
    kind,
    db,
    bulk,
    sqlite: undefined,
    snapshot: (work, options) => snapshot(abortable(work, options?.signal)),
    write: async (work, { isBulk, signal } = {}) => {
      const queries = isBulk ? bulk : db;
      const ending = abortable(work, signal);
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await queries.transaction().setIsolationLevel('read committed').execute(ending);
        } catch (error) {
          if (attempt >= attemptsMax || !isLostRace(error)) throw error;
          await new Promise((resolve) => setTimeout(resolve, 5 * attempt));
        }
      }
    },
    close,
  };
}

/** Deadlock, serialization failure or a lock that was not had in time: nothing was done. */
export function isLostRace(error: unknown): boolean {
  const { code, errno } = (error ?? {}) as { code?: unknown; errno?: unknown };
  return code === '40001' || code === '40P01' || errno === 1213 || errno === 1205;
}

/** A unique key that is taken, on any of the databases. */
export function isDuplicate(error: unknown): boolean {
  const { code, errno, errcode } = (error ?? {}) as Record<string, unknown>;
  // SQLite: SQLITE_CONSTRAINT_PRIMARYKEY and SQLITE_CONSTRAINT_UNIQUE.
  return code === '23505' || errno === 1062 || errcode === 1555 || errcode === 2067;
}

/** One statement at most holds the event loop so long; then others have a turn. */
const sqliteBlockMs = 20;
/** How long another process may hold the file before a write is given up. */
const sqliteLockMs = 10_000;

async function beginImmediate(database: DatabaseSync): Promise<void> {
  const deadline = performance.now() + sqliteLockMs;
  for (;;) {
    try {
      database.exec('begin immediate');
      return;
    } catch (error) {
      // SQLITE_BUSY: nothing was begun.
      const isBusy = ((error as { errcode?: number }).errcode ?? 0) % 256 === 5;
      if (!isBusy || performance.now() > deadline) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/**
 * Who writes to one file in this process waits in one line: a connection that waited for another inside
 * of SQLite would hold the thread that the other needs to go on.
 */
const lines = new Map<string, { tail: Promise<void> }>();

function lineOf(file: string): { tail: Promise<void> } {
  const name = realpathSync(file);
  const line = lines.get(name) ?? { tail: Promise.resolve() };
  lines.set(name, line);
  return line;
}

interface WaitingWrite<Schema> {
  work: (queries: Queries<Schema>) => Promise<unknown>;
  resolve: (value: unknown) => void;
  reject: (error: unknown) => void;
}

function openSqlite<Schema>(file: string): SqlStore<Schema> {
  const writing = openSqliteFile(file);
  const isMemory = file === ':memory:';
  const kysely = (database: DatabaseSync) =>
    new Kysely<Schema>({ dialect: new SqliteDialect({ database: sqliteForKysely(database) }) });
  const writer = kysely(writing);
  // A database in memory has one connection: its readers see what is not committed yet.
  const reading = isMemory ? writing : openSqliteFile(file);
  const reader = isMemory ? writer : kysely(reading);
  // A transaction is open across turns of the event loop, so another process is waited for there too.
  writing.exec(`pragma busy_timeout = ${sqliteBlockMs}`);
  const waiting: WaitingWrite<Schema>[] = [];
  const line = isMemory ? { tail: Promise.resolve() } : lineOf(file);
  let isScheduled = false;
  let isClosed = false;

  const commitTogether = async () => {
    isScheduled = false;
    while (waiting.length > 0) {
      const group = waiting.splice(0, sharedCommitMax);
      const settle: (() => void)[] = [];
      try {
        await beginImmediate(writing);
        for (const { work, resolve, reject } of group) {
          writing.exec('savepoint one');
          try {
            const result = await work(writer);
            writing.exec('release one');
            settle.push(() => resolve(result));
          } catch (error) {
            // Where even this fails SQLite has taken the whole transaction back.
            writing.exec('rollback to one; release one');
            settle.push(() => reject(error));
          }
        }
        writing.exec('commit');
      } catch (error) {
        try {
          if (writing.isTransaction) writing.exec('rollback');
        } catch {
          // The next write begins with the one that is still open, fails, and takes it back.
        }
        for (const { reject } of group) reject(error);
        continue;
      }
      for (const answer of settle) answer();
    }
  };

  return {
    kind: 'sqlite',
    db: reader,
    bulk: reader,
    sqlite: reading,
    write: <T>(work: (queries: Queries<Schema>) => Promise<T>, options: WriteOptions = {}) =>
      new Promise<T>((resolve, reject) => {
        if (isClosed) return reject(new Error('the store is closed'));
        const ending = abortable(work, options.signal);
        waiting.push({ work: ending, resolve: resolve as (value: unknown) => void, reject });
        if (isScheduled) return;
        isScheduled = true;
        line.tail = line.tail.then(commitTogether);
      }),
    snapshot: async (work, options) => {
      const ending = abortable(work, options?.signal);
      if (isMemory) return ending(reader);
      const connection = openSqliteFile(file);
      const queries = kysely(connection);
      try {
        connection.exec('begin');
        return await ending(queries);
      } finally {
        if (connection.isTransaction) connection.exec('rollback');
        connection.close();
      }
    },
    close: async () => {
      isClosed = true;
      await line.tail;
      if (!isMemory) reading.close();
      writing.close();
    },
  };
}
