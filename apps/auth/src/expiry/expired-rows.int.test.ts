import { createApiKey } from '@keystead/contracts/auth';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type AuthFixture, given, someEmail, startAuth } from '../auth.fixture.ts';

let auth: AuthFixture;
let across: pg.Client;
beforeAll(async () => {
  auth = await startAuth();
  across = new pg.Client({ connectionString: auth.urls.acrossUrl });
  await across.connect();
});
afterAll(async () => {
  await across.end();
  await auth.stop();
});

test('what expired goes in bounded batches, and what lives stays', async () => {
  const { ctx } = await auth.signUp();
  const once = { ...ctx, idempotencyKey: 'living' };
  await auth.apiKeys.create(once, given(createApiKey, { body: { name: 'living' } }));
  await auth.invite(ctx, someEmail(), 'viewer');
  await across.query(
    `insert into auth.idempotency_record
       (organization_id, actor_id, key_hash, operation, request_hash, answer, created_at)
     select $1, 'old', decode(lpad(to_hex(n), 8, '0'), 'hex'), 'x', '', '', now() - interval '25 hours'
     from generate_series(1, 25) as n`,
    [ctx.organizationId],
  );
  await across.query(
    `insert into auth.session (organization_id, id, member_id, person_id, refresh_hash, expires_at)
     select organization_id, gen_random_uuid(), member_id, person_id, '', now() - interval '8 days'
     from auth.session, generate_series(1, 25)`,
  );
  await across.query(
    `insert into auth.api_key (organization_id, id, name, role, prefix, hash, revoked_at)
     select $1, gen_random_uuid(), 'old', 'viewer', 'ks_', '', now() - interval '91 days'
     from generate_series(1, 3)`,
    [ctx.organizationId],
  );
  await across.query(
    `insert into auth.member (organization_id, id, email, name, role, invitation_hash,
       invitation_expires_at)
     values ($1, gen_random_uuid(), 'old@example.com', 'old', 'viewer', '', now() - interval '31 days')`,
    [ctx.organizationId],
  );
  expect(await auth.expiredRows.remove(10, 2)).toEqual({
    idempotencyRecords: 20,
    sessions: 20,
    apiKeys: 3,
    invitations: 1,
  });
  expect(await auth.expiredRows.remove(10, 2)).toEqual({
    idempotencyRecords: 5,
    sessions: 5,
    apiKeys: 0,
    invitations: 0,
  });
  const living = await auth.database.withTenant(ctx, async (transaction) => ({
    idempotencyRecords: await transaction.idempotencyRecord.count(),
    sessions: await transaction.session.count(),
    apiKeys: await transaction.apiKey.count(),
    members: await transaction.member.count(),
  }));
  expect(living).toEqual({ idempotencyRecords: 1, sessions: 1, apiKeys: 1, members: 2 });
});
