import { limits } from '@keystead/contracts/limits';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type AuthFixture, codeOf, someEmail, startAuth } from '../auth.fixture.ts';

let auth: AuthFixture;
beforeAll(async () => {
  auth = await startAuth();
});
afterAll(() => auth.stop());

test('without Redis people still sign in, and guesses are still counted', async () => {
  const { email } = await auth.signUp();
  await auth.redis.kill();
  await auth.signIn(email);
  const codes: string[] = [];
  const stranger = someEmail();
  for (let round = 0; round < limits.signInsPerEmailPer15Minutes + 1; round += 1) {
    codes.push(await codeOf(auth.signIn(stranger, 'wrong')));
  }
  expect(codes.at(-2)).toBe('invalid_credentials');
  expect(codes.at(-1)).toBe('rate_limited');
  await auth.redis.restart();
  await auth.signIn(email);
});
