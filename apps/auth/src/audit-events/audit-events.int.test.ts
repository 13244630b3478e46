import { createApiKey, listAuditEvents, updateOrganization } from '@keystead/contracts/auth';
import type { TenantCtx } from '@keystead/contracts/context';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type AuthFixture, codeOf, given, startAuth } from '../auth.fixture.ts';

let auth: AuthFixture;
beforeAll(async () => {
  auth = await startAuth();
});
afterAll(() => auth.stop());

const list = (ctx: TenantCtx, query: Record<string, unknown> = {}) =>
  auth.auditEvents.list(ctx, given(listAuditEvents, { query }));

test('every change of an organization is told once, newest first, and nobody elses', async () => {
  const { ctx } = await auth.signUp();
  await auth.signUp();
  await auth.apiKeys.create(ctx, given(createApiKey, { body: { name: 'k' } }));
  await auth.organizations.update(ctx, given(updateOrganization, { body: { name: 'New' } }));
  const { items, nextCursor } = await list(ctx);
  expect(items.map(({ action }) => action)).toEqual([
    'organizations.update',
    'api-keys.create',
    'sessions.create',
    'organizations.create',
  ]);
  expect(nextCursor).toBeNull();
  expect(items[0]).toMatchObject({
    actor: { kind: 'person', id: ctx.actor.id },
    changes: { name: { from: 'Acme', to: 'New' } },
    result: 'succeeded',
    requestId: ctx.requestId,
  });
});

test('the list is filtered by action, actor, target, result and time, and read page by page', async () => {
  const { ctx } = await auth.signUp();
  for (let index = 0; index < 5; index += 1) {
    await auth.apiKeys.create(ctx, given(createApiKey, { body: { name: `k${index}` } }));
  }
  const only = await list(ctx, { action: 'api-keys.create', limit: '2' });
  expect(only.items.length).toBe(2);
  const rest: string[] = [];
  let cursor = only.nextCursor;
  while (cursor) {
    const page = await list(ctx, { action: 'api-keys.create', limit: '2', cursor });
    rest.push(...page.items.map(({ id }) => id));
    cursor = page.nextCursor;
  }
  expect(new Set([...only.items.map(({ id }) => id), ...rest]).size).toBe(5);
  const target = only.items[0]?.target?.id;
  expect((await list(ctx, { targetId: target })).items.length).toBe(1);
  expect((await list(ctx, { actorId: ctx.actor.id })).items.length).toBe(7);
  expect((await list(ctx, { result: 'refused' })).items).toEqual([]);
  expect((await list(ctx, { since: '2100-01-01T00:00:00Z' })).items).toEqual([]);
  expect((await list(ctx, { until: '2100-01-01T00:00:00Z' })).items.length).toBe(7);
  const upwards = await list(ctx, { sort: 'at' });
  expect(upwards.items[0]?.action).toBe('organizations.create');
  expect(await codeOf(list(ctx, { cursor: only.nextCursor }))).toBe('invalid_cursor');
});

test('a service can neither change nor remove an audit row', async () => {
  const { ctx } = await auth.signUp();
  for (const url of [auth.urls.serviceUrl, auth.urls.acrossUrl]) {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      await client.query("select set_config('app.organization_id', $1, false)", [
        ctx.organizationId,
      ]);
      for (const statement of [
        "update auth.audit_event set action = 'nothing'",
        'delete from auth.audit_event',
        'truncate auth.audit_event',
      ]) {
        await expect(client.query(statement)).rejects.toMatchObject({ code: '42501' });
      }
    } finally {
      await client.end();
    }
  }
});

test('a change whose audit row cannot be written does not happen', async () => {
  const { ctx } = await auth.signUp();
  const nameless = { ...ctx, requestId: 'not\0storable' };
  await expect(
    auth.organizations.update(nameless, given(updateOrganization, { body: { name: 'Unseen' } })),
  ).rejects.toThrow();
  expect((await auth.organizations.get(ctx)).name).toBe('Acme');
});
