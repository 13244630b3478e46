import { createOrganization, updateOrganization } from '@keystead/contracts/auth';
import { toUuid } from '@keystead/contracts/ids';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type AuthFixture,
  codeOf,
  facts,
  given,
  nobody,
  password,
  someEmail,
  startAuth,
} from '../auth.fixture.ts';

let auth: AuthFixture;
beforeAll(async () => {
  auth = await startAuth();
});
afterAll(() => auth.stop());

const signUp = (email: string, secret = password, ctx = nobody(), name = 'Acme') =>
  auth.organizations.create(
    ctx,
    given(createOrganization, {
      body: { name, owner: { name: 'Ann', email, password: secret } },
    }),
  );

test('signing up makes an organization, its owner and an audit row in one go', async () => {
  const { ctx, created, email } = await auth.signUp();
  expect(created).toMatchObject({ name: 'Acme', offlineAfterSeconds: null, owner: { email } });
  expect(ctx.role).toBe('owner');
  const [row] = await auth.audit(ctx);
  expect(row).toMatchObject({
    action: 'organizations.create',
    result: 'succeeded',
    actorId: created.owner.id,
    targetId: created.id,
  });
});

test('an address that is known is told to sign in', async () => {
  const { email, ctx } = await auth.signUp();
  const error = await signUp(email, 'another password').catch((reason) => reason);
  expect(error).toMatchObject({ code: 'conflict', detail: expect.stringContaining('sign in') });
  const refused = (await auth.audit(ctx)).filter((row) => row.result === 'refused');
  expect(refused).toMatchObject([{ action: 'organizations.create', targetName: email }]);
});

test('sign-up is no way around the throttle of passwords', async () => {
  const { email } = await auth.signUp();
  const codes: string[] = [];
  for (let round = 0; round < 12; round += 1) {
    codes.push(await codeOf(signUp(email, `a wrong guess ${round}`)));
  }
  expect(codes.slice(0, 10)).toEqual(Array(10).fill('conflict'));
  expect(codes.slice(10)).toEqual(['rate_limited', 'rate_limited']);
});

test('who proves the password has a further organization', async () => {
  const first = await auth.signUp();
  const second = await signUp(first.email);
  expect(second.owner.id).toBe(first.created.owner.id);
  expect(second.id).not.toBe(first.created.id);
});

test('sign-ups with one address at once make one person', async () => {
  const email = someEmail();
  const answers = await Promise.allSettled(Array.from({ length: 8 }, () => signUp(email)));
  const owners = answers.flatMap((answer) =>
    answer.status === 'fulfilled' ? [answer.value.owner.id] : [],
  );
  expect(owners.length).toBe(8);
  expect(new Set(owners).size).toBe(1);
});

test('a repeated sign-up with the same idempotency key makes one organization', async () => {
  const email = someEmail();
  const ctx = () => nobody({ idempotencyKey: 'sign-up-1' });
  const answers = await Promise.all([
    signUp(email, password, ctx()),
    signUp(email, password, ctx()),
  ]);
  answers.push(await signUp(email, password, ctx()));
  expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
  expect(await codeOf(signUp(email, password, ctx(), 'Other'))).toBe('idempotency_conflict');
  expect(await codeOf(signUp(email, 'not the password', ctx()))).toBe('conflict');
});

test('one address signs up a bounded number of organizations an hour', async () => {
  const narrow = await startAuth({ signUpsPerAddressPerHour: 2 });
  try {
    const { address } = facts();
    const attempt = () =>
      codeOf(
        narrow.organizations.create(
          nobody({ address }),
          given(createOrganization, {
            body: { name: 'A', owner: { name: 'A', email: someEmail(), password } },
          }),
        ),
      );
    expect([await attempt(), await attempt(), await attempt()]).toEqual([
      'no error',
      'no error',
      'rate_limited',
    ]);
  } finally {
    await narrow.stop();
  }
});

test('a closed installation signs nobody up', async () => {
  const closed = await startAuth({ signUp: 'closed' });
  try {
    const attempt = closed.organizations.create(
      nobody(),
      given(createOrganization, {
        body: { name: 'A', owner: { name: 'A', email: someEmail(), password } },
      }),
    );
    expect(await codeOf(attempt)).toBe('sign_up_closed');
  } finally {
    await closed.stop();
  }
});

test('a new threshold is in the row when monitoring is nudged', async () => {
  const { ctx } = await auth.signUp();
  auth.nudged.length = 0;
  const changed = await auth.organizations.update(
    ctx,
    given(updateOrganization, { body: { offlineAfterSeconds: 45 } }),
  );
  expect(changed.offlineAfterSeconds).toBe(45);
  expect(auth.nudged).toEqual(['thresholds']);
  const row = (await auth.audit(ctx)).at(-1);
  expect(row?.changes).toEqual({ offlineAfterSeconds: { from: null, to: 45 } });
});

test('an admin asks for four eyes, and an owner alone switches them off', async () => {
  const { ctx } = await auth.signUp();
  const admin = await auth.join(ctx, 'admin');
  const ask = (by: typeof ctx, fourEyes: boolean) =>
    auth.organizations.update(by, given(updateOrganization, { body: { fourEyes } }));
  expect(await ask(admin.ctx, true)).toMatchObject({ fourEyes: true });
  expect(await codeOf(ask(admin.ctx, false))).toBe('permission_denied');
  expect((await auth.audit(ctx)).at(-1)?.changes).toEqual({ fourEyes: { from: false, to: true } });
  expect(await ask(ctx, false)).toMatchObject({ fourEyes: false });
});

test('a write that names an older state changes nothing', async () => {
  const { ctx } = await auth.signUp();
  const { etag } = await auth.organizations.get(ctx);
  const rename = (name: string, ifMatch: string | null) =>
    auth.organizations.update(ctx, given(updateOrganization, { body: { name }, ifMatch }));
  await rename('Second', etag);
  expect(await codeOf(rename('Third', etag))).toBe('precondition_failed');
  expect((await auth.organizations.get(ctx)).name).toBe('Second');
  await rename('Fourth', '*');
});

test('a query without a where sees one organization', async () => {
  const mine = await auth.signUp();
  await auth.signUp();
  const seen = await auth.database.withTenant(mine.ctx, async (transaction) => ({
    organizations: await transaction.organization.findMany(),
    members: await transaction.member.findMany(),
    audit: await transaction.auditEvent.findMany(),
  }));
  for (const rows of Object.values(seen)) {
    expect(new Set(rows.map((row) => row.organizationId))).toEqual(
      new Set([toUuid('organization', mine.created.id)]),
    );
  }
});
