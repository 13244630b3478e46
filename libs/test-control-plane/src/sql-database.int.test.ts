import { createConnection } from 'mysql2/promise';
import pg from 'pg';
import { expect, test } from 'vitest';
import { createSqlDatabase } from './sql-database.ts';

test('databases of MariaDB are empty, of their own, and gone when dropped', async () => {
  const [one, two] = await Promise.all([createSqlDatabase('mysql'), createSqlDatabase('mysql')]);
  if (one.options.kind === 'sqlite' || two.options.kind === 'sqlite') throw new Error('wrong kind');
  const connection = await createConnection(one.options.connectionString);
  await connection.query('create table item (id int primary key)');
  const other = await createConnection(two.options.connectionString);
  const [tables] = await other.query('show tables');
  expect(tables).toEqual([]);
  await one.drop();
  await expect(createConnection(one.options.connectionString)).rejects.toThrow('Unknown database');
  connection.destroy();
  other.destroy();
  await two.drop();
});

test('a database of PostgreSQL is empty and goes with the connections open to it', async () => {
  const database = await createSqlDatabase('postgresql');
  if (database.options.kind === 'sqlite') throw new Error('wrong kind');
  const client = new pg.Client({ connectionString: database.options.connectionString });
  client.on('error', () => undefined);
  await client.connect();
  const { rows } = await client.query(
    "select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace where nspname = 'public'",
  );
  expect(rows).toEqual([]);
  await database.drop();
  await expect(client.query('select 1')).rejects.toThrow();
});
