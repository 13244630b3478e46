import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { rotatorSettings } from '@keystead/contracts/agent-api/rotation';
import { afterEach, expect, test } from 'vitest';
import { httpRotator, problemOfUrl } from './http-rotator.ts';
import { type RotatedWorld, rotatorSuite, workOf } from './rotator-suite.fixture.ts';

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

type Trouble = '' | 'hangs' | 'redirects' | 'floods' | 'fails';

async function makeWorld(trouble: Trouble = '', settings: object = {}) {
  const first = 'first-value';
  const seen: { headers: Record<string, unknown>; body: string }[] = [];
  let inForce = first;
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks).toString('utf8');
    seen.push({ headers: request.headers, body });
    if (trouble === 'hangs') return;
    if (trouble === 'redirects') return response.writeHead(307, { location: '/other' }).end();
    if (trouble === 'fails') {
      return response.writeHead(422).end(JSON.stringify({ problem: 'account-locked' }));
    }
    if (trouble === 'floods') {
      response.writeHead(200);
      const flood = () => {
        while (!response.destroyed && response.write('x'.repeat(65_536)));
      };
      response.on('drain', flood);
      return flood();
    }
    const message = JSON.parse(body);
    if (message.step === 'apply') inForce = message.next.value;
    if (message.step === 'rollBack') inForce = message.current.value;
    const works = message.step !== 'verify' || message.value.value === inForce;
    response.writeHead(works ? 204 : 409).end();
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const parsed = rotatorSettings.parse({
    kind: 'http',
    url: `http://127.0.0.1:${port}/rotate`,
    ...settings,
  });
  if (parsed.kind !== 'http') throw new Error('wrong kind');
  const world: RotatedWorld = {
    rotator: httpRotator(parsed, []),
    current: { value: first, encoding: 'text' },
    works: async ({ value }) => value === inForce,
    overlaps: false,
    readSecret: async () => ' sent-as-header\n',
  };
  return { ...world, seen };
}

rotatorSuite('http', () => makeWorld());

test('a secret of the vault is sent as the header that was asked for', async () => {
  const world = await makeWorld('', {
    authorization: { secret: { namespace: 'ops', secret: 'token' } },
    settings: { account: '4711' },
  });
  await world.rotator.apply(workOf(world), world.current);
  expect(world.seen[0]?.headers.authorization).toBe('Bearer sent-as-header');
  expect(JSON.parse(world.seen[0]?.body ?? '')).toEqual({
    step: 'apply',
    secret: { namespace: 'payments', name: 'db/password' },
    settings: { account: '4711' },
    current: world.current,
    next: world.current,
  });
});

test.each([
  ['redirects', { code: 'redirected' }],
  ['floods', { code: 'bad-answer' }],
  [
    'fails',
    { code: 'account-locked', message: 'The endpoint answered with status 422: account-locked' },
  ],
] as const)(
  'an endpoint that %s fails the step, and nothing is sent elsewhere',
  async (trouble, failure) => {
    const world = await makeWorld(trouble);
    await expect(world.rotator.apply(workOf(world), world.current)).rejects.toMatchObject(failure);
    expect(world.seen).toHaveLength(1);
  },
);

test('an endpoint that hangs is given up when the time is over', async () => {
  const world = await makeWorld('hangs');
  const work = { ...workOf(world), signal: AbortSignal.timeout(200) };
  await expect(world.rotator.apply(work, world.current)).rejects.toMatchObject({ code: 'timeout' });
});

test('plain HTTP is for this machine and for hosts that vault.yaml names', () => {
  expect(problemOfUrl('https://example.com/x', [])).toBeUndefined();
  expect(problemOfUrl('http://127.8.0.1/x', [])).toBeUndefined();
  expect(problemOfUrl('http://[::1]:80/x', [])).toBeUndefined();
  expect(problemOfUrl('http://intranet/x', ['intranet'])).toBeUndefined();
  // Another spelling of loopback is loopback: the URL standard has made it 127.0.0.1.
  expect(problemOfUrl('http://2130706433/x', [])).toBeUndefined();
  for (const url of [
    'http://example.com/x',
    'http://localhost.example.com/',
    'http://127.0.0.1.example.com/',
    'ftp://127.0.0.1/x',
    'file:///etc/passwd',
    'https://user:password@example.com/',
    'not a url',
  ]) {
    expect(problemOfUrl(url, []), url).toBeDefined();
  }
});
