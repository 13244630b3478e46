import pg from 'pg';
import { expect, test } from 'vitest';
import { createTestDatabase } from './test-database.ts';

async function query(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}

test('each test database is migrated, and its own', async () => {
  await using one = await createTestDatabase();
  await using other = await createTestDatabase();
  await query(one.ownerUrl, 'create table only_here (n int)');
  const tables = (url: string) =>
    query(url, "select 1 from pg_tables where tablename = 'only_here'").then((rows) => rows.length);
  expect([await tables(one.ownerUrl), await tables(other.ownerUrl)]).toEqual([1, 0]);
  expect((await query(other.ownerUrl, 'select 1 from _prisma_migrations')).length).toBeGreaterThan(
    0,
  );
});

test('services log in without the right to bypass row-level security', async () => {
  await using database = await createTestDatabase();
  for (const url of [database.serviceUrl, database.acrossUrl]) {
    expect(
      await query(url, 'select rolsuper, rolbypassrls from pg_roles where rolname = current_user'),
    ).toEqual([{ rolsuper: false, rolbypassrls: false }]);
  }
});
