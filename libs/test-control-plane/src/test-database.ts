import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';
import { type DatabaseUrls, onDatabase } from './installation/database-urls.ts';

/** What the set-up of a run hands to its tests. */
export interface TestServers {
  /** A migrated database that nobody connects to, so that it can be cloned. */
  readonly template: DatabaseUrls;
  /** Answers a GET with the URL of a MariaDB's administrator; the first one starts the server. */
  readonly mysqlDoor: string;
}

declare module 'vitest' {
  export interface ProvidedContext {
    keystead: TestServers;
  }
}

export interface TestDatabase extends DatabaseUrls, AsyncDisposable {
  readonly name: string;
  drop(): Promise<void>;
}

/** A database of its own, migrated and empty: a clone, so it takes milliseconds. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const { template } = inject('keystead');
  const templateName = databaseName(template.ownerUrl);
  const name = await createEmptyDatabase(template.ownerUrl, 'keystead_test', templateName);
  const urls = onDatabase(template, name);
  const drop = () => dropDatabase(urls.ownerUrl);
  return { ...urls, name, drop, [Symbol.asyncDispose]: drop };
}

export async function createEmptyDatabase(
  ownerUrl: string,
  prefix: string,
  template?: string,
): Promise<string> {
  const name = `${prefix}_${randomBytes(5).toString('hex')}`;
  const from = template === undefined ? '' : ` template ${pg.escapeIdentifier(template)}`;
  // Somebody (autovacuum, for a moment) looks at the template: 55006 is object_in_use.
  await persist('55006', () =>
    administer(ownerUrl, `create database ${pg.escapeIdentifier(name)}${from}`),
  );
  return name;
}

/** Also with connections open to it. */
export async function dropDatabase(url: string): Promise<void> {
  const name = databaseName(url);
  // An owner may end everybody's connection but autovacuum's: 42501 is insufficient_privilege.
  await persist('42501', () =>
    administer(url, `drop database if exists ${pg.escapeIdentifier(name)} with (force)`),
  );
}

/** Again while it fails with that code, for at most twenty seconds. */
async function persist(code: string, attempt: () => Promise<void>): Promise<void> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if ((error as { code?: string }).code !== code || Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

function databaseName(url: string): string {
  return decodeURIComponent(new URL(url).pathname.slice(1));
}

async function administer(url: string, statement: string): Promise<void> {
  const elsewhere = new URL(url);
  elsewhere.pathname = '/postgres';
  const client = new pg.Client({ connectionString: elsewhere.href });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
