/**
 * Databases as a customer's agent may have them: a file of SQLite, a PostgreSQL, a MariaDB. One suite
 * runs on all three:
 *
 *   describe.each(sqlKinds)('on %s', (kind) => {
 *     let database: TestSqlDatabase;
 *     beforeAll(async () => { database = await createSqlDatabase(kind); });
 *     afterAll(() => database.drop());
 *     … await openSql(database.options)
 *   });
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createConnection } from 'mysql2/promise';
import { inject } from 'vitest';
import { createEmptyDatabase, dropDatabase } from './test-database.ts';

export const sqlKinds = ['sqlite', 'postgresql', 'mysql'] as const;
export type TestSqlKind = (typeof sqlKinds)[number];

/** What `openSql` of the vault store takes. */
export type TestSqlOptions =
  | { kind: 'sqlite'; file: string }
  | {
      kind: 'postgresql' | 'mysql';
      connectionString: string;
      connectionsMax: number;
      connectTimeoutMs: number;
    };

export interface TestSqlDatabase extends AsyncDisposable {
  readonly kind: TestSqlKind;
  readonly options: TestSqlOptions;
  /** Also with connections open to it. */
  drop(): Promise<void>;
}

/** A database of its own, empty. The first MariaDB of a run starts the server, which takes seconds. */
export async function createSqlDatabase(kind: TestSqlKind): Promise<TestSqlDatabase> {
  if (kind === 'sqlite') {
    const folder = mkdtempSync(join(tmpdir(), 'keystead-sqlite-'));
    const drop = async () => rmSync(folder, { recursive: true, force: true });
    const options = { kind, file: join(folder, 'store.db') } as const;
    return { kind, options, drop, [Symbol.asyncDispose]: drop };
  }
  const server = { connectionsMax: 10, connectTimeoutMs: 10_000 };
  if (kind === 'postgresql') {
    const { ownerUrl } = inject('keystead').template;
    const url = new URL(ownerUrl);
    url.pathname = `/${await createEmptyDatabase(ownerUrl, 'keystead_sql')}`;
    const drop = () => dropDatabase(url.href);
    const options = { kind, connectionString: url.href, ...server } as const;
    return { kind, options, drop, [Symbol.asyncDispose]: drop };
  }
  const administrator = await mysqlUrl();
  const name = `keystead_sql_${randomBytes(5).toString('hex')}`;
  await administer(administrator, `create database ${name} character set utf8mb4`);
  const url = new URL(administrator);
  url.pathname = `/${name}`;
  const drop = () => administer(administrator, `drop database if exists ${name}`);
  const options = { kind, connectionString: url.href, ...server } as const;
  return { kind, options, drop, [Symbol.asyncDispose]: drop };
}

async function mysqlUrl(): Promise<string> {
  const answer = await fetch(inject('keystead').mysqlDoor);
  const text = await answer.text();
  if (!answer.ok) throw new Error(text);
  return text;
}

async function administer(url: string, statement: string): Promise<void> {
  const connection = await createConnection(url);
  try {
    await connection.query(statement);
  } finally {
    await connection.end();
  }
}
