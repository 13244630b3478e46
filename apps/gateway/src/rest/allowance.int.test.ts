import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RestFixture, startRest } from '../rest.fixture.ts';

let rest: RestFixture;
beforeAll(async () => {
  rest = await startRest({
    KEYSTEAD_REQUESTS_PER_MINUTE_PER_CALLER: '5',
    KEYSTEAD_REQUESTS_PER_MINUTE_PER_ADDRESS: '20',
    KEYSTEAD_CORS_ORIGINS: 'https://console.keystead.test, https://other.keystead.test',
    KEYSTEAD_TRUSTED_PROXIES: '127.0.0.1',
    KEYSTEAD_PUBLIC_URL: 'https://api.keystead.test',
  });
});
afterAll(() => rest.stop());

const get = (token: string, headers: Record<string, string> = {}) =>
  fetch(`${rest.url}/v1/vaults`, { headers: { authorization: `Bearer ${token}`, ...headers } });
let address = 0;
const newAddress = () => ({ 'x-forwarded-for': `198.51.100.${++address}` });

test('a caller is told what is left, and then when to come back', async () => {
  const { token } = await rest.signIn();
  const first = await get(token);
  expect(first.headers.get('ratelimit-policy')).toBe('"caller";q=5;w=60');
  expect(first.headers.get('ratelimit')).toMatch(/^"caller";r=4;t=\d+$/);
  expect(first.headers.get('ratelimit-limit')).toBe('5');
  expect(first.headers.get('ratelimit-remaining')).toBe('4');
  expect(Number(first.headers.get('ratelimit-reset'))).toBeGreaterThan(0);
  for (let count = 0; count < 4; count += 1) expect((await get(token)).status).toBe(200);
  const refused = await get(token);
  expect(refused.status).toBe(429);
  expect(refused.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(refused.headers.get('ratelimit-remaining')).toBe('0');
  expect(await refused.json()).toMatchObject({ code: 'rate_limited', status: 429 });
});

test("one caller's requests are not counted to another", async () => {
  const { token } = await rest.signIn();
  for (let count = 0; count < 6; count += 1) await get(token);
  expect((await get((await rest.signIn()).token)).status).toBe(200);
});

test('guesses at credentials are counted to the address they come from', async () => {
  const from = newAddress();
  const statuses = [];
  for (let count = 0; count < 21; count += 1) statuses.push((await get('ks_guess', from)).status);
  expect(statuses.slice(0, 20).every((status) => status === 401)).toBe(true);
  expect(statuses[20]).toBe(429);
  const { token } = await rest.signIn();
  expect((await get(token, from)).status).toBe(200);
});

test('addresses of one IPv6 network share an allowance', async () => {
  const guess = async (host: number) =>
    (await get('ks_guess', { 'x-forwarded-for': `2001:db8::${host.toString(16)}` })).status;
  for (let host = 1; host <= 20; host += 1) expect(await guess(host)).toBe(401);
  expect(await guess(21)).toBe(429);
});

test('the address is what a trusted proxy says, and the last one it does not know', async () => {
  let seen: unknown;
  rest.answers.perform = (_operation, ctx) => {
    seen = ctx.address;
    return { items: [], nextCursor: null };
  };
  const { token } = await rest.signIn();
  await get(token, { 'x-forwarded-for': '10.0.0.1, 203.0.113.9' });
  expect(seen).toBe('203.0.113.9');
});

test('named origins may call from a browser, others not', async () => {
  const { token } = await rest.signIn();
  const preflight = (origin: string) =>
    fetch(`${rest.url}/v1/vaults`, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization,content-type',
      },
    });
  const allowed = await preflight('https://console.keystead.test');
  expect(allowed.status).toBe(204);
  expect(allowed.headers.get('access-control-allow-origin')).toBe('https://console.keystead.test');
  expect(allowed.headers.get('access-control-allow-headers')).toContain('Authorization');
  const foreign = await preflight('https://evil.test');
  expect(foreign.headers.get('access-control-allow-origin')).toBeNull();
  const answer = await get(token, { origin: 'https://other.keystead.test' });
  expect(answer.headers.get('access-control-allow-origin')).toBe('https://other.keystead.test');
  expect(answer.headers.get('access-control-expose-headers')).toContain('ETag');
  expect(answer.headers.get('access-control-allow-credentials')).toBeNull();
});

test('a wrong path and a wrong method are told apart also where browsers may call', async () => {
  expect((await fetch(`${rest.url}/v1/nothing`)).status).toBe(404);
  const wrong = await fetch(`${rest.url}/v1/vaults`, { method: 'PUT' });
  expect(wrong.status).toBe(405);
  expect(wrong.headers.get('allow')).toBe('GET, HEAD, POST');
  expect((await fetch(`${rest.url}/v1/vaults`, { method: 'OPTIONS' })).status).toBe(204);
});

test('browsers are told to stay with https where the public address is https', async () => {
  const answer = await fetch(`${rest.url}/healthz`);
  expect(answer.headers.get('strict-transport-security')).toContain('max-age=');
});

test('a Redis that hangs holds up one request a second, not all', async () => {
  rest.servers.redis.freeze();
  const { token } = await rest.signIn();
  const startedAtMs = performance.now();
  for (let count = 0; count < 5; count += 1) expect((await get(token)).status).toBe(200);
  expect(performance.now() - startedAtMs).toBeLessThan(2_500);
  rest.servers.redis.thaw();
});

test('without Redis requests are answered and still counted', async () => {
  await rest.servers.redis.kill();
  const { token } = await rest.signIn();
  for (let count = 0; count < 5; count += 1) {
    const startedAtMs = performance.now();
    expect((await get(token)).status).toBe(200);
    expect(performance.now() - startedAtMs).toBeLessThan(1_000);
  }
  expect((await get(token)).status).toBe(429);
  const ready = await fetch(`${rest.url}/readyz`);
  expect(ready.status).toBe(200);
});

test('without NATS a request is answered with 503 and when to come back', async () => {
  await rest.servers.nats.kill();
  const { token } = await rest.signIn();
  const answer = await get(token);
  expect(answer.status).toBe(503);
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(await answer.json()).toMatchObject({ code: 'unavailable' });
  expect((await fetch(`${rest.url}/healthz`)).status).toBe(200);
});
