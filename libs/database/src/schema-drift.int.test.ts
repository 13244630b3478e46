import { join } from 'node:path';
import {
  createEmptyDatabase,
  createTestDatabase,
  dropDatabase,
} from '@keystead/test-control-plane/test-database';
import type pg from 'pg';
import { expect, test } from 'vitest';
import { findPrismaFolder } from './migrate.ts';
import { schemaAsSql } from './schema-engine.ts';
import { withClient } from './tenancy-check.fixture.ts';

const folder = findPrismaFolder();
const schema = join(folder, 'schema');
const ours = `('auth', 'registry', 'monitoring', 'policy', 'analytics', 'notification', 'messaging')`;

async function describe(client: pg.Client) {
  const lines = async (statement: string) =>
    (await client.query<{ line: string }>(statement)).rows.map((row) => row.line).sort();
  return {
    columns: await lines(`
      select format('%s.%s.%s %s %s default %s', nspname, relname, attname,
        format_type(atttypid, atttypmod), case when attnotnull then 'not null' else 'null' end,
        coalesce(pg_get_expr(adbin, adrelid), attidentity::text)) as line
      from pg_attribute
      join pg_class on pg_class.oid = attrelid
      join pg_namespace on pg_namespace.oid = relnamespace
      left join pg_attrdef on adrelid = attrelid and adnum = attnum
      where relkind in ('r', 'p') and attnum > 0 and not attisdropped and nspname in ${ours}`),
    indexes: await lines(`select indexdef as line from pg_indexes where schemaname in ${ours}`),
    constraints: await lines(`
      select format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(pg_constraint.oid))
        as line
      from pg_constraint join pg_namespace on pg_namespace.oid = connamespace
      where contype in ('p', 'u', 'f') and nspname in ${ours}`),
  };
}

test('the migrations lead to the schema files, and add only indexes that those cannot say', async () => {
  await using migrated = await createTestDatabase();
  const name = await createEmptyDatabase(migrated.ownerUrl, 'keystead_schema');
  const url = new URL(migrated.ownerUrl);
  url.pathname = `/${name}`;
  try {
    const script = await schemaAsSql(url.href, { schema, migrations: join(folder, 'migrations') });
    const wanted = await withClient(url.href, async (client) => {
      await client.query(script);
      return describe(client);
    });
    const found = await withClient(migrated.ownerUrl, describe);
    const hint = 'put the change into a migration too (schemaAsSql says what the files ask for)';
    expect(found.columns, hint).toEqual(wanted.columns);
    expect(found.constraints, hint).toEqual(wanted.constraints);
    expect(
      wanted.indexes.filter((line) => !found.indexes.includes(line)),
      hint,
    ).toEqual([]);
    // What is left over is partial or over an expression: the schema language has neither.
    const added = found.indexes.filter((line) => !wanted.indexes.includes(line));
    const plain = added.filter((line) => !/ WHERE |\(\(|\blower\(/.test(line));
    expect(plain, 'declare these with @@index in the schema file').toEqual([]);
  } finally {
    await dropDatabase(url.href);
  }
});
