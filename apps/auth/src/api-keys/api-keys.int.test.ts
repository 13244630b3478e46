import { createApiKey, listApiKeys, revokeApiKey } from '@keystead/contracts/auth';
import type { TenantCtx } from '@keystead/contracts/context';
import { permissionsOf } from '@keystead/contracts/permissions';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type AuthFixture, codeOf, facts, given, startAuth } from '../auth.fixture.ts';

let auth: AuthFixture;
beforeAll(async () => {
  auth = await startAuth();
});
afterAll(() => auth.stop());

const create = (ctx: TenantCtx, body: Record<string, unknown> = {}) =>
  auth.apiKeys.create(ctx, given(createApiKey, { body: { name: 'a key', ...body } }));
const list = async (ctx: TenantCtx, query: Record<string, string> = {}) =>
  (await auth.apiKeys.list(ctx, given(listApiKeys, { query }))).items;
const revoke = (ctx: TenantCtx, id: string) =>
  auth.apiKeys.revoke(ctx, given(revokeApiKey, { params: { id } }));

test('a key works until it is revoked, and not one request longer', async () => {
  const { ctx } = await auth.signUp();
  const key = await create(ctx, { role: 'operator' });
  const caller = await auth.ctxOf(key.key);
  expect(caller).toMatchObject({ role: 'operator', organizationId: ctx.organizationId });
  await revoke(ctx, key.id);
  expect(await auth.authenticator.authenticate(key.key, facts())).toBeUndefined();
  expect(await auth.authenticator.stillHolds(caller)).toBe(false);
  expect(await list(ctx, { revoked: 'true' })).toMatchObject([{ id: key.id }]);
  expect(await list(ctx, { revoked: 'false' })).toEqual([]);
});

test('the key itself is answered once and stored nowhere', async () => {
  const { ctx } = await auth.signUp();
  const { key, prefix } = await create(ctx);
  expect(key.startsWith(prefix)).toBe(true);
  const stored = await auth.database.withTenant(ctx, async (transaction) => [
    await transaction.apiKey.findMany(),
    await transaction.auditEvent.findMany(),
    await transaction.idempotencyRecord.findMany(),
  ]);
  expect(JSON.stringify([stored, await list(ctx)])).not.toContain(key);
});

test('the person who made a key stands behind it, and behind the keys that it makes', async () => {
  const { ctx } = await auth.signUp();
  const { key } = await create(ctx, { name: 'first', role: 'admin' });
  await create(await auth.ctxOf(key), { name: 'second' });
  const rows = await auth.database.withTenant(ctx, (transaction) =>
    transaction.apiKey.findMany({ select: { madeById: true } }),
  );
  expect(rows).toEqual([{ madeById: ctx.actor.id }, { madeById: ctx.actor.id }]);
});

test('a key with its time run out is no key', async () => {
  const { ctx } = await auth.signUp();
  const key = await create(ctx, { ttlSeconds: 3_600 });
  await auth.ctxOf(key.key);
  await auth.database.withTenant(ctx, (transaction) =>
    transaction.apiKey.updateMany({ data: { expiresAt: new Date(Date.now() - 1) } }),
  );
  expect(await auth.authenticator.authenticate(key.key, facts())).toBeUndefined();
});

test('a key never holds more than whoever made it', async () => {
  const { ctx } = await auth.signUp();
  const admin = await auth.join(ctx, 'admin');
  expect(await codeOf(create(admin.ctx, { role: 'owner' }))).toBe('permission_denied');
  await create(admin.ctx, { role: 'admin' });
  await create(ctx, { role: 'owner' });
  const adminKey = await auth.ctxOf((await create(ctx, { role: 'admin' })).key);
  expect(await codeOf(create(adminKey, { role: 'owner' }))).toBe('permission_denied');
  const refused = (await auth.audit(ctx)).filter((row) => row.result === 'refused');
  expect(refused.map((row) => row.action)).toEqual(['api-keys.create', 'api-keys.create']);
});

test('a key tells who it is', async () => {
  const { ctx, created } = await auth.signUp();
  const key = await create(ctx, { role: 'viewer' });
  expect(await auth.sessions.me(await auth.ctxOf(key.key))).toEqual({
    kind: 'apiKey',
    id: key.id,
    name: 'a key',
    email: null,
    role: 'viewer',
    permissions: [...permissionsOf.viewer],
    organization: { id: created.id, name: 'Acme' },
    organizations: [],
  });
});

test('the last use is shown', async () => {
  const { ctx } = await auth.signUp();
  const key = await create(ctx);
  expect((await list(ctx))[0]?.lastUsedAt).toBeNull();
  await auth.ctxOf(key.key);
  expect((await list(ctx))[0]?.lastUsedAt).not.toBeNull();
});

test('a key of another organization is answered like one that is not there', async () => {
  const mine = await auth.signUp();
  const theirs = await auth.signUp();
  const foreign = await create(theirs.ctx);
  expect(await codeOf(revoke(mine.ctx, foreign.id))).toBe('not_found');
  expect(await codeOf(revoke(mine.ctx, 'key_01h455vb4pex5vsknk084sn02q'))).toBe('not_found');
  await auth.ctxOf(foreign.key);
});

test('keys are listed page by page in every order, also where a value is missing', async () => {
  const { ctx } = await auth.signUp();
  for (const ttlSeconds of [null, 60, null, 3_600, null]) await create(ctx, { ttlSeconds });
  for (const sort of ['expiresAt', '-expiresAt', '-lastUsedAt', 'name', '-createdAt', 'role']) {
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const query = { sort, limit: '2', ...(cursor ? { cursor } : {}) };
      const page = await auth.apiKeys.list(ctx, given(listApiKeys, { query }));
      seen.push(...page.items.map(({ id }) => id));
      cursor = page.nextCursor ?? undefined;
    } while (cursor);
    expect(new Set(seen).size, sort).toBe(5);
    expect(seen.length, sort).toBe(5);
  }
});
