import { createSqlDatabase } from '@keystead/test-control-plane/sql-database';
import { sql } from 'kysely';
import { expect, test } from 'vitest';
import { openSql } from './sql-store.ts';

test.each([
  ['postgresql', 'select pg_sleep(20)'],
  ['mysql', 'select sleep(20)'],
] as const)(
  'on %s a query that is not answered in time is given up with its connection, bulk work later',
  async (kind, sleep) => {
    await using database = await createSqlDatabase(kind);
    if (database.options.kind === 'sqlite') throw new Error('a server was asked for');
    const store = await openSql<Record<string, never>>({
      ...database.options,
      connectionsMax: 1,
      queryTimeoutMs: 2_000,
      bulkQueryTimeoutMs: 4_000,
    });
    const startedAtMs = performance.now();
    const passedMs = () => performance.now() - startedAtMs;
    const connection = kind === 'mysql' ? 'connection_id()' : 'pg_backend_pid()';
    const idOf = async () => {
      const { rows } = await sql<{ id: number }>`select ${sql.raw(connection)} as id`.execute(
        store.db,
      );
      return rows[0]?.id;
    };
    const first = await idOf();
    await expect(store.write((queries) => sql.raw(sleep).execute(queries))).rejects.toMatchObject({
      code: 'ETIMEDOUT',
    });
    expect(passedMs()).toBeLessThan(15_000);
    // The only place of the pool is free again, with another connection in it.
    const second = await idOf();
    expect(second).not.toBe(first);
    const bulkAtMs = performance.now();
    await expect(sql.raw(sleep).execute(store.bulk)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    expect(performance.now() - bulkAtMs).toBeGreaterThan(3_900);
    await store.close();
  },
  60_000,
);
