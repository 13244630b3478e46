/** node:sqlite as kysely wants it: statements prepared once, parameters as SQLite takes them. */
import { chmodSync, existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import type { SqliteDatabase, SqliteStatement } from 'kysely';

/** A program has few different statements; this only bounds one that builds them from data. */
const statementsMax = 500;

/** How long a statement waits for a lock that another process holds. */
const busyTimeoutMs = 5_000;

/**
 * Opens a file in WAL mode, where a commit is on the disk when it returns. A new file, and a folder
 * made for it, belong to their user alone.
 */
export function openSqliteFile(file: string): DatabaseSync {
  const isMemory = file === ':memory:';
  if (!isMemory) mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const isNew = !isMemory && !existsSync(file);
  const database = new DatabaseSync(file, { timeout: busyTimeoutMs });
  try {
    database.exec(
      'pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on; pragma secure_delete = on',
    );
  } catch (error) {
    database.close();
    throw error;
  }
  if (isNew) chmodSync(file, 0o600);
  return database;
}

export function sqliteForKysely(database: DatabaseSync): SqliteDatabase {
  const statements = new Map<string, SqliteStatement>();
  return {
    close: () => database.close(),
    prepare: (sql) => {
      const known = statements.get(sql);
      if (known !== undefined) return known;
      const statement = prepared(database.prepare(sql));
      if (statements.size >= statementsMax) {
        const oldest = statements.keys().next().value;
        if (oldest !== undefined) statements.delete(oldest);
      }
      statements.set(sql, statement);
      return statement;
    },
  };
}

function prepared(statement: StatementSync): SqliteStatement {
  return {
    reader: statement.columns().length > 0,
    all: (parameters) => statement.all(...parameters.map(toSqlite)),
    run: (parameters) => statement.run(...parameters.map(toSqlite)),
    iterate: (parameters) => statement.iterate(...parameters.map(toSqlite)),
  };
}

function toSqlite(value: unknown): SQLInputValue {
  if (value === undefined) return null;
  if (typeof value === 'boolean') return value ? 1 : 0;
  return value as SQLInputValue;
}
