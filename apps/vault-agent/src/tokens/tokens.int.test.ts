import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestAgent } from '../agent-process.fixture.ts';

const password = 'correct horse battery';
const other = 'staple of another barn';

let agent: TestAgent;
beforeAll(async () => {
  agent = await TestAgent.start();
});
afterAll(() => agent.remove());

const post = (path: string, body: object, sending = {}) =>
  agent.send('POST', `/v1/tokens${path}`, { body, ...sending });
const create = async (value: string, more = {}) =>
  (await post('', { value, password, ...more })).body.token as string;

async function ended(id: string) {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const { body } = await agent.send('GET', `/v1/tokens/rekey/${id}`);
    if (body.state !== 'running') return body;
    if (Date.now() > deadline) throw new Error('the run did not end');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test('a value is stored behind a token, read with its password, changed and renewed', async () => {
  const made = await post('', { value: '4111 1111', password, data: { owner: 'billing' } });
  expect(made).toMatchObject({
    status: 201,
    body: { token: expect.stringMatching(/^tok_/), data: { owner: 'billing' }, expiresAt: null },
  });
  expect(made.text).not.toContain('4111');
  const { token, id } = made.body;
  expect(await post('/read-value', { token, password })).toMatchObject({
    status: 200,
    body: { value: '4111 1111', encoding: 'text' },
  });
  expect(await post('/read-value', { token, password: other })).toMatchObject({
    status: 422,
    body: { code: 'invalid_password', errors: [{ in: 'body', path: '/password' }] },
  });
  expect(await post('/update', { token, value: 'second', password })).toMatchObject({
    status: 200,
  });
  const past = new Date(Date.now() - 1_000).toISOString();
  await post('/renew', { token, expiresAt: past });
  expect(await post('/read-value', { token, password })).toMatchObject({
    status: 410,
    body: { code: 'gone' },
  });
  await post('/renew', { token, expiresAt: null });
  expect((await post('/read-value', { token, password })).body.value).toBe('second');
  expect((await agent.send('GET', `/v1/records/${id}`)).body).toMatchObject({ id, token });
});

test('bytes, many at once, upserts, deletion and return', async () => {
  const bytes = Buffer.from([0, 255, 1]).toString('base64');
  const one = await create('one');
  const two = await create(bytes, { encoding: 'base64' });
  const many = await post('/read-values', { tokens: [two, 'absent', one, two], password });
  expect(many.body.items).toEqual([
    { token: two, status: 'found', value: bytes, encoding: 'base64' },
    { token: 'absent', status: 'missing' },
    { token: one, status: 'found', value: 'one', encoding: 'text' },
    { token: two, status: 'found', value: bytes, encoding: 'base64' },
  ]);
  const upsert = (value: string) =>
    agent.send('PUT', '/v1/tokens', { body: { token: 'my-own', value, password } });
  expect((await upsert('a')).body).toEqual({ outcome: 'created' });
  expect((await upsert('b')).body).toEqual({ outcome: 'updated' });
  expect((await post('', { token: 'my-own', value: 'c', password })).status).toBe(409);
  const token = 'my-own';
  expect((await post('/exists', { token })).body).toEqual({ exists: true });
  await post('/soft-delete', { token });
  expect((await post('/exists', { token })).body).toEqual({ exists: false });
  await post('/restore', { token });
  await post('/delete', { token });
  expect((await post('/read-value', { token, password })).status).toBe(404);
  expect(
    (await post('/change-password', { tokens: [one], oldPassword: password, newPassword: other }))
      .body.items,
  ).toEqual([{ token: one, status: 'found' }]);
  expect((await post('/read-value', { token: one, password: other })).body.value).toBe('one');
});

test('records are listed by what is noted, page by page, and counted', async () => {
  for (let index = 0; index < 5; index += 1) await create(`v${index}`, { data: { set: 'listed' } });
  const filter = 'dataName=set&dataValue=listed';
  const seen: string[] = [];
  let cursor = '';
  do {
    const page = await agent.send(
      'GET',
      `/v1/records?${filter}&limit=2&sort=createdAt${cursor && `&cursor=${cursor}`}`,
    );
    seen.push(...page.body.items.map(({ id }: { id: string }) => id));
    cursor = page.body.nextCursor;
  } while (cursor);
  expect(new Set(seen).size).toBe(5);
  expect((await agent.send('GET', `/v1/records-count?${filter}`)).body).toEqual({ count: 5 });
  const [id] = seen;
  await agent.send('PATCH', `/v1/records/${id}`, { body: { data: { set: 'other' } } });
  expect((await agent.send('GET', `/v1/records-count?${filter}`)).body).toEqual({ count: 4 });
  expect((await agent.send('DELETE', `/v1/records/${id}`)).status).toBe(200);
  expect((await agent.send('GET', `/v1/records/${id}`)).body.softDeletedAt).not.toBeNull();
  expect((await agent.send('POST', `/v1/records/${id}/restore`, { body: {} })).status).toBe(200);
  expect((await agent.send('DELETE', `/v1/records/${id}?mode=hard`)).status).toBe(200);
  expect((await agent.send('GET', `/v1/records/${id}`)).status).toBe(404);
  expect((await agent.send('GET', '/v1/records?dataName=set')).body).toMatchObject({
    status: 400,
    errors: [{ in: 'query', path: '/dataValue' }],
  });
  expect((await agent.send('GET', '/v1/records?limit=1e1')).body).toMatchObject({
    detail: 'query /limit: must be a whole number from 1 to 1000',
  });
});

test('all records of a password get another in the background, and the run can be watched', async () => {
  const from = 'a password to be replaced';
  const tokens: string[] = [];
  for (let index = 0; index < 6; index += 1) {
    tokens.push(await create(`mine ${index}`, { password: from }));
  }
  const dry = await post('/rekey', { oldPassword: from, newPassword: other, dryRun: true });
  expect(dry).toMatchObject({ status: 202, body: { state: 'running', dryRun: true } });
  expect(await ended(dry.body.id)).toMatchObject({ state: 'finished', matched: 6 });
  const started = await post('/rekey', { oldPassword: from, newPassword: other });
  const run = await ended(started.body.id);
  expect(run).toMatchObject({ state: 'finished', kind: 'rekey', matched: 6, corrupt: 0 });
  expect(run.examined).toBe(run.total);
  for (const token of tokens) {
    expect((await post('/read-value', { token, password: other })).status).toBe(200);
  }
  const listed = await agent.send('GET', '/v1/tokens/rekey');
  expect(listed.body.items[0].id).toBe(started.body.id);
  expect(JSON.stringify(listed.body)).not.toContain(from);
  const upgrade = await post('/upgrade', { password: other });
  expect(await ended(upgrade.body.id)).toMatchObject({ state: 'finished', matched: 0 });
  expect(await post('/rekey', { oldPassword: other, newPassword: 'short' })).toMatchObject({
    status: 400,
    body: { errors: [{ in: 'body', path: '/newPassword' }] },
  });
  expect((await agent.send('GET', '/v1/tokens/rekey/rky_00000000000000000000000000')).status).toBe(
    404,
  );
});

test('neither the audit nor the log holds a password, a value or a token', async () => {
  const canary = { value: 'canary value 9d3f', password: 'canary password 5e1c' };
  const token = (await post('', { ...canary })).body.token as string;
  await post('/read-value', { token, password: canary.password });
  await post('/read-value', { token, password: 'a wrong canary 77aa' });
  await post('/rekey', { oldPassword: canary.password, newPassword: 'canary password new 2b' });
  const written = `${agent.output}\n${JSON.stringify(agent.audit())}`;
  expect(written).toContain('tokens.read-value');
  for (const secret of [canary.value, canary.password, 'a wrong canary', 'password new', token]) {
    expect(written).not.toContain(secret);
  }
});

test('expired tokens are swept on demand', async () => {
  const past = new Date(Date.now() - 60_000).toISOString();
  const token = await create('old', { expiresAt: past });
  expect((await post('/sweep', { mode: 'hard', graceSeconds: 3_600 })).body).toEqual({ swept: 0 });
  expect((await post('/sweep', { mode: 'hard' })).body).toEqual({ swept: 1 });
  expect((await post('/read-value', { token, password })).status).toBe(404);
});

test('who guesses the password of a token has to wait; others read it all the same', async () => {
  const token = await create('guarded');
  const key = await agent.keyFor(['admin']);
  // Always the same, which costs one Argon2id.
  const guess = () => post('/read-value', { token, password: 'a wrong password' }, { key });
  const statuses: number[] = [];
  for (let index = 0; index < 12; index += 1) statuses.push((await guess()).status);
  expect(statuses.slice(0, 10)).toEqual(Array(10).fill(422));
  expect(statuses).toContain(429);
  const many = await post('/read-values', { tokens: [token], password }, { key });
  expect(many).toMatchObject({ status: 429, body: { code: 'rate_limited' } });
  expect((await post('/read-value', { token, password })).body.value).toBe('guarded');
});
