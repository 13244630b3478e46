import { createHmac, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { signSessionToken, verifySessionToken } from './session-token.ts';

/** Any bytes as text: controls, NUL and all. */
const anyText = fc
  .uint8Array({ maxLength: 120 })
  .map((bytes) => Buffer.from(bytes).toString('latin1'));

const { privateKey, publicKey } = generateKeyPairSync('ed25519');
const session = { personId: newUuid(), sessionId: newUuid(), organizationId: newUuid() };
const now = () => Math.floor(Date.now() / 1_000);
const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

const goodHeader = { alg: 'EdDSA', typ: 'at+jwt' };
const goodClaims = () => ({
  sub: session.personId,
  sid: session.sessionId,
  org: session.organizationId,
  iss: 'keystead',
  aud: 'keystead-api',
  iat: now(),
  exp: now() + 60,
});

function forge(header: unknown, claims: unknown, key: KeyObject = privateKey): string {
  const body = `${encode(header)}.${encode(claims)}`;
  return `${body}.${sign(null, Buffer.from(body), key).toString('base64url')}`;
}

test('a token names its session for fifteen minutes', async () => {
  const { token, expiresAt } = await signSessionToken(privateKey, session, new Date());
  expect(await verifySessionToken(publicKey, token)).toEqual(session);
  const seconds = (expiresAt.getTime() - Date.now()) / 1_000;
  expect(seconds).toBeGreaterThan(limits.accessTokenTtlSeconds - 5);
  expect(seconds).toBeLessThanOrEqual(limits.accessTokenTtlSeconds);
  const past = new Date(Date.now() - (limits.accessTokenTtlSeconds + 1) * 1_000);
  const { token: old } = await signSessionToken(privateKey, session, past);
  expect(await verifySessionToken(publicKey, old)).toBeUndefined();
});

test('the hand-made token that the refusals below vary is itself valid', async () => {
  expect(await verifySessionToken(publicKey, forge(goodHeader, goodClaims()))).toEqual(session);
});

const spoilt: Record<string, () => string> = {
  'no algorithm': () => `${encode({ ...goodHeader, alg: 'none' })}.${encode(goodClaims())}.`,
  'the public key used as a shared secret': () => {
    const body = `${encode({ ...goodHeader, alg: 'HS256' })}.${encode(goodClaims())}`;
    const secret = publicKey.export({ type: 'spki', format: 'pem' });
    return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
  },
  'another key': () => forge(goodHeader, goodClaims(), generateKeyPairSync('ed25519').privateKey),
  'a key of its own in the header': () => {
    const own = generateKeyPairSync('ed25519');
    return forge(
      { ...goodHeader, jwk: own.publicKey.export({ format: 'jwk' }) },
      goodClaims(),
      own.privateKey,
    );
  },
  'another kind of token': () => forge({ ...goodHeader, typ: 'JWT' }, goodClaims()),
  'another issuer': () => forge(goodHeader, { ...goodClaims(), iss: 'somebody' }),
  'another audience': () => forge(goodHeader, { ...goodClaims(), aud: 'vault-registry' }),
  'no end': () => forge(goodHeader, { ...goodClaims(), exp: undefined }),
  'an end in the past': () => forge(goodHeader, { ...goodClaims(), exp: now() - 1 }),
  'no session': () => forge(goodHeader, { ...goodClaims(), sid: undefined }),
  'an organization that is no id': () => forge(goodHeader, { ...goodClaims(), org: "' or 1=1" }),
};

test.each(Object.keys(spoilt))('a token with %s is no token', async (name) => {
  const token = (spoilt[name] as () => string)();
  expect(await verifySessionToken(publicKey, token)).toBeUndefined();
});

test('any text is refused without throwing', async () => {
  await fc.assert(
    fc.asyncProperty(anyText, async (text) => {
      expect(await verifySessionToken(publicKey, text)).toBeUndefined();
      expect(await verifySessionToken(publicKey, `${text}.${text}.${text}`)).toBeUndefined();
    }),
  );
});
