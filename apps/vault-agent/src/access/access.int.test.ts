import { createHmac, generateKeyPairSync } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { ExtendedKeyUsage, TestAuthority } from '@keystead/agent-protocol/test-authority.fixture';
import { exportJWK, type JWTPayload, SignJWT } from 'jose';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { command, TestAgent } from '../agent-process.fixture.ts';

const issuer = 'https://issuer.test';
const audience = 'vault';

let agent: TestAgent;
let authority: TestAuthority;
let strangers: TestAuthority;
let jwks: Server;
let published: object[] = [];
const [first, second, stranger] = ['first', 'second', 'stranger'].map((kid) => ({
  kid,
  ...generateKeyPairSync('ec', { namedCurve: 'P-256' }),
})) as [SigningKey, SigningKey, SigningKey];
type SigningKey = { kid: string } & ReturnType<typeof generateKeyPairSync>;

const jwkOf = async (key: SigningKey) => ({
  ...(await exportJWK(key.publicKey)),
  kid: key.kid,
  alg: 'ES256',
});

const revokedLists = async (...revoked: string[]) => {
  const lists = [
    await authority.revocationList('root'),
    await authority.revocationList('intermediate', { revoked }),
  ];
  return lists.join('\n');
};

beforeAll(async () => {
  authority = await TestAuthority.create();
  strangers = await TestAuthority.create('Strangers');
  const server = await authority.issueServer();
  published = [await jwkOf(first)];
  jwks = createServer((_request, response) => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ keys: published }));
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => jwks.once('listening', resolve));
  const { port } = jwks.address() as { port: number };
  agent = await TestAgent.make();
  for (const [name, text] of [
    ['server.crt', server.certificateChain],
    ['server.key', server.privateKey],
    ['clients.crt', `${authority.root}\n${authority.intermediate}`],
    ['revoked.pem', await revokedLists()],
  ]) {
    writeFileSync(join(agent.folder, name ?? ''), text ?? '');
  }
  agent.configure((yaml) =>
    yaml
      .replace(
        /^server:\n/m,
        'server:\n  tls: { enabled: true, cert_file: server.crt, key_file: server.key, ca_file: clients.crt, crl_file: revoked.pem, min_version: "1.3" }\n',
      )
      .replace(
        /^authentication:\n {2}methods: .*\n/m,
        `authentication:
  methods: ["api_key", "jwt", "certificate"]
  jwt:
    issuers:
      - issuer: "${issuer}"
        audience: "${audience}"
        jwks_url: "http://127.0.0.1:${port}/keys"
        algorithms: ["ES256"]
        clock_skew: "5s"
        roles_claim: "realm.groups"
        roles: { vault-readers: ["reader"], vault-admins: ["admin"] }
  certificate:
    identities:
      - { san: "URI:spiffe://apps.test/payments*", roles: ["reader"], namespaces: ["app"] }
`,
      )
      .replace('max_sessions_per_user: 10', 'max_sessions_per_user: 3'),
  );
  await agent.run();
  agent.useTls();
  await agent.send('POST', '/v1/namespaces', { body: { name: 'app' } });
  await agent.send('POST', '/v1/namespaces', { body: { name: 'other' } });
  for (const name of ['app', 'other']) {
    await agent.send('POST', `/v1/namespaces/${name}/secrets`, {
      body: { name: 'password', value: 'canary-hunter2' },
    });
  }
});
afterAll(async () => {
  jwks.close();
  await agent.remove();
});

const value = (sending: object, namespace = 'app') =>
  agent.send('GET', `/v1/namespaces/${namespace}/secrets/password/value`, sending);

interface TokenParts {
  key?: SigningKey;
  claims?: JWTPayload;
  expiresAt?: number | null;
  issuedAt?: number;
  from?: string;
  to?: string;
}

function token(parts: TokenParts = {}): Promise<string> {
  const { key = first, claims = { realm: { groups: ['vault-readers'] } } } = parts;
  const signing = new SignJWT({ sub: 'ann', ...claims })
    .setProtectedHeader({ alg: 'ES256', kid: key.kid })
    .setIssuer(parts.from ?? issuer)
    .setAudience(parts.to ?? audience)
    .setIssuedAt(parts.issuedAt);
  if (parts.expiresAt !== null) signing.setExpirationTime(parts.expiresAt ?? '5m');
  return signing.sign(key.privateKey);
}

test('every decision is in the audit with its request, and no value', async () => {
  const key = await agent.keyFor(['auditor']);
  const send = (sending: object, id: string) =>
    value({ ...sending, headers: { 'x-request-id': id } });
  await send({}, 'audited-allowed');
  await send({ key }, 'audited-denied');
  await send({ key: '' }, 'audited-nobody');
  await send({ key: `ksv_${'a'.repeat(12)}_${'b'.repeat(49)}` }, 'audited-unknown');
  const entries = agent.audit();
  const of = (id: string) => entries.filter(({ requestId }) => requestId === id);
  expect(of('audited-allowed')).toMatchObject([
    {
      action: 'secret.read-value',
      namespace: 'app',
      secret: 'password',
      result: 'done',
      decidedBy: ['admin'],
    },
  ]);
  expect(of('audited-denied')).toMatchObject([
    { result: 'denied', code: 'permission_denied', identity: { kind: 'api_key' } },
  ]);
  expect(of('audited-unknown')).toMatchObject([
    { result: 'denied', action: 'authenticate', context: { reason: 'mistyped' } },
  ]);
  expect(of('audited-nobody')).toMatchObject([
    { result: 'denied', code: 'unauthenticated', identity: { kind: 'anonymous' } },
  ]);
  const text = JSON.stringify(entries);
  expect(text).not.toContain('canary-hunter2');
  expect(text).not.toContain(agent.adminKey);
});

test('a token of the issuer is let in with the roles that its claim is mapped to', async () => {
  const key = await token();
  expect(await value({ key })).toMatchObject({ status: 200 });
  const me = await agent.send('GET', '/v1/caller', { key });
  expect(me.body).toMatchObject({ kind: 'jwt', id: `${issuer}|ann`, roles: ['reader'] });
  const denied = await agent.send('POST', '/v1/namespaces', { key, body: { name: 'x' } });
  expect(denied).toMatchObject({ status: 403, body: { code: 'permission_denied' } });
  const none = await token({ claims: { sub: 'bob', realm: { groups: ['unknown', 'admin'] } } });
  expect(await value({ key: none })).toMatchObject({ status: 403 });
});

test('no other token is let in, whatever is wrong with it, and all are told the same', async () => {
  const good = await token();
  const [header = '', payload = '', signature = ''] = good.split('.');
  const encode = (part: object) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const spoilt = (claims: object) =>
    encode({ ...JSON.parse(Buffer.from(payload, 'base64url').toString()), ...claims });
  const publicPem = first.publicKey.export({ type: 'spki', format: 'pem' }) as string;
  const confused = `${encode({ alg: 'HS256', kid: 'first' })}.${payload}`;
  const hour = Math.floor(Date.now() / 1_000) - 3_600;
  const tokens = {
    unsigned: `${encode({ alg: 'none' })}.${payload}.`,
    'signed with the public key as a secret': `${confused}.${createHmac('sha256', publicPem).update(confused).digest('base64url')}`,
    'other claims': `${header}.${spoilt({ sub: 'root' })}.${signature}`,
    'another issuer': await token({ from: 'https://other.test' }),
    'another audience': await token({ to: 'other' }),
    expired: await token({ issuedAt: hour - 60, expiresAt: hour }),
    'without an end': await token({ expiresAt: null }),
    'older than a session may be': await token({
      issuedAt: hour - 48 * 3_600,
      expiresAt: hour + 48 * 3_600,
    }),
    'a key that is not published': await token({ key: stranger }),
    'a key of its own in the header': `${encode({ alg: 'ES256', jwk: await jwkOf(stranger) })}.${payload}.${signature}`,
    nonsense: 'a.b.c',
    'too long': `${'a'.repeat(6_000)}.${'b'.repeat(6_000)}.c`,
  };
  const seen = new Set<string>();
  for (const [what, key] of Object.entries(tokens)) {
    const { status, body } = await value({ key });
    // Beyond ten guesses the address is told to wait.
    expect([401, 429], what).toContain(status);
    if (status !== 401) continue;
    const { requestId: _id, timestamp: _at, ...rest } = body;
    seen.add(JSON.stringify(rest));
  }
  expect(seen.size).toBe(1);
  const reasons = agent
    .audit()
    .filter(({ action }) => action === 'authenticate')
    .map(({ context }) => (context as { reason: string }).reason);
  expect(reasons).toEqual(
    expect.arrayContaining(['its algorithm is not allowed', 'it has expired']),
  );
});

test('a client certificate of the CA is an identity; of another CA it is none', async () => {
  const issued = await authority.issue({
    names: [{ type: 'url', value: 'spiffe://apps.test/payments/api' }],
    usages: [ExtendedKeyUsage.clientAuth],
  });
  const foreign = await strangers.issue({
    names: [{ type: 'url', value: 'spiffe://apps.test/payments/api' }],
    usages: [ExtendedKeyUsage.clientAuth],
  });
  const unmapped = await authority.issue({
    names: [{ type: 'url', value: 'spiffe://apps.test/shop' }],
    usages: [ExtendedKeyUsage.clientAuth],
  });
  const by = async (
    certificate: { certificateChain: string; privateKey: string },
    path: string,
  ) => {
    agent.useTls({ cert: certificate.certificateChain, key: certificate.privateKey });
    const answer = await agent.send('GET', path, { key: '' });
    agent.useTls();
    return answer;
  };
  const path = '/v1/namespaces/app/secrets/password/value';
  expect(await by(issued, path)).toMatchObject({ status: 200 });
  expect(await by(issued, '/v1/namespaces/other/secrets/password/value')).toMatchObject({
    status: 403,
  });
  expect((await by(issued, '/v1/caller')).body).toMatchObject({ kind: 'certificate' });
  expect(await by(foreign, path)).toMatchObject({ status: 401 });
  expect(await by(unmapped, path)).toMatchObject({ status: 403 });
  // Revoked, once the agent is told to read the list again; a damaged list changes nothing.
  const list = join(agent.folder, 'revoked.pem');
  writeFileSync(list, 'no list at all');
  agent.kill('SIGHUP');
  await agent.until(() => agent.output.includes('holds no X509 CRL'));
  expect(await by(issued, path)).toMatchObject({ status: 200 });
  writeFileSync(list, await revokedLists(issued.certificate));
  agent.kill('SIGHUP');
  await agent.until(async () => (await by(issued, path)).status === 401);
  expect(await by(unmapped, path)).toMatchObject({ status: 403 });
  expect(agent.audit().map(({ context }) => context)).toContainEqual({
    reason: 'no credentials',
    certificate: 'CERT_REVOKED',
  });
});

test('TLS below the configured version is refused, and so is plain HTTP', async () => {
  const outcome = await new Promise((resolve) => {
    const socket = connectTls(
      { port: agent.port, host: '127.0.0.1', rejectUnauthorized: false, maxVersion: 'TLSv1.2' },
      () => resolve('connected'),
    );
    socket.on('error', () => resolve('refused'));
  });
  expect(outcome).toBe('refused');
  await expect(fetch(`http://127.0.0.1:${agent.port}/healthz`)).rejects.toThrow();
});

test('a key that is revoked, expired or mistyped is refused at once', async () => {
  const key = await agent.keyFor(['reader']);
  expect(await value({ key })).toMatchObject({ status: 200 });
  const { items } = (await agent.send('GET', '/v1/api-keys?limit=200')).body;
  const { id } = items.find(({ prefix }: { prefix: string }) => key.startsWith(prefix));
  await agent.send('DELETE', `/v1/api-keys/${id}`);
  expect(await value({ key })).toMatchObject({ status: 401 });
  const soon = await agent.keyFor(['reader'], {
    expiresAt: new Date(Date.now() + 1_500).toISOString(),
  });
  expect(await value({ key: soon })).toMatchObject({ status: 200 });
  await agent.until(async () => (await value({ key: soon })).status === 401);
  expect(JSON.stringify(await agent.send('GET', '/v1/api-keys?limit=200'))).not.toContain(key);
});

test('a role that changes holds for the next request', async () => {
  const role = (namespaces: string[], etag?: string) =>
    agent.send('PUT', '/v1/roles/changing', {
      body: { permissions: [{ actions: ['secret.read-value'], namespaces }] },
      headers: etag === undefined ? {} : { 'if-match': etag },
    });
  const made = await role(['app']);
  const key = await agent.keyFor(['changing']);
  expect(await value({ key })).toMatchObject({ status: 200 });
  expect(await role(['other'], '"9"')).toMatchObject({ status: 412 });
  await role(['other'], made.headers.etag);
  expect(await value({ key })).toMatchObject({ status: 403 });
  expect(await value({ key }, 'other')).toMatchObject({ status: 200 });
  await agent.send('DELETE', '/v1/roles/changing');
  expect(await value({ key }, 'other')).toMatchObject({ status: 403 });
  expect(
    await agent.send('PUT', '/v1/roles/admin', { body: { permissions: [{ actions: ['*'] }] } }),
  ).toMatchObject({ status: 409 });
});

test('nobody gives away more than they have', async () => {
  await agent.send('PUT', '/v1/roles/keymaker', {
    body: { permissions: [{ actions: ['access.*'] }] },
  });
  const key = await agent.keyFor(['keymaker', 'reader']);
  const make = (roles: string[]) =>
    agent.send('POST', '/v1/api-keys', { key, body: { name: 'x', roles } });
  expect(await make(['reader'])).toMatchObject({ status: 201 });
  for (const roles of [['admin'], ['reader', 'writer']]) {
    expect(await make(roles)).toMatchObject({ status: 403 });
  }
  expect(await make(['system'])).toMatchObject({ status: 400 });
  const put = await agent.send('PUT', '/v1/roles/keymaker', {
    key,
    body: { permissions: [{ actions: ['*'] }] },
  });
  expect(put).toMatchObject({ status: 403 });
  // Roles and keys of a backup are given away by whoever restores them.
  const operator = await agent.keyFor(['operator']);
  const restore = (contents: string[], by: string) =>
    agent.send('POST', `/v1/backups/bkp_${'0'.repeat(26)}/restore`, {
      key: by,
      body: { contents },
    });
  expect(await restore(['secrets'], operator)).not.toMatchObject({ status: 403 });
  expect(await restore(['secrets', 'access'], operator)).toMatchObject({ status: 403 });
  const admin = await agent.keyFor(['admin']);
  expect(await restore(['access'], admin)).not.toMatchObject({ status: 403 });
});

test('of one subject no more tokens are in use than the configuration allows', async () => {
  const claims = { sub: 'many', realm: { groups: ['vault-readers'] } };
  const statuses: number[] = [];
  for (let index = 0; index < 4; index += 1) {
    statuses.push(
      (await value({ key: await token({ claims: { ...claims, jti: `${index}` } }) })).status,
    );
  }
  expect(statuses).toEqual([200, 200, 200, 401]);
});

test('SIGHUP takes a changed file over, and keeps the old one where the new one is wrong', async () => {
  const key = await token({ claims: { sub: 'carl', realm: { groups: ['vault-guests'] } } });
  expect(await value({ key })).toMatchObject({ status: 403 });
  agent.configure((yaml) =>
    yaml.replace('vault-readers:', 'vault-guests: ["reader"], vault-readers:'),
  );
  agent.kill('SIGHUP');
  await agent.until(async () => (await value({ key })).status === 200);
  agent.configure((yaml) => yaml.replace('log_level: "info"', 'log_level: "loud"'));
  agent.kill('SIGHUP');
  await agent.until(() => agent.output.includes('monitoring.log_level'));
  expect(await value({ key })).toMatchObject({ status: 200 });
  const checked = await command(['check-config', '--config', agent.configuration]);
  expect(checked).toMatchObject({ code: 1 });
  expect(checked.errors).toMatch(/vault\.yaml:\d+:\d+ monitoring\.log_level/);
});

test('a key that the issuer publishes anew is found, and one it withdraws bites', async () => {
  const late = await token({
    key: second,
    claims: { sub: 'dora', realm: { groups: ['vault-readers'] } },
  });
  // This address was refused much so far, and may have to wait for its answer.
  await agent.until(async () => (await value({ key: late })).status === 401, 30_000);
  published = [await jwkOf(first), await jwkOf(second)];
  await agent.until(async () => (await value({ key: late })).status === 200, 30_000);
});

test('guessing is locked out, longer each time; who is known already is not', async () => {
  const known = await agent.keyFor(['reader']);
  expect(await value({ key: known })).toMatchObject({ status: 200 });
  const guess = (index: number) =>
    value({ key: `${known.slice(0, -12)}${String(index).padStart(12, '0')}` });
  let locked: Awaited<ReturnType<typeof guess>> | undefined;
  for (let index = 0; index < 60 && locked === undefined; index += 1) {
    const answer = await guess(index);
    if (answer.status === 429) locked = answer;
  }
  expect(locked).toMatchObject({ status: 429, body: { code: 'rate_limited' } });
  expect(Number(locked?.headers['retry-after'])).toBeGreaterThanOrEqual(1);
  expect(await value({ key: known })).toMatchObject({ status: 200 });
  const locks = agent
    .audit()
    .filter(({ context }) => 'lockedForSeconds' in ((context ?? {}) as object));
  expect(locks.length).toBeGreaterThan(0);
  expect(agent.output).toContain('somebody guesses credentials');
});

test('who sends too much is told to wait; others are not', async () => {
  const throttled = () => agent.audit().filter(({ result }) => result === 'throttled').length;
  const before = throttled();
  const [loud, quiet] = [await agent.keyFor(['reader']), await agent.keyFor(['reader'])];
  await value({ key: loud });
  await value({ key: quiet });
  agent.configure((yaml) =>
    yaml
      .replace('log_level: "loud"', 'log_level: "info"')
      .replace(/^server:\n/m, 'server:\n  rate_limit: { requests_per_second: 5 }\n'),
  );
  agent.kill('SIGHUP');
  await agent.until(async () => (await value({ key: loud })).status === 429);
  expect(await value({ key: quiet })).toMatchObject({ status: 200 });
  expect(throttled() - before).toBe(1);
});
