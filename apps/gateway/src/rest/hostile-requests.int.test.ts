import { once } from 'node:events';
import { Agent } from 'node:http';
import { connect } from 'node:net';
import { problem, ServiceError } from '@keystead/contracts/errors';
import {
  type DrawnRequest,
  requestsOf,
} from '@keystead/test-control-plane/hostile/requests.fixture';
import { expectClear, sendDrawn } from '@keystead/test-control-plane/hostile/send.fixture';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RestFixture, startRest } from '../rest.fixture.ts';
import { publicOperations, streamEvents } from './public-operations.ts';

/** In full with `npm run prove`. */
const runs = process.env.KEYSTEAD_PROVE === 'full' ? 2_000 : 25;
const answerWithinMs = 1_000;

let rest: RestFixture;
let token: string;
const agent = new Agent({ keepAlive: true });
beforeAll(async () => {
  rest = await startRest();
  ({ token } = await rest.signIn());
  rest.answers.perform = (operation) => {
    if (operation.path.includes('{')) throw new ServiceError('not_found');
    return { items: [], nextCursor: null };
  };
});
afterAll(async () => {
  agent.destroy();
  await rest.stop();
});

const send = (drawn: DrawnRequest) => sendDrawn(drawn, { port: rest.port, token, agent });

for (const operation of publicOperations.filter((each) => each !== streamEvents)) {
  test(`${operation.method} ${operation.path} answers clearly, whatever is sent`, async () => {
    await fc.assert(
      fc.asyncProperty(requestsOf(operation), async (drawn) => {
        expectClear(await send(drawn), JSON.stringify(drawn), answerWithinMs);
      }),
      { numRuns: runs },
    );
    expect(rest.refusedCalls, 'let through, though no service accepts it').toEqual([]);
  });
}

test('a target that is no path is refused like any other', async () => {
  for (const method of ['GET', 'POST', 'DELETE']) {
    const answer = await send({ method, target: '*', headers: {}, body: undefined });
    expectClear(answer, `${method} *`, answerWithinMs);
    expect(answer.status).toBe(404);
  }
});

test('any target and any method get a clear answer', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(
        'GET',
        'HEAD',
        'POST',
        'PUT',
        'PATCH',
        'DELETE',
        'OPTIONS',
        'PROPFIND',
        'TRACE',
      ),
      fc.oneof(
        fc.webPath(),
        fc.string({ unit: 'grapheme-ascii' }).map((text) => `/${text.replaceAll(/[\s#]/g, '')}`),
        fc.constantFrom(
          '/v1/%',
          '/v1//vaults',
          '/v1/vaults/..%2f..',
          '/v1/vaults/%2e%2e',
          '*',
          '/;',
        ),
      ),
      async (method, target) => {
        fc.pre(!target.startsWith('/v1/events'));
        const answer = await send({ method, target, headers: {}, body: undefined });
        if (method === 'HEAD') expect(answer.status).toBeLessThan(500);
        else expectClear(answer, `${method} ${target}`, answerWithinMs);
      },
    ),
    { numRuns: 4 * runs },
  );
});

/** What the server says to bytes that are hardly a request, until it closes or falls silent. */
async function say(bytes: string | Buffer): Promise<string> {
  const socket = connect(rest.port, '127.0.0.1');
  let heard = '';
  socket.on('data', (chunk) => {
    heard += chunk;
    if (heard.includes('\r\n\r\n')) socket.end();
  });
  socket.on('error', () => {});
  socket.end(bytes);
  await once(socket, 'close');
  return heard;
}

test.each([
  ['garbage', '\x16\x03\x01\x02\x00', 400, 'invalid_request'],
  ['an unknown method', 'BREW /v1/vaults HTTP/1.1\r\nhost: x\r\n\r\n', 400, 'invalid_request'],
  ['no host', 'GET /v1/vaults HTTP/1.1\r\nconnection: close\r\n\r\n', 400, 'invalid_request'],
  [
    'two lengths',
    'POST /v1/vaults HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na',
    400,
    'invalid_request',
  ],
  [
    'a length and chunks',
    'POST /v1/vaults HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
    400,
    'invalid_request',
  ],
  [
    'headers too large',
    `GET /v1/vaults HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`,
    431,
    'headers_too_large',
  ],
  [
    'an address too long',
    `GET /v1/vaults?name=${'a'.repeat(20_000)} HTTP/1.1\r\nhost: x\r\n\r\n`,
    431,
    'headers_too_large',
  ],
])('%s: a problem document and the end of the connection', async (_, bytes, status, code) => {
  const heard = await say(bytes);
  const [head = '', text = ''] = heard.split('\r\n\r\n');
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  if (text !== '') expect(problem.parse(JSON.parse(text))).toMatchObject({ code, status });
});

test('no bytes at all bring the server down', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 2_000 }), async (bytes) => {
      const heard = await say(Buffer.from(bytes));
      expect(heard).not.toMatch(/^HTTP\/1\.1 5/);
    }),
    { numRuns: runs },
  );
  expect((await fetch(`${rest.url}/healthz`)).status).toBe(200);
});
