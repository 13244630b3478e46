import { createSqlDatabase, sqlKinds } from '@keystead/test-control-plane/sql-database';
import { sql } from 'kysely';
import { expect, test } from 'vitest';
import { openSql } from './sql-store.ts';

const hostile = [
  "it's",
  "\\' or 1=1 -- ",
  "'; drop table item; --",
  'back\\slash',
  '"quoted"',
  '`tick`',
  '\\',
  "\\\\'",
  'line\nfeed\ttab',
  'ünï 💥',
];

test.each(sqlKinds)('a parameter is data on %s, whatever it holds', async (kind) => {
  await using database = await createSqlDatabase(kind);
  const store = await openSql<Record<string, never>>(database.options);
  try {
    for (const text of hostile) {
      const { rows } = await sql<{ one: string }>`select ${text} as one`.execute(store.db);
      expect(rows[0]?.one).toBe(text);
    }
  } finally {
    await store.close();
  }
});
