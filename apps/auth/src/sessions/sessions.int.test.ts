import { createSession, deleteSession, refreshSession } from '@keystead/contracts/auth';
import { toWireError } from '@keystead/contracts/errors';
import { toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
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
} from '../auth.fixture.ts';
import { hashPassword } from '../passwords/password-hash.ts';

let auth: AuthFixture;
beforeAll(async () => {
  auth = await startAuth();
});
afterAll(() => auth.stop());

const signIn = (body: Record<string, unknown>, address?: string) =>
  auth.sessions.create(nobody(address ? { address } : {}), given(createSession, { body }));
const refresh = (refreshToken: string) =>
  auth.sessions.refresh(nobody(), given(refreshSession, { body: { refreshToken } }));

test('whatever is wrong with a sign-in, the answer is the same', async () => {
  const { email } = await auth.signUp();
  const other = await auth.signUp();
  const answers = await Promise.all(
    [
      { email, password: 'not the password' },
      { email: someEmail(), password },
      { email: 'no address at all', password },
      { email: `nul\0${email}`, password },
      { email, password: `${password}\0` },
      { email: '', password: '' },
      { email, password, organizationId: other.created.id },
    ].map((body) =>
      signIn(body).then(
        () => 'signed in',
        (error) => JSON.stringify([toWireError(error), error.message]),
      ),
    ),
  );
  expect(new Set(answers)).toEqual(
    new Set([JSON.stringify([{ code: 'invalid_credentials' }, 'The credentials are not valid'])]),
  );
});

test('the time of a refusal does not tell whether the address is known', async () => {
  const known: number[] = [];
  const unknown: number[] = [];
  const measure = async (rounds: number) => {
    const emails = await Promise.all(Array.from({ length: 3 }, () => auth.signUp()));
    for (let round = 0; round < rounds; round += 1) {
      const { email } = emails[round % 3] as { email: string };
      for (const [times, address] of [
        [known, email],
        [unknown, someEmail()],
      ] as const) {
        const start = performance.now();
        expect(await codeOf(signIn({ email: address, password: 'wrong' }))).toBe(
          'invalid_credentials',
        );
        times.push(performance.now() - start);
      }
    }
    // The quickest of each: what a busy machine adds to the others says nothing.
    return Math.min(...known) / Math.min(...unknown);
  };
  const isNear = (ratio: number) => ratio > 0.7 && ratio < 1.4;
  let ratio = await measure(24);
  // A busy machine needs more of them until both have had a quick one; a difference that is there stays.
  for (let more = 0; more < 5 && !isNear(ratio); more += 1) ratio = await measure(24);
  expect(ratio).toBeGreaterThan(0.7);
  expect(ratio).toBeLessThan(1.4);
});

test('a failed sign-in of a member is written down as refused, and nothing of the password', async () => {
  const { email, ctx } = await auth.signUp();
  await codeOf(signIn({ email, password: 'a very wrong guess' }));
  const rows = await auth.audit(ctx);
  const refused = rows.filter((row) => row.result === 'refused');
  expect(refused).toMatchObject([
    { action: 'sessions.create', targetName: email, changes: { reason: 'password' } },
  ]);
  expect(JSON.stringify(rows)).not.toContain('a very wrong guess');
});

test('after ten wrong guesses an address is locked, known or not, right password or not', async () => {
  const { email } = await auth.signUp();
  const stranger = someEmail();
  for (let round = 0; round < limits.signInsPerEmailPer15Minutes; round += 1) {
    for (const address of [email, stranger]) {
      expect(await codeOf(signIn({ email: address, password: 'wrong' }))).toBe(
        'invalid_credentials',
      );
    }
  }
  for (const body of [
    { email, password: 'wrong' },
    { email, password },
    { email: ` ${email.toUpperCase()} `, password },
    { email: stranger, password: 'wrong' },
  ]) {
    const error = await signIn(body).catch((reason) => reason);
    expect(error).toMatchObject({ code: 'rate_limited' });
    expect(error.retryAfterSeconds).toBeGreaterThan(0);
    expect(error.retryAfterSeconds).toBeLessThanOrEqual(15 * 60);
  }
});

test('a right password does not count against anybody', async () => {
  const { email } = await auth.signUp();
  const { address } = facts();
  for (let round = 0; round < limits.signInsPerEmailPer15Minutes + 5; round += 1) {
    await signIn({ email, password }, address as string);
  }
});

test('guesses at once are counted one by one', async () => {
  const { email } = await auth.signUp();
  const codes = await Promise.all(
    Array.from({ length: 40 }, () => codeOf(signIn({ email, password: 'wrong' }))),
  );
  expect(codes.filter((code) => code === 'invalid_credentials').length).toBe(
    limits.signInsPerEmailPer15Minutes,
  );
});

test('one address that tries many accounts is slowed down', async () => {
  const address = facts().address as string;
  const codes: string[] = [];
  // A few at a time: all at once would be turned away for another reason.
  while (codes.length < limits.signInsPerAddressPer15Minutes + 5) {
    const attempts = Array.from({ length: 5 }, () =>
      codeOf(signIn({ email: someEmail(), password: 'wrong' }, address)),
    );
    codes.push(...(await Promise.all(attempts)));
  }
  expect(codes.filter((code) => code === 'rate_limited').length).toBe(5);
  expect(new Set(codes)).toEqual(new Set(['invalid_credentials', 'rate_limited']));
});

test('each refresh token works once and brings the next', async () => {
  const { refreshToken, ctx } = await auth.signUp();
  const second = await refresh(refreshToken);
  const third = await refresh(second.refreshToken);
  expect((await auth.ctxOf(third.accessToken)).credentialId).toBe(ctx.credentialId);
});

test('a replayed refresh token ends the session, however many came after it', async () => {
  const { refreshToken, ctx } = await auth.signUp();
  const second = await refresh(refreshToken);
  const third = await refresh(second.refreshToken);
  expect(await codeOf(refresh(refreshToken))).toBe('invalid_credentials');
  expect(await codeOf(refresh(third.refreshToken))).toBe('invalid_credentials');
  expect(await auth.authenticator.authenticate(third.accessToken, facts())).toBeUndefined();
  expect(await auth.authenticator.stillHolds(ctx)).toBe(false);
  const refused = (await auth.audit(ctx)).filter((row) => row.result === 'refused');
  expect(refused).toMatchObject([{ action: 'sessions.refresh', targetKind: 'session' }]);
});

test('fifty refreshes with one token at once give one winner', async () => {
  for (let round = 0; round < 3; round += 1) {
    const { refreshToken, ctx } = await auth.signUp();
    // Connections are there before the race, so that it is one.
    await Promise.all(Array.from({ length: 20 }, () => auth.organizations.get(ctx)));
    const codes = await Promise.all(
      Array.from({ length: 50 }, () => codeOf(refresh(refreshToken))),
    );
    expect(codes.filter((code) => code === 'no error').length).toBe(1);
    expect(codes.filter((code) => code === 'invalid_credentials').length).toBe(49);
  }
});

test('an invented refresh token cannot end the session of another', async () => {
  const { refreshToken, ctx } = await auth.signUp();
  const forged = `${refreshToken.slice(0, -4)}AAAA`;
  expect(await codeOf(refresh(forged))).toBe('invalid_credentials');
  expect(await auth.authenticator.stillHolds(ctx)).toBe(true);
  await refresh(refreshToken);
});

test('signing out ends the session at once, for both tokens', async () => {
  const { accessToken, refreshToken, ctx } = await auth.signUp();
  await auth.sessions.delete(ctx, given(deleteSession));
  expect(await auth.authenticator.authenticate(accessToken, facts())).toBeUndefined();
  expect(await codeOf(refresh(refreshToken))).toBe('invalid_credentials');
});

test('a hash made with less than today is made anew at the next sign-in', async () => {
  const { email } = await auth.signUp();
  const across = new pg.Client({ connectionString: auth.urls.acrossUrl });
  await across.connect();
  try {
    const weak = await hashPassword(password, { memoryKib: 1_024, passes: 1, parallelism: 1 });
    await across.query('update auth.person set password_hash = $1 where email = $2', [weak, email]);
    await signIn({ email, password });
    const { rows } = await across.query('select password_hash from auth.person where email = $1', [
      email,
    ]);
    expect(rows[0].password_hash).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
    await signIn({ email, password });
  } finally {
    await across.end();
  }
});

test('a person in several organizations lands in the oldest, or in the one they name', async () => {
  const first = await auth.signUp(someEmail(), 'First');
  const second = await auth.signUp(first.email, 'Second');
  expect((await signIn({ email: first.email, password })).organizationId).toBe(first.created.id);
  const named = await signIn({
    email: first.email,
    password,
    organizationId: second.created.id,
  });
  expect(named.organizationId).toBe(second.created.id);
  const me = await auth.sessions.me(await auth.ctxOf(named.accessToken));
  expect(me.organization.name).toBe('Second');
  expect(me.organizations.map(({ name }) => name)).toEqual(['First', 'Second']);
});

test('a member has a bounded number of sessions: the one unused longest makes room', async () => {
  const { email, ctx, refreshToken } = await auth.signUp();
  const personId = ctx.personId as string;
  const across = new pg.Client({ connectionString: auth.urls.acrossUrl });
  await across.connect();
  try {
    await across.query(
      `insert into auth.session (organization_id, id, member_id, person_id, refresh_hash,
         expires_at, created_at, last_refreshed_at)
       select organization_id, gen_random_uuid(), member_id, person_id, '\\x00',
         expires_at, created_at, last_refreshed_at + make_interval(secs => n)
       from auth.session, generate_series(1, $2) as n where person_id = $1`,
      [personId, limits.sessionsPerMember - 1],
    );
    await signIn({ email, password });
    const { rows } = await across.query(
      'select count(*)::int as count from auth.session where person_id = $1',
      [personId],
    );
    expect(rows[0].count).toBe(limits.sessionsPerMember);
    expect(await codeOf(refresh(refreshToken))).toBe('invalid_credentials');
  } finally {
    await across.end();
  }
});

test('a session of one organization opens nothing in another', async () => {
  const mine = await auth.signUp();
  const theirs = await auth.signUp();
  const sessions = await auth.database.withTenant(
    { organizationId: toUuid('organization', mine.created.id) },
    (transaction) => transaction.session.findMany(),
  );
  expect(sessions.map((row) => row.personId)).toEqual([mine.ctx.personId]);
  expect(sessions.map((row) => row.id)).not.toContain(theirs.ctx.credentialId);
});
