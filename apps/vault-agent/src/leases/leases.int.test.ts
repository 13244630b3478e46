import {
  createSqlDatabase,
  sqlKinds,
  type TestSqlDatabase,
} from '@keystead/test-control-plane/sql-database';
import { openSql, type SqlStore } from '@keystead/vault-store/sql/sql-store';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { migrate } from '../store/migrations.ts';
import { type LeaseTables, leaseMigrations } from './lease-tables.ts';
import { databaseNowMs, LeaseLost, Leases } from './leases.ts';

describe.each(sqlKinds)('leases on %s', (kind) => {
  let database: TestSqlDatabase;
  // Two agents, each with a store of its own where several may share one.
  let stores: [SqlStore<LeaseTables>, SqlStore<LeaseTables>];
  beforeAll(async () => {
    database = await createSqlDatabase(kind);
    const store = await openSql<LeaseTables>(database.options);
    stores = [store, kind === 'sqlite' ? store : await openSql(database.options)];
    await migrate(store as unknown as SqlStore<unknown>, leaseMigrations, Date.now());
  });
  afterAll(async () => {
    for (const store of new Set(stores)) await store.close();
    await database.drop();
  });

  test('the clock is the database’s own, in UTC', async () => {
    const { rows } = await sql<{ now: number }>`select ${databaseNowMs(kind)} as now`.execute(
      stores[0].db,
    );
    expect(Math.abs(Number(rows[0]?.now) - Date.now())).toBeLessThan(5_000);
  });

  test('of many that ask at once one gets it, also when it has run out', async () => {
    const askers = Array.from(
      { length: 8 },
      (_, index) => new Leases({ store: stores[index % 2]!, holder: `agent-${index}` }),
    );
    for (let token = 1; token <= 3; token += 1) {
      const results = await Promise.all(askers.map((leases) => leases.acquire('one', 60_000)));
      const held = results.filter((lease) => lease !== undefined);
      expect(held.map((lease) => lease.token)).toEqual([token]);
      await stores[0].write((queries) =>
        queries.updateTable('lease').set({ expires_at_ms: 1 }).execute(),
      );
    }
  });

  test('nobody takes over between the check of the token and the commit', async () => {
    const [one, two] = stores.map(
      (store, index) => new Leases({ store, holder: `agent-${index}` }),
    );
    const lease = await one?.acquire('fenced', 60_000);
    const expired = () =>
      stores[1].write((queries) =>
        queries
          .updateTable('lease')
          .set({ expires_at_ms: 1 })
          .where('name', '=', 'fenced')
          .execute(),
      );
    let overtaking: Promise<unknown> | undefined;
    const order: string[] = [];
    await stores[0].write(async (queries) => {
      await lease?.fence(queries);
      overtaking ??= expired()
        .then(() => two?.acquire('fenced', 60_000))
        .then((taken) => order.push(`taken ${taken?.token}`));
      for (let round = 0; round < 20; round += 1) await sql`select 1`.execute(queries);
      order.push('written');
    });
    await overtaking;
    expect(order).toEqual(['written', 'taken 2']);
    await expect(stores[0].write((queries) => lease!.fence(queries))).rejects.toThrow(LeaseLost);
  });
});
