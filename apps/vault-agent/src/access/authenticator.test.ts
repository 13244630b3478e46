import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { exportJWK, SignJWT } from 'jose';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { AuditFact } from '../audit/audit-entry.ts';
import { accessLimits } from './access-limits.ts';
import { Allowance } from './allowance.ts';
import { Authenticator } from './authenticator.ts';
import { GuessGuard } from './guess-guard.ts';
import { readKeySet, TokenIssuer } from './token-issuer.ts';

let away: Server;
let asked = 0;
let published: object;
let padding = 0;
let answer: string | undefined;
let privateKey: KeyObject;
let publicKey: KeyObject;
beforeAll(async () => {
  ({ privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' }));
  away = createServer((request, response) => {
    asked += 1;
    if (request.url === '/keys') response.writeHead(500).end();
    else {
      const set = JSON.stringify({ keys: [published], padding: 'x'.repeat(padding) });
      response.end(answer ?? set);
    }
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => away.once('listening', resolve));
});
afterAll(() => away.close());

let facts: AuditFact[];
let nowMs: number;
let authenticator: Authenticator;
beforeEach(async () => {
  facts = [];
  asked = 0;
  answer = undefined;
  nowMs = Date.now();
  const jwk = { ...(await exportJWK(publicKey)), kid: 'one', alg: 'ES256' };
  published = jwk;
  const url = `http://127.0.0.1:${(away.address() as AddressInfo).port}/keys`;
  const allowance = () => new Allowance({ perSecond: 100, burstSeconds: 1, namesMax: 100 });
  authenticator = new Authenticator({
    book: {} as never,
    guard: new GuessGuard(() => nowMs),
    methods: {
      apiKeys: false,
      issuers: [
        issuer('https://away.test', { url }),
        issuer('https://here.test', { set: { keys: [jwk] } }),
        issuer('https://large.test', { url: `${url}-and-more` }),
      ],
      certificates: undefined,
    },
    record: async (fact) => void facts.push(fact),
    attempts: allowance(),
    crowd: allowance(),
    now: () => nowMs,
  });
});

function issuer(name: string, keys: ConstructorParameters<typeof TokenIssuer>[0]['keys']) {
  return new TokenIssuer({
    issuer: name,
    audience: ['vault'],
    keys,
    algorithms: ['ES256'],
    clockSkewSeconds: 5,
    maxAgeSeconds: 3_600,
    tokensPerSubjectMax: 10,
    subjectClaim: 'sub',
    rolesClaim: 'roles',
    roles: undefined,
    defaultRoles: ['reader'],
    namespacesClaim: undefined,
    now: () => nowMs,
  });
}

const tokenOf = (from: string) =>
  new SignJWT({ sub: 'ann' })
    .setProtectedHeader({ alg: 'ES256', kid: 'one' })
    .setIssuer(from)
    .setAudience('vault')
    .setIssuedAt()
    .setExpirationTime('5m')
    .sign(privateKey);

const knock = async (credential: string) =>
  authenticator.authenticate({
    headers: { authorization: `Bearer ${credential}` },
    socket: { remoteAddress: '192.0.2.1' } as Socket,
    requestId: 'request',
  });

test('an issuer whose keys cannot be had refuses its own tokens alone', async () => {
  await expect(knock(await tokenOf('https://away.test'))).rejects.toMatchObject({
    code: 'unavailable',
  });
  const before = asked;
  const { identity } = await knock(await tokenOf('https://here.test'));
  expect(identity.id).toBe('https://here.test|ann');
  await expect(knock(await tokenOf('https://unknown.test'))).rejects.toMatchObject({
    code: 'invalid_credentials',
  });
  await expect(knock('a.b.c')).rejects.toMatchObject({ code: 'invalid_credentials' });
  expect(asked).toBe(before);
  expect(facts.map(({ context }) => context?.reason)).toEqual([
    'its issuer is not known',
    'it is not a valid token',
  ]);
});

test('keys of an issuer are read up to a limit and no further', async () => {
  const token = await tokenOf('https://large.test');
  padding = accessLimits.jwksMaxBytes;
  await expect(knock(token)).rejects.toMatchObject({
    code: 'unavailable',
    message: expect.stringContaining('more than 262144 bytes'),
  });
  padding = accessLimits.jwksMaxBytes - 1_024;
  expect((await knock(token)).identity.id).toBe('https://large.test|ann');
});

test('keys that are none are the issuer’s fault and not the token’s; a file of such says so', async () => {
  const token = await tokenOf('https://large.test');
  padding = 0;
  const wrong = [[1], 'x', null, [{ kty: 'EC', kid: 'one', alg: 'ES256', crv: 'P-256', x: 'AA' }]];
  for (const keys of wrong) {
    answer = JSON.stringify({ keys });
    expect(await knock(token).catch(({ code }) => code), answer).toBe('unavailable');
  }
  for (const text of ['', '{', 'null', '[]', '{"keys":{}}', '{"keys":[1]}', '\u0000\u0001']) {
    expect(() => readKeySet(Buffer.from(text)), text).toThrow('is not a JSON web key set');
  }
  const large = Buffer.alloc(accessLimits.jwksMaxBytes + 1, ' ');
  expect(() => readKeySet(large)).toThrow('has more than 262144 bytes');
  expect(readKeySet(Buffer.from('{"keys":[]}'))).toEqual({ keys: [] });
});

test('every refusal is in the audit, and of an address that has to wait a sample', async () => {
  const key = `ksv_${'a'.repeat(12)}_${'b'.repeat(49)}`;
  await expect(knock(key)).rejects.toMatchObject({ code: 'invalid_credentials' });
  expect(facts).toMatchObject([
    { result: 'denied', context: { reason: 'API keys are no way in' } },
  ]);
  const guess = () => knock('x').catch(({ code }) => code);
  for (let index = 0; index < accessLimits.freeGuesses; index += 1) await guess();
  const closedBy = facts.length;
  for (let index = 0; index < 5; index += 1) expect(await guess()).toBe('rate_limited');
  const throttled = () => facts.filter(({ result }) => result === 'throttled');
  expect(closedBy).toBe(accessLimits.freeGuesses + 1);
  expect(throttled()).toMatchObject([
    { code: 'rate_limited', address: '192.0.2.1', context: { reason: 'the address is locked' } },
  ]);
});

test('whoever shows too much at once is in the audit as well', async () => {
  const answers = await Promise.all(
    Array.from({ length: 150 }, () => knock('same').catch(({ code }) => code)),
  );
  expect(answers).toContain('rate_limited');
  const reasons = facts.filter(({ result }) => result === 'throttled');
  expect(reasons.map(({ context }) => context?.reason)).toContain('too many attempts');
  expect(reasons.length).toBeLessThanOrEqual(2);
});
