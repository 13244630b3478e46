import type { ErrorCode } from '@keystead/contracts/errors';
import { createSqlDatabase } from '@keystead/test-control-plane/sql-database';
import { openSql } from '@keystead/vault-store/sql/sql-store';
import { sql } from 'kysely';
import { afterEach, describe, expect, test } from 'vitest';
import { migrate, StoreBusy } from './migrations.ts';
import {
  closeVaults,
  openTestVault,
  placeOn,
  plainNamespace,
  plainSecret,
  testCaller,
} from './vault.fixture.ts';
import { Wire } from './wire.fixture.ts';

const caller = testCaller();
const refused = (code: ErrorCode) => expect.objectContaining({ code });

const wires: Wire[] = [];
afterEach(async () => {
  await closeVaults();
  for (const wire of wires.splice(0)) wire.close();
});

/** The other driver's words for an absence are told apart without a server, in `store-breaker.test.ts`. */
const kinds =
  process.env.KEYSTEAD_PROVE === 'full'
    ? (['postgresql', 'mysql'] as const)
    : (['postgresql'] as const);

describe.each(kinds)('on %s', (kind) => {
  test('while the store is away what was read is answered for its time, and all comes back by itself', async () => {
    await using database = await createSqlDatabase(kind);
    const { options } = database;
    if (options.kind === 'sqlite') throw new Error('a server was asked for');
    const { wire, url } = await Wire.to(new URL(options.connectionString));
    wires.push(wire);
    const vault = await openTestVault(placeOn({ ...options, connectionString: url }), {
      answerFromCacheMs: 12_000,
    });
    await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
    for (const name of ['known', 'unread']) {
      await vault.secrets.create(caller, 'app', { ...plainSecret, name, value: name });
    }
    const read = async (name: string) => (await vault.secrets.readValue(caller, 'app', name)).value;
    expect(await read('known')).toBe('known');
    await vault.accesses.flush();

    wire.cut();
    await expect.poll(() => vault.store.breaker.isAvailable, { timeout: 10_000 }).toBe(false);
    // Beyond the second in which the cache is trusted anyway.
    await expect.poll(() => vault.directory.isTrusted, { timeout: 5_000 }).toBe(false);
    expect(await read('known')).toBe('known');
    const startedAtMs = performance.now();
    await expect(read('unread')).rejects.toEqual(refused('unavailable'));
    await expect(vault.secrets.update(caller, 'app', 'known', { value: 'x' })).rejects.toEqual(
      refused('unavailable'),
    );
    expect(performance.now() - startedAtMs).toBeLessThan(3_000);
    await expect
      .poll(() => read('known').catch(({ code }) => code), { timeout: 20_000 })
      .toBe('unavailable');
    expect(vault.directory.behindMs).toBeGreaterThan(12_000);

    wire.mend();
    await expect
      .poll(() => read('unread').catch(({ code }) => code), { timeout: 20_000 })
      .toBe('unread');
    expect(vault.store.breaker.isAvailable).toBe(true);
    expect(await read('known')).toBe('known');
    // What was read meanwhile was counted.
    await vault.accesses.flush();
    const { accessCount } = await vault.secrets.get('app', 'known');
    expect(accessCount).toBeGreaterThanOrEqual(3);
  }, 60_000);
});

test('an agent that waits in vain for another to bring MariaDB up to date says so', async () => {
  await using database = await createSqlDatabase('mysql');
  const store = await openSql<unknown>(database.options);
  try {
    await store.db.connection().execute(async (other) => {
      await sql`select get_lock('keystead migration', 60)`.execute(other);
      await expect(migrate(store, [], 0, 1)).rejects.toThrow(StoreBusy);
      await sql`select release_lock('keystead migration')`.execute(other);
    });
    await migrate(store, [], 0, 60);
  } finally {
    await store.close();
  }
});
