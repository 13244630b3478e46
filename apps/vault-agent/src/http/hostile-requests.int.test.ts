import { once } from 'node:events';
import { Agent } from 'node:http';
import { connect } from 'node:net';
import { agentOperations } from '@keystead/contracts/agent-api/operations';
import { problem } from '@keystead/contracts/errors';
import {
  type DrawnRequest,
  requestsOf,
} from '@keystead/test-control-plane/hostile/requests.fixture';
import { expectClear, sendDrawn } from '@keystead/test-control-plane/hostile/send.fixture';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestAgent } from '../agent-process.fixture.ts';

/** In full with `npm run prove`. */
const runs = process.env.KEYSTEAD_PROVE === 'full' ? 2_000 : 15;
const answerWithinMs = 2_000;

let agent: TestAgent;
const connections = new Agent({ keepAlive: true });
beforeAll(async () => {
  agent = await TestAgent.start();
  await agent.send('POST', '/v1/namespaces', { body: { name: 'production' } });
});
afterAll(async () => {
  connections.destroy();
  await agent.remove();
});

const send = (drawn: DrawnRequest) =>
  sendDrawn(drawn, { port: agent.port, token: agent.adminKey, agent: connections });

for (const operation of agentOperations) {
  test(`${operation.method} ${operation.path} answers clearly, whatever is sent`, async () => {
    await fc.assert(
      fc.asyncProperty(requestsOf(operation), async (drawn) => {
        const heard = await send(drawn);
        expectClear(heard, JSON.stringify(drawn), answerWithinMs);
        // It is served at all: nothing of ours answers that a path has no such method.
        expect(heard.status, JSON.stringify(drawn)).not.toBe(405);
      }),
      { numRuns: runs },
    );
  });
}

test('any target and any method get a clear answer', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE'),
      fc.oneof(
        fc.webPath(),
        fc.string({ unit: 'grapheme-ascii' }).map((text) => `/${text.replaceAll(/[\s#]/g, '')}`),
        fc.constantFrom(
          '/v1/%',
          '/v1//namespaces',
          '/v1/namespaces/..%2f..',
          '/v1/namespaces/%2e%2e',
          '/v1/namespaces/a/secrets/%2e%2e%2fx/value',
          '/v1/namespaces/a/secrets/a%00b/value',
          '*',
          '/;',
        ),
      ),
      async (method, target) => {
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
  const socket = connect(agent.port, '127.0.0.1');
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

const path = '/v1/namespaces';
test.each([
  ['garbage', '\x16\x03\x01\x02\x00', 400, 'invalid_request'],
  ['an unknown method', `BREW ${path} HTTP/1.1\r\nhost: x\r\n\r\n`, 400, 'invalid_request'],
  ['no host', `GET ${path} HTTP/1.1\r\nconnection: close\r\n\r\n`, 400, 'invalid_request'],
  [
    'two lengths',
    `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na`,
    400,
    'invalid_request',
  ],
  [
    'a length and chunks',
    `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
    400,
    'invalid_request',
  ],
  [
    'headers too large',
    `GET ${path} HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`,
    431,
    'headers_too_large',
  ],
])('%s: a problem document and the end of the connection', async (_, bytes, status, code) => {
  const heard = await say(bytes);
  const [head = '', text = ''] = heard.split('\r\n\r\n');
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  expect(problem.parse(JSON.parse(text))).toMatchObject({ code, status });
});

test('a body beyond the limit, an encoded one and another type are refused before they are read', async () => {
  const to = '/v1/namespaces/production/secrets';
  const large = await agent.send('POST', to, { bytes: Buffer.alloc(2 * 1_024 * 1_024, 0x20) });
  expect(large).toMatchObject({ status: 413, body: { code: 'payload_too_large' } });
  const encoded = await agent.send('POST', to, {
    body: {},
    headers: { 'content-encoding': 'gzip' },
  });
  expect(encoded).toMatchObject({ status: 415, body: { code: 'unsupported_media_type' } });
  for (const type of [
    'text/plain',
    'application/octet-stream',
    'multipart/form-data; boundary=x',
  ]) {
    const other = await agent.send('POST', to, { body: {}, headers: { 'content-type': type } });
    expect(other).toMatchObject({ status: 415, body: { code: 'unsupported_media_type' } });
  }
});

test('no bytes at all bring the agent down', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 2_000 }), async (bytes) => {
      const heard = await say(Buffer.from(bytes));
      expect(heard).not.toMatch(/^HTTP\/1\.1 5/);
    }),
    { numRuns: runs },
  );
  expect((await agent.send('GET', '/readyz')).status).toBe(200);
  expect(agent.output).not.toMatch(/unexpected error|a request failed/);
});
