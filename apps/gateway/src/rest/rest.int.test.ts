import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type RestFixture, startRest } from '../rest.fixture.ts';
import { publicOperations } from './public-operations.ts';

let rest: RestFixture;
let owner: Awaited<ReturnType<RestFixture['signIn']>>;
beforeAll(async () => {
  rest = await startRest();
  owner = await rest.signIn();
});
afterAll(() => rest.stop());
beforeEach(() => {
  rest.answers.perform = () => ({ items: [], nextCursor: null });
});

interface Sent {
  token?: string | undefined;
  headers?: Record<string, string>;
  body?: unknown;
}
async function send(method: string, path: string, { token, headers, body }: Sent = {}) {
  const answer = await fetch(`${rest.url}${path}`, {
    method,
    headers: {
      ...(token ? { authorization: `Bearer ${token}` } : {}),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const text = await answer.text();
  return {
    status: answer.status,
    headers: answer.headers,
    text,
    body: text === '' ? undefined : JSON.parse(text),
  };
}
const asOwner = (method: string, path: string, sent: Sent = {}) =>
  send(method, path, { token: owner.token, ...sent });

test('a session and an API key are who calls, with the role they have now', async () => {
  const seen: unknown[] = [];
  rest.answers.perform = (operation, ctx) => {
    seen.push([operation.id, ctx.organizationId, ctx.actor.kind, ctx.role]);
    return { items: [], nextCursor: null };
  };
  const { id, key } = await rest.createKey(owner.organizationId, 'viewer');
  expect((await asOwner('GET', '/v1/vaults')).status).toBe(200);
  expect((await send('GET', '/v1/vaults', { token: key })).status).toBe(200);
  expect(seen).toEqual([
    ['vaults.list', owner.organizationId, 'person', 'owner'],
    ['vaults.list', owner.organizationId, 'apiKey', 'viewer'],
  ]);
  await rest.database.withTenant(owner.tenant, (transaction) =>
    transaction.apiKey.updateMany({ where: { id }, data: { revokedAt: new Date() } }),
  );
  expect((await send('GET', '/v1/vaults', { token: key })).status).toBe(401);
});

test('every operation refuses who has no credentials, and every public one asks for none', async () => {
  for (const operation of publicOperations) {
    const path = operation.path.replaceAll('{id}', toId('vault', newUuid()));
    const { status, headers, body } = await send(operation.method, path);
    if (operation.permission === 'public') expect(status, operation.id).not.toBe(401);
    else {
      expect(status, operation.id).toBe(401);
      expect(headers.get('www-authenticate')).toBe('Bearer realm="keystead"');
      expect(body.code).toBe('unauthenticated');
    }
  }
});

test.each([
  ['nothing', ''],
  ['another scheme', 'Basic YTpi'],
  ['no token', 'Bearer '],
  ['a key that was never made', `Bearer ks_${'0'.repeat(33)}`],
  ['a token that nobody signed', 'Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.'],
  ['two tokens', 'Bearer a, Bearer b'],
  ['a very long token', `Bearer ${'a'.repeat(10_000)}`],
])('%s is no credential', async (_, authorization) => {
  const { status } = await send('GET', '/v1/vaults', { headers: { authorization } });
  expect(status).toBe(401);
});

test('a role is refused what its permissions do not hold, before the service is asked', async () => {
  let asked = 0;
  rest.answers.perform = () => {
    asked += 1;
    return {};
  };
  const { key } = await rest.createKey(owner.organizationId, 'viewer');
  const answer = await send('POST', '/v1/vaults', { token: key, body: { name: 'x' } });
  expect(answer).toMatchObject({ status: 403, body: { code: 'permission_denied' } });
  expect(asked).toBe(0);
});

test('a request reaches its service checked and complete', async () => {
  let asked: unknown;
  rest.answers.perform = (operation, ctx, input) => {
    asked = { id: operation.id, input, ctx };
    return { id: input.params.id, etag: '"4"' };
  };
  const id = toId('vault', newUuid());
  const { status, headers, body } = await asOwner('PATCH', `/v1/vaults/${id}`, {
    body: { name: '  Payments ', tags: ['b', 'a', 'a'] },
    headers: {
      'if-match': '"3"',
      'idempotency-key': 'once',
      'x-request-id': 'deploy-42',
      'user-agent': 'curl/8',
    },
  });
  expect({ status, body }).toEqual({ status: 200, body: { id, etag: '"4"' } });
  expect(headers.get('etag')).toBe('"4"');
  expect(headers.get('x-request-id')).toBe('deploy-42');
  expect(asked).toMatchObject({
    id: 'vaults.update',
    input: {
      params: { id },
      query: {},
      body: { name: 'Payments', tags: ['a', 'b'] },
      ifMatch: '"3"',
    },
    ctx: {
      organizationId: owner.organizationId,
      requestId: 'deploy-42',
      idempotencyKey: 'once',
      address: '127.0.0.1',
      userAgent: 'curl/8',
    },
  });
});

test('what was created is answered with 201 and its place', async () => {
  const id = toId('vault', newUuid());
  rest.answers.perform = () => ({ id, etag: '"1"' });
  const { status, headers } = await asOwner('POST', '/v1/vaults', { body: { name: 'x' } });
  expect(status).toBe(201);
  expect(headers.get('location')).toBe(`/v1/vaults/${id}`);
  expect(headers.get('etag')).toBe('"1"');
  expect(headers.get('cache-control')).toBe('no-store');
});

test('a deletion answers nothing', async () => {
  rest.answers.perform = () => null;
  const answer = await asOwner('DELETE', `/v1/vaults/${toId('vault', newUuid())}`);
  expect(answer).toMatchObject({ status: 204, text: '' });
});

test('a change without If-Match is refused where it is required', async () => {
  const path = `/v1/vaults/${toId('vault', newUuid())}`;
  expect(await asOwner('PATCH', path, { body: { name: 'x' } })).toMatchObject({
    status: 428,
    body: { code: 'precondition_required' },
  });
});

test('an absent id and a foreign one are answered alike, byte for byte', async () => {
  rest.answers.perform = () => {
    throw new ServiceError('not_found', { internal: 'it belongs to somebody else' });
  };
  const without = (text: string) =>
    text.replace(/"requestId":"[^"]+"/, '').replace(/"timestamp":"[^"]+"/, '');
  const one = await asOwner('GET', `/v1/vaults/${toId('vault', newUuid())}`);
  const other = await asOwner('GET', `/v1/vaults/${toId('vault', newUuid())}`);
  expect(one.status).toBe(404);
  expect(without(one.text)).toBe(without(other.text));
  expect([...one.headers.keys()]).toEqual([...other.headers.keys()]);
});

test('what a service says is wrong is told; what went wrong inside is not', async () => {
  rest.answers.perform = () => {
    throw new ServiceError('conflict', { detail: 'the name is taken' });
  };
  expect(await asOwner('POST', '/v1/vaults', { body: { name: 'x' } })).toMatchObject({
    status: 409,
    body: { code: 'conflict', detail: 'the name is taken', status: 409 },
  });
  rest.answers.perform = () => {
    throw new Error('select secret from table');
  };
  const { status, text } = await asOwner('GET', '/v1/vaults');
  expect(status).toBe(500);
  expect(text).not.toContain('secret');
});

test('a list filters by repeated and by comma-separated values alike', async () => {
  const queries: unknown[] = [];
  rest.answers.perform = (_operation, _ctx, { query }) => {
    queries.push(query);
    return { items: [], nextCursor: null };
  };
  await asOwner('GET', '/v1/agents?status=online,late&limit=5');
  await asOwner('GET', '/v1/agents?status=online&status=late&limit=5');
  expect(queries[0]).toEqual({ limit: 5, sort: 'name', status: ['online', 'late'] });
  expect(queries[1]).toEqual(queries[0]);
});

test.each([
  ['GET', '/v1/vaults?limit=0', undefined, 'query', '/limit'],
  ['GET', '/v1/vaults?limit=5&limit=6', undefined, 'query', '/limit'],
  ['GET', '/v1/vaults?sort=password', undefined, 'query', '/sort'],
  ['GET', '/v1/vaults?unknown=1', undefined, 'query', '/unknown'],
  ['GET', '/v1/vaults?__proto__=1', undefined, 'query', '/__proto__'],
  ['GET', '/v1/vaults?name=%00', undefined, 'query', '/name'],
  ['GET', '/v1/vaults?name=%ff', undefined, 'query', '/name'],
  ['GET', '/v1/vaults/nonsense', undefined, 'path', '/id'],
  ['GET', '/v1/vaults/agt_01h455vb4pex5vsknk084sn02q', undefined, 'path', '/id'],
  ['GET', `/v1/vaults/${'x'.repeat(900)}`, undefined, 'path', '/id'],
  ['GET', '/v1/vaults/%00', undefined, 'path', '/id'],
  ['POST', '/v1/vaults', '', 'body', '/name'],
  ['POST', '/v1/vaults', '{"name":"x"', 'body', ''],
  ['POST', '/v1/vaults', '[]', 'body', ''],
  ['POST', '/v1/vaults', 'null', 'body', ''],
  ['POST', '/v1/vaults', '{"name":"x","name2":1}', 'body', '/name2'],
  ['POST', '/v1/vaults', '{"name":7}', 'body', '/name'],
  ['POST', '/v1/vaults', '{"name":"x","tags":["ok","Not ok"]}', 'body', '/tags/1'],
  ['POST', '/v1/vaults', '{"name":"\\u0000"}', 'body', '/name'],
  ['POST', '/v1/vaults', '{"name":"x","constructor":{}}', 'body', '/constructor'],
])('%s %s with %j is told what is wrong and where', async (method, path, body, where, pointer) => {
  const answer = await asOwner(method, path, body === undefined ? {} : { body });
  expect(answer.status).toBe(400);
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(answer.body.errors).toContainEqual(
    expect.objectContaining({ in: where, path: pointer, message: expect.any(String) }),
  );
});

test('a header that is wrong is named', async () => {
  const tooLong = { 'idempotency-key': 'x'.repeat(limits.idempotencyKeyMaxLength + 1) };
  const answer = await asOwner('POST', '/v1/vaults', { body: { name: 'x' }, headers: tooLong });
  expect(answer).toMatchObject({ status: 400, body: { errors: [{ path: '/Idempotency-Key' }] } });
});

test('a body of another kind, encoding or character set is refused', async () => {
  const kinds: Record<string, string>[] = [
    { 'content-type': 'text/plain' },
    { 'content-type': 'application/x-www-form-urlencoded' },
    { 'content-type': 'application/json; charset=utf-16' },
    { 'content-type': 'application/json', 'content-encoding': 'gzip' },
    { 'content-type': 'nonsense' },
  ];
  for (const headers of kinds) {
    const answer = await asOwner('POST', '/v1/vaults', { body: '{"name":"x"}', headers });
    expect(answer, JSON.stringify(headers)).toMatchObject({
      status: 415,
      body: { code: 'unsupported_media_type' },
    });
  }
});

test('a body that is too large is refused, and one that is deep', async () => {
  const large = JSON.stringify({ name: 'x'.repeat(limits.bodyMaxBytes) });
  expect(await asOwner('POST', '/v1/vaults', { body: large })).toMatchObject({
    status: 413,
    body: {
      code: 'payload_too_large',
      detail: expect.stringContaining(`${limits.bodyMaxBytes} bytes`),
    },
  });
  const deep = '['.repeat(100_000);
  expect(await asOwner('POST', '/v1/vaults', { body: deep })).toMatchObject({ status: 400 });
});

test('a wrong path is 404, a wrong method 405 with what is offered', async () => {
  expect(await send('GET', '/v1/secrets')).toMatchObject({
    status: 404,
    body: { code: 'not_found' },
  });
  const wrong = await send('PUT', '/v1/vaults');
  expect(wrong).toMatchObject({ status: 405, body: { code: 'method_not_allowed' } });
  expect(wrong.headers.get('allow')).toBe('GET, HEAD, POST');
  const asked = await send('OPTIONS', '/v1/vaults');
  expect(asked.status).toBe(204);
  expect(asked.headers.get('allow')).toBe('GET, HEAD, POST');
  expect((await send('GET', '/v1/vaults/')).status).toBe(404);
  expect((await send('GET', '/%zz')).status).toBe(400);
  expect((await send('GET', '//v1/vaults')).status).toBe(404);
});

test('HEAD answers as GET does, without a body', async () => {
  const { status, text, headers } = await asOwner('HEAD', '/v1/vaults');
  expect({ status, text }).toEqual({ status: 200, text: '' });
  expect(headers.get('content-type')).toMatch(/^application\/json/);
});

test('browsers of other origins get no leave', async () => {
  const answer = await asOwner('GET', '/v1/vaults', { headers: { origin: 'https://evil.test' } });
  expect(answer.headers.get('access-control-allow-origin')).toBeNull();
});

test('every answer forbids sniffing, framing and caching', async () => {
  for (const answer of [await asOwner('GET', '/v1/vaults'), await send('GET', '/nowhere')]) {
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff');
    expect(answer.headers.get('content-security-policy')).toBe(
      "default-src 'none';frame-ancestors 'none'",
    );
    expect(answer.headers.get('cache-control')).toBe('no-store');
    expect(answer.headers.get('x-powered-by')).toBeNull();
  }
});

test('metrics count by operation and status, never by path', async () => {
  await asOwner('GET', `/v1/vaults/${toId('vault', newUuid())}`);
  const metrics = await (await fetch(`${rest.url}/metrics`)).text();
  expect(metrics).toMatch(
    /keystead_http_request_duration_seconds_count\{[^}]*operation="vaults.get"[^}]*status="200"/,
  );
  expect(metrics).not.toContain('vlt_');
});

test('the document and its page fetch nothing from elsewhere', async () => {
  const document = await fetch(`${rest.url}/openapi.json`);
  expect(((await document.json()) as { openapi: string }).openapi).toBe('3.1.0');
  const etag = document.headers.get('etag') ?? '';
  const again = await fetch(`${rest.url}/openapi.json`, { headers: { 'if-none-match': etag } });
  expect(again.status).toBe(304);
  const page = await (await fetch(`${rest.url}/docs`)).text();
  for (const [, address = ''] of page.matchAll(/(?:src|href)="([^"]+)"/g)) {
    expect(address).toMatch(/^\//);
    expect((await fetch(`${rest.url}${address}`)).status, address).toBe(200);
  }
});

test('a link from a mail leads to a page that changes nothing by being opened', async () => {
  let asked = 0;
  rest.answers.perform = () => {
    asked += 1;
    return { email: 'ann@keystead.test' };
  };
  for (const path of [
    '/v1/channels/confirm?token=ksc_x',
    '/v1/invitations/accept#token=ksi_x',
    '/alerts',
    '/vaults/vlt_1',
  ]) {
    const answer = await fetch(`${rest.url}${path}`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-security-policy')).toContain("script-src 'self';");
    expect(answer.headers.get('referrer-policy')).toBe('no-referrer');
    const page = await answer.text();
    expect(page).not.toContain('ksc_x');
    for (const [, address = ''] of page.matchAll(/(?:src|href)="([^"]+)"/g)) {
      expect((await fetch(`${rest.url}${address}`)).status, address).toBe(200);
    }
  }
  expect(asked).toBe(0);
  const confirmed = await send('POST', '/v1/channels/confirm', { body: { token: 'ksc_x' } });
  expect({ asked, status: confirmed.status }).toEqual({ asked: 1, status: 200 });
});

test('ready means that PostgreSQL and NATS answer', async () => {
  const { status, body } = await send('GET', '/readyz');
  expect({ status, parts: body.parts }).toEqual({
    status: 200,
    parts: { postgresql: 'up', nats: 'up' },
  });
  expect((await send('GET', '/healthz')).status).toBe(200);
});
