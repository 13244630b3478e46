import { randomBytes } from 'node:crypto';
import { updateOrganization } from '@keystead/contracts/auth';
import type { TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import { Database } from '@keystead/database/database';
import { createTestDatabase, type TestDatabase } from '@keystead/test-control-plane/test-database';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { system } from './authenticator.ts';
import { InstallationKey } from './sealing.ts';
import { TenantWork } from './tenant-work.ts';

let urls: TestDatabase;
let database: Database;
let work: TenantWork;
beforeAll(async () => {
  urls = await createTestDatabase();
  database = new Database({ ...urls, poolSize: 6 });
  work = new TenantWork(database, new InstallationKey(randomBytes(32)));
});
afterAll(async () => {
  await database.close();
  await urls.drop();
});

async function organization(): Promise<TenantCtx> {
  const organizationId = newUuid();
  await database.withTenant({ organizationId }, (transaction) =>
    transaction.organization.create({ data: { organizationId, name: 'Acme' } }),
  );
  return { ...system('test', organizationId), organizationId };
}

const input = (name: string) => ({ params: {}, query: {}, body: { name }, ifMatch: null });

/** A change whose effect can be counted: every run of it raises the revision by one. */
function change(ctx: TenantCtx, idempotencyKey: string | null, name = 'New', fail = false) {
  const { organizationId } = ctx;
  return work.write(
    { ...ctx, idempotencyKey },
    updateOrganization,
    input(name),
    async (tx, note) => {
      const row = await tx.organization.update({
        where: { organizationId },
        data: { name, revision: { increment: 1 } },
      });
      note({ changes: { name } });
      if (fail) throw new ServiceError('unprocessable');
      const at = row.createdAt.toISOString();
      return {
        id: toId('organization', organizationId),
        name,
        offlineAfterSeconds: null,
        fourEyes: false,
        createdAt: at,
        updatedAt: at,
        etag: `"${row.revision}"`,
      };
    },
  );
}

const state = (ctx: TenantCtx) =>
  database.withTenant(ctx, async (transaction) => ({
    revision: (await transaction.organization.findFirstOrThrow()).revision,
    audit: await transaction.auditEvent.count(),
    records: await transaction.idempotencyRecord.findMany(),
  }));

test('a repeated request changes nothing and answers what the first one answered', async () => {
  const ctx = await organization();
  const first = await change(ctx, 'key');
  expect(await change(ctx, 'key')).toEqual(first);
  expect(await state(ctx)).toMatchObject({ revision: 2, audit: 1 });
});

test('twelve repetitions at once have one effect and one answer', async () => {
  const ctx = await organization();
  const answers = await Promise.all(Array.from({ length: 12 }, () => change(ctx, 'key')));
  expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
  expect(await state(ctx)).toMatchObject({ revision: 2, audit: 1 });
});

test('a key that was used for another request is refused', async () => {
  const ctx = await organization();
  await change(ctx, 'key', 'One');
  await expect(change(ctx, 'key', 'Two')).rejects.toMatchObject({ code: 'idempotency_conflict' });
  expect(await state(ctx)).toMatchObject({ revision: 2, audit: 1 });
});

test('a request that failed leaves its key free, no effect and no audit row', async () => {
  const ctx = await organization();
  await expect(change(ctx, 'key', 'New', true)).rejects.toMatchObject({ code: 'unprocessable' });
  expect(await state(ctx)).toMatchObject({ revision: 1, audit: 0, records: [] });
  await change(ctx, 'key');
  expect(await state(ctx)).toMatchObject({ revision: 2, audit: 1 });
});

test('the key of one caller says nothing about that of another', async () => {
  const ctx = await organization();
  const other = { ...ctx, actor: { ...ctx.actor, id: 'another' } };
  const elsewhere = await organization();
  await change(ctx, 'key', 'One');
  await change(other, 'key', 'Two');
  await change(elsewhere, 'key', 'Three');
  expect(await state(ctx)).toMatchObject({ revision: 3, audit: 2 });
  expect(await state(elsewhere)).toMatchObject({ revision: 2, audit: 1 });
});

test('a kept answer can only be read with the key of the request', async () => {
  const ctx = await organization();
  await change(ctx, 'a secret key', 'a telling name');
  const { records } = await state(ctx);
  const kept = Buffer.from(records[0]?.answer ?? []);
  expect(kept.length).toBeGreaterThan(0);
  expect(kept.includes('a telling name')).toBe(false);
  expect(JSON.stringify(records)).not.toContain('a secret key');
});

test('without a key every request counts', async () => {
  const ctx = await organization();
  await change(ctx, null);
  await change(ctx, null);
  expect(await state(ctx)).toMatchObject({ revision: 3, audit: 2, records: [] });
});
