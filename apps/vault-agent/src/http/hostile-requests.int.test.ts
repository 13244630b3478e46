import { Agent } from 'node:http';
import { agentOperations } from '@keystead/contracts/agent-api/operations';
import { checkRawBytes } from '@keystead/test-control-plane/hostile/raw-bytes.fixture';
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

test('a body beyond the limit, an encoded one and another type are refused before they are read', async () => {
  const to = '/v1/namespaces/production/secrets';
  const large = await agent.send('POST', to, { bytes: Buffer.alloc(2 * 1_024 * 1_024, 0x20) });
  expect(large).toMatchObject({
    status: 413,
    body: { code: 'payload_too_large', detail: expect.stringMatching(/at most \d+ bytes/) },
  });
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

checkRawBytes({
  port: () => agent.port,
  path: '/v1/namespaces',
  runs,
  isWell: async () => {
    expect((await agent.send('GET', '/readyz')).status).toBe(200);
    expect(agent.output).not.toMatch(/unexpected error|a request failed/);
  },
});
