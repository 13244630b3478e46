import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestAgent } from '../agent-process.fixture.ts';

let agent: TestAgent;
beforeAll(async () => {
  agent = await TestAgent.start();
  for (const name of ['app', 'app-two', 'other']) {
    await agent.send('POST', '/v1/namespaces', { body: { name } });
  }
});
afterAll(() => agent.remove());

const store = (name: string, value: string, namespace = 'app') =>
  agent.send('POST', `/v1/namespaces/${namespace}/secrets`, { body: { name, value } });
const readValue = (name: string, sending = {}) =>
  agent.send('GET', `/v1/namespaces/app/secrets/${name}/value`, sending);

test('a secret is stored, read by its own route, changed under a condition, and shown without its value', async () => {
  const made = await store('db/password', 'hunter2');
  expect(made).toMatchObject({ status: 201, body: { name: 'db/password', version: 1 } });
  expect(made.headers.location).toBe('/v1/namespaces/app/secrets/db%2Fpassword');
  expect(made.text).not.toContain('hunter2');
  const shown = await agent.send('GET', made.headers.location ?? '');
  expect(shown.headers.etag).toBe(`"${shown.body.etag}"`);
  expect(shown.text).not.toContain('hunter2');
  const value = await readValue('db%2Fpassword');
  expect(value).toMatchObject({
    status: 200,
    body: { value: 'hunter2', encoding: 'text' },
    headers: { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' },
  });
  const put = (etag: string, next: string) =>
    agent.send('PUT', '/v1/namespaces/app/secrets/db%2Fpassword/value', {
      body: { value: next },
      headers: { 'if-match': etag },
    });
  expect(await put(shown.headers.etag ?? '', 'second')).toMatchObject({
    status: 200,
    body: { version: 2 },
  });
  expect(await put(shown.headers.etag ?? '', 'third')).toMatchObject({
    status: 412,
    body: { code: 'precondition_failed' },
  });
  expect(await put('W/"1"', 'third')).toMatchObject({ status: 400 });
  expect((await readValue('db%2Fpassword')).body.value).toBe('second');
});

test('a name is decoded once: what is encoded twice is another name, and refused', async () => {
  await store('a/b', 'one');
  expect((await readValue('a%2Fb')).body.value).toBe('one');
  expect((await readValue('a%2fb')).body.value).toBe('one');
  expect(await readValue('a%252Fb')).toMatchObject({ status: 400 });
  expect(await readValue('a/b')).toMatchObject({ status: 404 });
  for (const name of ['..%2Fa', 'a%2F..%2Fb', '%2Fa', 'a%2F', 'a%00b', 'a%5Cb', 'a%20b']) {
    expect(await readValue(name), name).toMatchObject({ status: 400 });
  }
});

test('any bytes come back as they were, in base64', async () => {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
  await agent.send('POST', '/v1/namespaces/app/secrets', {
    body: { name: 'bytes', value: bytes.toString('base64'), encoding: 'base64' },
  });
  const read = await readValue('bytes');
  expect(Buffer.from(read.body.value, 'base64')).toEqual(bytes);
  const whole = Buffer.alloc(1_024 * 1_024, 7).toString('base64');
  const large = await agent.send('POST', '/v1/namespaces/app/secrets', {
    body: { name: 'large', value: whole, encoding: 'base64' },
  });
  expect(large.status).toBe(201);
  expect((await readValue('large')).body.value).toBe(whole);
});

test('the same request with the same key is done once, and answered as it was', async () => {
  const send = (body: object, key = 'idem-1', sending = {}) =>
    agent.send('POST', '/v1/namespaces/app/secrets', {
      body,
      headers: { 'idempotency-key': key },
      ...sending,
    });
  const first = await send({ name: 'once', value: 'x' });
  const again = await send({ name: 'once', value: 'x' });
  expect(first.status).toBe(201);
  expect(again).toMatchObject({ status: 201, text: first.text });
  expect(again.headers).toMatchObject({
    'idempotency-replayed': 'true',
    location: first.headers.location,
    etag: first.headers.etag,
  });
  expect(await send({ name: 'once', value: 'y' })).toMatchObject({
    status: 422,
    body: { code: 'idempotency_conflict' },
  });
  // Of another caller it is another key.
  const key = await agent.keyFor(['writer']);
  expect(await send({ name: 'once', value: 'x' }, 'idem-1', { key })).toMatchObject({
    status: 409,
    body: { code: 'conflict' },
  });
  // What was refused may be tried again.
  expect((await send({ name: 'app' }, 'idem-2')).status).toBe(400);
  expect((await send({ name: 'late', value: 'x' }, 'idem-2')).status).toBe(201);
  // An answer that holds a key is kept sealed, and comes again whole.
  const made = async () =>
    agent.send('POST', '/v1/api-keys', {
      body: { name: 'kept', roles: ['reader'] },
      headers: { 'idempotency-key': 'idem-3' },
    });
  expect((await made()).body.key).toBe((await made()).body.key);
});

test('who has lost a right is not told either what was answered under it', async () => {
  await agent.send('PUT', '/v1/roles/passing', {
    body: { permissions: [{ actions: ['secret.create'], namespaces: ['app'] }] },
  });
  const key = await agent.keyFor(['passing']);
  const send = () =>
    agent.send('POST', '/v1/namespaces/app/secrets', {
      key,
      body: { name: 'passing', value: 'x' },
      headers: { 'idempotency-key': 'passing' },
    });
  expect(await send()).toMatchObject({ status: 201 });
  expect(await send()).toMatchObject({ status: 201 });
  await agent.send('DELETE', '/v1/roles/passing');
  expect(await send()).toMatchObject({ status: 403 });
});

test('of many at once with one key one is done', async () => {
  const answers = await Promise.all(
    Array.from({ length: 20 }, () =>
      agent.send('POST', '/v1/namespaces/app/secrets', {
        body: { name: 'raced', value: 'x' },
        headers: { 'idempotency-key': 'race' },
      }),
    ),
  );
  const statuses = answers.map(({ status }) => status);
  expect(statuses).toContain(201);
  // Those that came while the first was under way are told so; nobody met its secret.
  for (const { status, body } of answers.filter((each) => each.status !== 201)) {
    expect({ status, detail: body.detail }).toMatchObject({ status: 409 });
    expect(body.detail).toContain('under way');
  }
});

test('a cursor goes on where its page ended, for its caller and its query alone', async () => {
  for (let index = 0; index < 5; index += 1) await store(`page/${index}`, 'x');
  const list = (query: string, key?: string) =>
    agent.send('GET', `/v1/namespaces/app/secrets?prefix=page/${query}`, { key });
  const names: string[] = [];
  let cursor = '';
  do {
    const page = await list(`&limit=2${cursor && `&cursor=${cursor}`}`);
    names.push(...page.body.items.map(({ name }: { name: string }) => name));
    cursor = page.body.nextCursor;
  } while (cursor);
  expect(names).toEqual(['page/0', 'page/1', 'page/2', 'page/3', 'page/4']);
  const { nextCursor } = (await list('&limit=2')).body;
  // Where a page ended may be the name of something that its caller does not see.
  expect(Buffer.from(nextCursor, 'base64url').toString('latin1')).not.toContain('page/');
  // The size of the page may change on the way.
  expect((await list(`&limit=1&cursor=${nextCursor}`)).body.items).toHaveLength(1);
  const refused = { status: 400, body: { code: 'invalid_cursor' } };
  const reader = await agent.keyFor(['reader']);
  expect(await list(`&cursor=${nextCursor}`, reader)).toMatchObject(refused);
  expect(await list(`&state=all&cursor=${nextCursor}`)).toMatchObject(refused);
  expect(
    await agent.send('GET', `/v1/namespaces/other/secrets?prefix=page/&cursor=${nextCursor}`),
  ).toMatchObject(refused);
  for (const bad of [`${nextCursor}A`, nextCursor.slice(0, -1), 'AAAA', 'page/1']) {
    expect(await list(`&cursor=${encodeURIComponent(bad)}`), bad).toMatchObject(refused);
  }
});

test('whoever may not read is told the same of what is there and of what is not', async () => {
  await store('foreign', 'x', 'other');
  const key = await agent.keyFor(['reader'], { namespaces: ['app*'] });
  const answer = async (path: string) => {
    const { status, body, headers } = await agent.send('GET', path, { key });
    const { requestId: _id, timestamp: _at, ...rest } = body;
    const { date: _date, 'x-request-id': _request, ...others } = headers;
    return { status, rest, others };
  };
  for (const [there, absent] of [
    ['/v1/namespaces/other', '/v1/namespaces/othex'],
    ['/v1/namespaces/other/secrets/foreign', '/v1/namespaces/other/secrets/foreigx'],
    ['/v1/namespaces/other/secrets/foreign/value', '/v1/namespaces/othex/secrets/foreign/value'],
    ['/v1/namespaces/other/secrets', '/v1/namespaces/othex/secrets'],
  ]) {
    const one = await answer(there ?? '');
    expect(one.status).toBe(403);
    expect(await answer(absent ?? '')).toEqual(one);
  }
});

test('a list shows what its caller may see', async () => {
  await agent.send('PUT', '/v1/roles/page-reader', {
    body: {
      permissions: [
        { actions: ['secret.read', 'secret.list'], namespaces: ['app'], secrets: ['page/*'] },
        { actions: ['namespace.read', 'namespace.list'], namespaces: ['app*'] },
      ],
    },
  });
  const key = await agent.keyFor(['page-reader']);
  const namesIn = async (path: string) => {
    const { status, body } = await agent.send('GET', path, { key });
    return status === 200 ? body.items.map(({ name }: { name: string }) => name) : status;
  };
  expect(await namesIn('/v1/namespaces')).toEqual(['app', 'app-two']);
  expect(await namesIn('/v1/namespaces/app/secrets')).toEqual([
    'page/0',
    'page/1',
    'page/2',
    'page/3',
    'page/4',
  ]);
  expect(await namesIn('/v1/namespaces/app-two/secrets')).toBe(403);
  expect(await readValue('page%2F1', { key })).toMatchObject({ status: 403 });
  expect(await agent.send('GET', '/v1/namespaces/app/secrets/once', { key })).toMatchObject({
    status: 403,
  });
});

test('a copy needs the right to its source and to its target', async () => {
  await agent.send('PUT', '/v1/roles/copier', {
    body: {
      permissions: [
        { actions: ['namespace.copy'], namespaces: ['app'] },
        { actions: ['namespace.create'], namespaces: ['copy-*'] },
      ],
    },
  });
  const key = await agent.keyFor(['copier']);
  const copy = (to: string) => agent.send('POST', '/v1/namespaces/app/copy', { body: { to }, key });
  // Who may not read the values may not send them where somebody can.
  expect(await copy('copy-1')).toMatchObject({ status: 403 });
  await agent.send('PUT', '/v1/roles/copier', {
    body: {
      permissions: [
        { actions: ['namespace.copy', 'secret.read-value'], namespaces: ['app'] },
        { actions: ['namespace.create'], namespaces: ['copy-*'] },
      ],
    },
  });
  expect(await copy('elsewhere')).toMatchObject({ status: 403 });
  expect(await copy('copy-1')).toMatchObject({ status: 201 });
});

test('who runs the vault and reads no value can neither move, copy nor export one to where they can', async () => {
  const key = await agent.keyFor(['operator']);
  const send = (path: string, body: object) =>
    agent.send('POST', `/v1/namespaces/app/${path}`, { body, key });
  expect(await send('move', { to: 'mine' })).toMatchObject({ status: 403 });
  expect(await send('copy', { to: 'mine' })).toMatchObject({ status: 403 });
  expect(await send('export', { passphrase: 'correct horse battery' })).toMatchObject({
    status: 403,
  });
});

test('a reading is done anew whatever its idempotency key', async () => {
  const read = () =>
    agent.send('GET', '/v1/namespaces/app/secrets/bytes', {
      headers: { 'idempotency-key': 'look' },
    });
  await read();
  expect((await read()).headers['idempotency-replayed']).toBeUndefined();
});

test('the document of the API and its page come from the agent itself', async () => {
  const document = await agent.send('GET', '/openapi.json', { key: '' });
  expect(document.body).toMatchObject({ openapi: '3.1.0', info: { title: 'Keystead agent' } });
  const again = await agent.send('GET', '/openapi.json', {
    key: '',
    headers: { 'if-none-match': document.headers.etag ?? '' },
  });
  expect(again.status).toBe(304);
  const page = await agent.send('GET', '/docs', { key: '' });
  expect(page.headers['content-security-policy']).toContain("connect-src 'self'");
  for (const [, file = ''] of page.text.matchAll(/(?:src|href)="(\/docs\/[^"]+)"/g)) {
    expect((await agent.send('GET', file, { key: '' })).status, file).toBe(200);
  }
});

test('a wrong method is told what is offered; every operation of the contract is', async () => {
  const wrong = await agent.send('PATCH', '/v1/namespaces');
  expect(wrong).toMatchObject({ status: 405, body: { code: 'method_not_allowed' } });
  expect(wrong.headers.allow).toBe('GET, POST');
  const { agentOperations } = await import('@keystead/contracts/agent-api/operations');
  for (const { method, path } of agentOperations) {
    const { headers } = await agent.send('OPTIONS', path.replaceAll(/[{}]/g, ''));
    expect(headers.allow?.split(', '), path).toContain(method);
  }
});

test('metrics tell operations, durations and connections by the names of the plan, and no secret', async () => {
  await readValue('once');
  const { text } = await agent.send('GET', '/metrics', { key: '' });
  expect(text).toMatch(
    /vault_secret_operations_total\{operation="secret.read-value",status="success"\} [1-9]/,
  );
  expect(text).toMatch(/operation="secret.read-value",status="denied"\} [1-9]/);
  expect(text).toMatch(
    /vault_request_duration_seconds_count\{method="GET",endpoint="\/v1\/namespaces\/\{namespace\}\/secrets\/\{name\}\/value"\} [1-9]/,
  );
  expect(text).toMatch(/vault_active_connections [1-9]/);
  expect(text).toMatch(/vault_cache_hit_rate \d/);
  expect(text).not.toMatch(/once|app-two|page\//);
});

test('what is refused to a known caller is in the audit once, with its places and nothing that was sent', async () => {
  const to = '/v1/namespaces/app/secrets';
  const send = async (id: string, method: string, path: string, sending: object, more = {}) => {
    await agent.send(method, path, { ...sending, headers: { 'x-request-id': id, ...more } });
    return agent.audit().filter(({ requestId }) => requestId === id);
  };
  const refused = (code: string, more = {}) => [
    { phase: 'outcome', result: 'refused', code, ...more },
  ];
  expect(
    await send('bad-body', 'POST', to, { body: { name: 'canary name', 'canary-field': 1 } }),
  ).toMatchObject(
    refused('invalid_request', {
      action: 'secret.create',
      namespace: 'app',
      context: { places: 'body name, body value, body' },
    }),
  );
  expect(await send('bad-path', 'GET', `${to}/canary%20path`, {})).toMatchObject(
    refused('invalid_request', { context: { places: 'path name' } }),
  );
  expect(await send('bad-query', 'GET', `${to}?limit=canary`, {})).toMatchObject(
    refused('invalid_request', { namespace: 'app', context: { places: 'query limit' } }),
  );
  expect(
    await send(
      'bad-tag',
      'PUT',
      `${to}/bytes/value`,
      { body: { value: 'x' } },
      { 'if-match': 'W/"c"' },
    ),
  ).toMatchObject(refused('invalid_request', { secret: 'bytes' }));
  expect(
    await send('bad-type', 'POST', to, { body: {} }, { 'content-type': 'text/plain' }),
  ).toMatchObject(refused('unsupported_media_type'));
  expect(
    await send('too-large', 'POST', to, { bytes: Buffer.alloc(2 * 1_024 * 1_024, 0x20) }),
  ).toMatchObject(refused('payload_too_large', { namespace: 'app' }));
  const idempotent = (id: string, name: string) =>
    send(id, 'POST', to, { body: { name, value: 'x' } }, { 'idempotency-key': 'audited' });
  await idempotent('idem-first', 'audited-one');
  expect(await idempotent('idem-other', 'audited-two')).toMatchObject(
    refused('idempotency_conflict', { secret: 'audited-two' }),
  );
  // What the door has written is not written again.
  expect(await send('at-door', 'GET', `${to}/absent`, {})).toHaveLength(1);
  expect(JSON.stringify(agent.audit())).not.toContain('canary');
});
