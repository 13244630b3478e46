import { newUuid } from '@keystead/contracts/ids';
import { createTestDatabase } from '@keystead/test-control-plane/test-database';
import { expect, test } from 'vitest';
import { Database, isUniqueViolation } from './database.ts';
import { withClient } from './tenancy-check.fixture.ts';

const tenant = { organizationId: newUuid() };

test('a database out of reach is not available, which is nobodys mistake', async () => {
  const nowhere = 'postgres://nobody:nothing@127.0.0.1:1/nowhere';
  const door = new Database({ serviceUrl: nowhere, acrossUrl: nowhere });
  try {
    const refused = { code: 'unavailable', retryAfterSeconds: 1 };
    await expect(door.withTenant(tenant, (unit) => unit.vault.count())).rejects.toMatchObject(
      refused,
    );
    await expect(door.acrossTenants('measure', (unit) => unit.vault.count())).rejects.toMatchObject(
      refused,
    );
  } finally {
    await door.close();
  }
});

test('a connection that breaks in the middle is not available, and the next unit works', async () => {
  await using database = await createTestDatabase();
  const door = new Database({ ...database, poolSize: 2 });
  try {
    const broken = door.withTenant(tenant, async (unit) => {
      const [row] = await unit.$queryRaw<{ pid: number }[]>`select pg_backend_pid()::int as pid`;
      await withClient(database.serviceUrl, async (client) => {
        await client.query('select pg_terminate_backend($1)', [row?.pid]);
      });
      await unit.$queryRaw`select pg_sleep(1)`;
    });
    await expect(broken).rejects.toMatchObject({ code: 'unavailable' });
    expect(await door.withTenant(tenant, (unit) => unit.vault.count())).toBe(0);
  } finally {
    await door.close();
  }
});

test('a unit of work that takes too long is rolled back', async () => {
  await using database = await createTestDatabase();
  const door = new Database({ ...database, poolSize: 2, transactionTimeoutMs: 200 });
  try {
    const slow = door.withTenant(tenant, async (unit) => {
      await unit.organization.create({ data: { ...tenant, name: 'Slow' } });
      await unit.$queryRaw`select 1 from pg_sleep(0.5)`;
      await unit.organization.count();
    });
    await expect(slow).rejects.toMatchObject({ code: 'unavailable' });
    expect(await door.withTenant(tenant, (unit) => unit.organization.count())).toBe(0);
  } finally {
    await door.close();
  }
});

test('what the work itself says passes unchanged, and a taken key is told as such', async () => {
  await using database = await createTestDatabase();
  const door = new Database({ ...database, poolSize: 2 });
  const create = () =>
    door.withTenant(tenant, (unit) =>
      unit.organization.create({ data: { ...tenant, name: 'Once' } }),
    );
  try {
    await create();
    const error = await create().catch((reason: unknown) => reason);
    expect(isUniqueViolation(error)).toBe(true);
    const own = new Error('mine');
    await expect(door.withTenant(tenant, () => Promise.reject(own))).rejects.toBe(own);
  } finally {
    await door.close();
  }
});

test('units of work that deadlock are run again until all succeed', async () => {
  await using database = await createTestDatabase();
  const door = new Database({ ...database, poolSize: 4 });
  const ids = [newUuid(), newUuid()] as const;
  try {
    await door.withTenant(tenant, async (unit) => {
      await unit.organization.create({ data: { ...tenant, name: 'Acme' } });
      for (const id of ids) {
        await unit.vault.create({ data: { ...tenant, id, name: `vault ${id}` } });
      }
    });
    const touch = (order: readonly string[]) =>
      door.withTenant(tenant, async (unit) => {
        for (const id of order) {
          await unit.$executeRaw`update registry.vault set revision = revision + 1 where id = ${id}::uuid`;
          await unit.$queryRaw`select 1 from pg_sleep(0.05)`;
        }
      });
    await Promise.all([touch(ids), touch([...ids].reverse()), touch(ids)]);
    const revisions = await door.withTenant(tenant, (unit) => unit.vault.findMany());
    expect(revisions.map((row) => row.revision)).toEqual([4, 4]);
  } finally {
    await door.close();
  }
});
