import {
  acceptInvitation,
  createSession,
  deleteMember,
  inviteMember,
  listMembers,
  updateMember,
} from '@keystead/contracts/auth';
import type { TenantCtx } from '@keystead/contracts/context';
import type { Role } from '@keystead/contracts/permissions';
import pg from 'pg';
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
  until,
} from '../auth.fixture.ts';

let auth: AuthFixture;
beforeAll(async () => {
  auth = await startAuth();
});
afterAll(() => auth.stop());

const list = async (ctx: TenantCtx, query: Record<string, string> = {}) =>
  (await auth.members.list(ctx, given(listMembers, { query }))).items;
const remove = (ctx: TenantCtx, id: string) =>
  auth.members.delete(ctx, given(deleteMember, { params: { id } }));
const setRole = (ctx: TenantCtx, id: string, role: Role) =>
  auth.members.update(ctx, given(updateMember, { params: { id }, body: { role } }));
const accept = (token: string, secret = password) =>
  auth.invitations.accept(nobody(), given(acceptInvitation, { body: { token, password: secret } }));
const signIn = (email: string, secret: string) =>
  auth.sessions.create(nobody(), given(createSession, { body: { email, password: secret } }));
const ownMember = async (ctx: TenantCtx) => (await list(ctx, { role: 'owner' }))[0]?.id as string;

test('an invitation is mailed, and its token is seen nowhere else', async () => {
  const { ctx } = await auth.signUp();
  const email = someEmail();
  auth.nudged.length = 0;
  const { member, token } = await auth.invite(ctx, email, 'operator');
  expect(member).toMatchObject({ email, role: 'operator', status: 'invited' });
  expect(auth.nudged).toEqual(['notification']);
  const shown = JSON.stringify([member, await list(ctx), await auth.audit(ctx)]);
  expect(shown).not.toContain(token);
});

test('an invitation cannot be accepted twice', async () => {
  const { ctx } = await auth.signUp();
  const { token } = await auth.invite(ctx, someEmail(), 'viewer');
  await accept(token);
  expect(await codeOf(accept(token))).toBe('gone');
});

test('of many who accept one invitation at once, one does', async () => {
  const { ctx } = await auth.signUp();
  const email = someEmail();
  const { token } = await auth.invite(ctx, email, 'viewer');
  const codes = await Promise.all(
    Array.from({ length: 10 }, (_, index) => codeOf(accept(token, `${password} ${index}`))),
  );
  expect(codes.filter((code) => code === 'no error').length).toBe(1);
  const rest = codes.filter((code) => code !== 'no error');
  expect(rest.every((code) => ['gone', 'invalid_credentials', 'rate_limited'].includes(code))).toBe(
    true,
  );
  expect((await list(ctx, { status: 'active' })).length).toBe(2);
});

test('a person who is known accepts an invitation once, however often at once', async () => {
  const person = await auth.join((await auth.signUp()).ctx, 'viewer');
  const { ctx } = await auth.signUp();
  const { token } = await auth.invite(ctx, person.email, 'operator');
  const holder = new pg.Client({ connectionString: auth.urls.acrossUrl });
  const watcher = new pg.Client({ connectionString: auth.urls.acrossUrl });
  await Promise.all([holder.connect(), watcher.connect()]);
  try {
    await holder.query('begin');
    await holder.query('select 1 from auth.member where organization_id = $1 for update', [
      ctx.organizationId,
    ]);
    const answers = Array.from({ length: 4 }, () => codeOf(accept(token)));
    await until(async () => {
      // Not the holder: a transaction sees the activity of its first look.
      const { rows } = await watcher.query(
        `select count(*)::int as waiting from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'`,
      );
      return rows[0].waiting >= answers.length;
    });
    await holder.query('commit');
    const codes = await Promise.all(answers);
    expect(codes.sort()).toEqual(['gone', 'gone', 'gone', 'no error']);
  } finally {
    await Promise.all([holder.end(), watcher.end()]);
  }
  const accepted = (await auth.audit(ctx)).filter((row) => row.action === 'invitations.accept');
  expect(accepted.length).toBe(1);
});

test('an unknown, a taken back and an expired invitation are the same answer', async () => {
  const { ctx } = await auth.signUp();
  const taken = await auth.invite(ctx, someEmail(), 'viewer');
  await remove(ctx, taken.member.id);
  const expired = await auth.invite(ctx, someEmail(), 'viewer');
  await auth.database.withTenant(ctx, (transaction) =>
    transaction.member.updateMany({
      where: { email: expired.member.email },
      data: { invitationExpiresAt: new Date(Date.now() - 1_000) },
    }),
  );
  const answers = await Promise.all(
    [taken.token, expired.token, 'ksi_nonsense', 'ksi_\0'].map((token) =>
      accept(token).then(
        () => 'accepted',
        (error) => `${error.code} ${error.detail}`,
      ),
    ),
  );
  expect(new Set(answers).size).toBe(1);
  expect(answers[0]).toMatch(/^gone /);
});

test('an expired invitation can be sent again, an open one cannot', async () => {
  const { ctx } = await auth.signUp();
  const email = someEmail();
  const first = await auth.invite(ctx, email, 'viewer');
  expect(await codeOf(auth.invite(ctx, email, 'viewer'))).toBe('conflict');
  await auth.database.withTenant(ctx, (transaction) =>
    transaction.member.updateMany({
      where: { email },
      data: { invitationExpiresAt: new Date(Date.now() - 1_000) },
    }),
  );
  const second = await auth.invite(ctx, email, 'operator');
  expect(await codeOf(accept(first.token))).toBe('gone');
  expect(await accept(second.token)).toMatchObject({ email, role: 'operator' });
  expect(await codeOf(auth.invite(ctx, email, 'viewer'))).toBe('conflict');
});

test('who showed that an address is theirs keeps their password', async () => {
  const first = await auth.signUp();
  const person = await auth.join(first.ctx, 'viewer');
  const second = await auth.signUp();
  const { token } = await auth.invite(second.ctx, person.email, 'operator');
  expect(await codeOf(accept(token, 'somebody elses guess'))).toBe('invalid_credentials');
  await accept(token, password);
  expect(await auth.authenticator.stillHolds(person.ctx)).toBe(true);
});

test('an address nobody verified goes to whoever reads its mail', async () => {
  const squatter = await auth.signUp();
  const { ctx } = await auth.signUp();
  const { token } = await auth.invite(ctx, squatter.email, 'operator');
  await accept(token, 'the password of the owner');
  expect(await auth.authenticator.stillHolds(squatter.ctx)).toBe(false);
  expect(await auth.authenticator.authenticate(squatter.accessToken, facts())).toBeUndefined();
  expect(await codeOf(signIn(squatter.email, password))).toBe('invalid_credentials');
  await signIn(squatter.email, 'the password of the owner');
  const rows = await auth.audit(squatter.ctx);
  expect(rows.some((row) => row.action === 'invitations.accept')).toBe(true);
});

test('the last owner can be neither removed nor demoted', async () => {
  const { ctx } = await auth.signUp();
  const id = await ownMember(ctx);
  await auth.invite(ctx, someEmail(), 'owner');
  expect(await codeOf(remove(ctx, id))).toBe('unprocessable');
  expect(await codeOf(setRole(ctx, id, 'admin'))).toBe('unprocessable');
  const refused = (await auth.audit(ctx)).filter((row) => row.result === 'refused');
  expect(refused.map((row) => row.action)).toEqual(['members.delete', 'members.update']);
});

test('two owners who remove each other at once leave one', async () => {
  for (let round = 0; round < 5; round += 1) {
    const first = await auth.signUp();
    const second = await auth.join(first.ctx, 'owner');
    const ids = {
      first: (await list(first.ctx, { email: first.email }))[0]?.id as string,
      second: (await list(first.ctx, { email: second.email }))[0]?.id as string,
    };
    await Promise.all([
      codeOf(remove(first.ctx, ids.second)),
      codeOf(remove(second.ctx, ids.first)),
    ]);
    const owners = await auth.database.withTenant(first.ctx, (transaction) =>
      transaction.member.count({ where: { role: 'owner', personId: { not: null } } }),
    );
    expect(owners).toBe(1);
  }
});

test('only owners hand out or take the role of an owner', async () => {
  const { ctx } = await auth.signUp();
  const admin = await auth.join(ctx, 'admin');
  const viewer = await auth.join(ctx, 'viewer');
  const ownerId = (await list(ctx, { role: 'owner' }))[0]?.id as string;
  expect(await codeOf(auth.invite(admin.ctx, someEmail(), 'owner'))).toBe('permission_denied');
  expect(await codeOf(setRole(admin.ctx, viewer.member.id, 'owner'))).toBe('permission_denied');
  expect(await codeOf(setRole(admin.ctx, ownerId, 'viewer'))).toBe('permission_denied');
  expect(await codeOf(remove(admin.ctx, ownerId))).toBe('permission_denied');
  await setRole(admin.ctx, viewer.member.id, 'operator');
  const refused = (await auth.audit(ctx)).filter((row) => row.result === 'refused');
  expect(refused.length).toBe(4);
  expect(new Set(refused.map((row) => row.actorId))).toEqual(new Set([admin.ctx.actor.id]));
});

test('a changed role holds from the next request on', async () => {
  const { ctx } = await auth.signUp();
  const member = await auth.join(ctx, 'admin');
  await setRole(ctx, member.member.id, 'viewer');
  expect(await auth.authenticator.stillHolds(member.ctx)).toBe(false);
  expect((await auth.ctxOf(member.accessToken)).role).toBe('viewer');
});

test('the sessions of a removed member end with the row', async () => {
  const { ctx } = await auth.signUp();
  const member = await auth.join(ctx, 'operator');
  await remove(ctx, member.member.id);
  expect(await auth.authenticator.authenticate(member.accessToken, facts())).toBeUndefined();
  expect(await auth.authenticator.stillHolds(member.ctx)).toBe(false);
  expect(await codeOf(signIn(member.email, password))).toBe('invalid_credentials');
});

test('a member of another organization is answered like one that is not there', async () => {
  const mine = await auth.signUp();
  const theirs = await auth.signUp();
  const foreign = (await auth.join(theirs.ctx, 'viewer')).member.id;
  const absent = 'mbr_01h455vb4pex5vsknk084sn02q';
  const answers = await Promise.all(
    [foreign, absent].flatMap((id) => [
      setRole(mine.ctx, id, 'admin').catch((error) => JSON.stringify([error, error.message])),
      remove(mine.ctx, id).catch((error) => JSON.stringify([error, error.message])),
    ]),
  );
  expect(new Set(answers).size).toBe(1);
  expect((await list(theirs.ctx)).map(({ id }) => id)).toContain(foreign);
});

test('members are listed page by page in every order', async () => {
  const { ctx } = await auth.signUp();
  for (const role of ['viewer', 'operator', 'admin', 'viewer'] as const) {
    await auth.invite(ctx, someEmail(), role);
  }
  for (const sort of ['createdAt', '-name', 'email', '-role', 'role']) {
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const query = { sort, limit: '2', ...(cursor ? { cursor } : {}) };
      const page = await auth.members.list(ctx, given(listMembers, { query }));
      seen.push(...page.items.map(({ id }) => id));
      cursor = page.nextCursor ?? undefined;
    } while (cursor);
    expect(seen.length, sort).toBe(5);
    expect(new Set(seen).size, sort).toBe(5);
  }
});

test('a repeated invitation with the same idempotency key sends one mail', async () => {
  const { ctx } = await auth.signUp();
  const input = given(inviteMember, {
    body: { email: someEmail(), name: 'Bob', role: 'viewer' },
  });
  const repeated = { ...ctx, idempotencyKey: 'once' };
  const answers = [
    await auth.members.invite(repeated, input),
    await auth.members.invite(repeated, input),
  ];
  expect(answers[0]).toEqual(answers[1]);
  const mails = await auth.database.withTenant(ctx, (transaction) => transaction.outbox.count());
  expect(mails).toBe(1);
});
