import { createSqlDatabase, sqlKinds } from '@keystead/test-control-plane/sql-database';
import { sql } from 'kysely';
import { describe, expect, test } from 'vitest';
import { recordQuery } from './record-query.ts';
import { currentVersion, migrateVault, type VaultSchema } from './schema.ts';
import { openSql } from './sql/sql-store.ts';
import { cheapCost, createTestVault, passwords } from './vault.fixture.ts';
import { openVault } from './vault.ts';

describe.each(sqlKinds)('on %s', (kind) => {
  test('a migration touches no stored value and no time', async () => {
    // A vault of today gives its records to one of the first version.
    await using today = await createTestVault(kind);
    for (let index = 0; index < 12; index += 1) {
      today.clock.nowMs += 7;
      await today.vault.tokens.create(`value ${index}`, {
        password: passwords.one,
        data: index % 2 === 0 ? { owner: 'x', index: String(index) } : {},
        expiresAtMs: index % 3 === 0 ? null : today.clock.nowMs + 1e12,
      });
    }
    await using database = await createSqlDatabase(kind);
    const store = await openSql<VaultSchema>(database.options);
    expect(await migrateVault(store, 1, 1)).toEqual({ from: 0, to: 1 });
    const source = await today.openStore();
    const rows = await source.db.selectFrom('vault').selectAll().orderBy('position').execute();
    const settings = await source.db
      .selectFrom('vault_meta')
      .selectAll()
      .where('object_id', '=', 'encryption')
      .execute();
    await store.write(async (queries) => {
      await queries
        .insertInto('vault')
        .values(rows.map(({ position: _, ...row }) => row))
        .execute();
      await queries
        .insertInto('vault_meta')
        .values(settings.map(({ id: _, ...row }) => row))
        .execute();
    });
    await source.close();
    const before = await store.db.selectFrom('vault').selectAll().orderBy('position').execute();

    expect(await migrateVault(store, 2)).toEqual({ from: 1, to: currentVersion });
    expect(await store.db.selectFrom('vault').selectAll().orderBy('position').execute()).toEqual(
      before,
    );
    await using vault = await openVault({ sql: store, migrate: false });
    expect(await vault.records.count(recordQuery().withData('owner', 'x'))).toBe(6);
    const token = rows[5]?.token as string;
    expect(await vault.tokens.read(token, passwords.one)).toBe('value 5');
    // Done once: the next finds nothing to do.
    expect(await migrateVault(store, 3)).toEqual({ from: currentVersion, to: currentVersion });
    await store.close();
  });

  test('several processes may open a new vault at once: they agree on its salt', async () => {
    await using database = await createSqlDatabase(kind);
    const vaults = await Promise.all(
      Array.from({ length: 4 }, () =>
        openVault({ sql: database.options, passwordCost: cheapCost }),
      ),
    );
    const token = await vaults[0]?.tokens.create('v', { password: passwords.one });
    for (const vault of vaults) {
      expect(await vault.tokens.read(token as string, passwords.one)).toBe('v');
      await vault.close();
    }
  });

  test('tables of a later version are not touched, and missing ones are said to be missing', async () => {
    await using database = await createSqlDatabase(kind);
    await expect(openVault({ sql: database.options, migrate: false })).rejects.toMatchObject({
      code: 'schema_missing',
    });
    const vault = await openVault({ sql: database.options, passwordCost: cheapCost });
    await vault.close();
    const store = await openSql<VaultSchema>(database.options);
    await sql`update vault_meta set meta_value = '99' where object_id = 'schema'`.execute(store.db);
    for (const migrate of [true, false]) {
      await expect(openVault({ sql: database.options, migrate })).rejects.toMatchObject({
        code: 'schema_too_new',
      });
    }
    await store.close();
  });
});
