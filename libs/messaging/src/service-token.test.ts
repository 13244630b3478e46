import { createHash, generateKeyPairSync } from 'node:crypto';
import type { Ctx } from '@keystead/contracts/context';
import { limits } from '@keystead/contracts/limits';
import type { ServiceName } from '@keystead/contracts/operation';
import fc from 'fast-check';
import { SignJWT } from 'jose';
import { expect, test } from 'vitest';
import { type ServiceKeys, signCall, verifyCall } from './service-token.ts';

const pairs = new Map(
  (['gateway', 'auth', 'monitoring'] as const).map((name) => [
    name,
    generateKeyPairSync('ed25519'),
  ]),
);
const publicKeys = new Map(
  [...pairs].map(([name, pair]) => [name as ServiceName, pair.publicKey] as const),
);
function keysOf(service: 'gateway' | 'auth' | 'monitoring'): ServiceKeys {
  const pair = pairs.get(service);
  if (!pair) throw new Error(`no keys of ${service}`);
  return { service, privateKey: pair.privateKey, publicKeys };
}

const ctx: Ctx = {
  organizationId: '01a1fce9-5e7e-7b64-82f8-72f2745f6d63',
  actor: { kind: 'person', id: 'usr_1', name: 'Ann' },
  role: 'viewer',
  permissions: ['vaults.read'],
  personId: null,
  credentialId: null,
  requestId: 'request',
  address: null,
  userAgent: null,
  idempotencyKey: null,
};
const subject = 'auth.members.list';
const payload = '{"params":{}}';
const call = { audience: 'auth' as const, subject, payload, ctx };
const refused = { code: 'unauthenticated' };

const verify = (token: string, changed: Partial<Parameters<typeof verifyCall>[1]> = {}) =>
  verifyCall(keysOf('auth'), { subject, payload, token, callers: ['gateway'], ...changed });

test('a call arrives with who sent it and for whom', async () => {
  const token = await signCall(keysOf('gateway'), call);
  expect(await verify(token)).toEqual({ caller: 'gateway', ctx });
});

test('a token is good for one audience, one subject and one payload', async () => {
  const token = await signCall(keysOf('gateway'), call);
  await expect(verify(token, { subject: 'auth.members.delete' })).rejects.toMatchObject(refused);
  await expect(verify(token, { payload: `${payload} ` })).rejects.toMatchObject(refused);
  await expect(
    verifyCall(keysOf('monitoring'), { subject, payload, token, callers: ['gateway'] }),
  ).rejects.toMatchObject(refused);
});

test('a service that is not named as a caller is refused, whatever it signs', async () => {
  const token = await signCall(keysOf('monitoring'), call);
  await expect(verify(token)).rejects.toMatchObject(refused);
  expect((await verify(token, { callers: ['monitoring'] })).caller).toBe('monitoring');
});

function forge(issuer: string, issuedAt: number, key = keysOf('gateway').privateKey) {
  const hash = createHash('sha256').update(payload).digest('base64url');
  return new SignJWT({ hash, ctx })
    .setProtectedHeader({ alg: 'EdDSA' })
    .setIssuer(issuer)
    .setAudience('auth')
    .setSubject(subject)
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + limits.serviceTokenTtlSeconds)
    .sign(key);
}
const now = () => Math.floor(Date.now() / 1_000);

test('a service cannot speak in the name of another', async () => {
  expect((await verify(await forge('gateway', now()))).caller).toBe('gateway');
  const other = await forge('gateway', now(), keysOf('monitoring').privateKey);
  await expect(verify(other)).rejects.toMatchObject(refused);
  for (const issuer of ['nobody', 'GATEWAY', '', '__proto__']) {
    await expect(verify(await forge(issuer, now()))).rejects.toMatchObject(refused);
  }
});

test('a recorded call is worth nothing after half a minute', async () => {
  const life = limits.serviceTokenTtlSeconds + limits.serviceClockSkewSeconds;
  await expect(verify(await forge('gateway', now() - life - 1))).rejects.toMatchObject(refused);
});

test('an organization that was put in afterwards is noticed', async () => {
  const token = await signCall(keysOf('gateway'), call);
  const [head, body, signature] = token.split('.') as [string, string, string];
  const claims = JSON.parse(Buffer.from(body, 'base64url').toString());
  claims.ctx.organizationId = '01a1fce9-0000-7b64-82f8-72f2745f6d63';
  const changed = Buffer.from(JSON.stringify(claims)).toString('base64url');
  await expect(verify(`${head}.${changed}.${signature}`)).rejects.toMatchObject(refused);
  const none = Buffer.from('{"alg":"none"}').toString('base64url');
  await expect(verify(`${none}.${changed}.`)).rejects.toMatchObject(refused);
});

test('any text is refused, never a failure', async () => {
  const anyText = fc
    .uint8Array({ maxLength: 100 })
    .map((bytes) => Buffer.from(bytes).toString('latin1'));
  await fc.assert(
    fc.asyncProperty(anyText, async (text) => {
      await expect(verify(text)).rejects.toMatchObject(refused);
      await expect(verify(`${text}.${text}.${text}`)).rejects.toMatchObject(refused);
    }),
  );
});
