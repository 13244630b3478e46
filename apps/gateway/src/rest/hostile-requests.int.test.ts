import { Agent } from 'node:http';
import { ServiceError } from '@keystead/contracts/errors';
import { checkRawBytes } from '@keystead/test-control-plane/hostile/raw-bytes.fixture';
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

checkRawBytes({
  port: () => rest.port,
  path: '/v1/vaults',
  runs,
  isWell: async () => expect((await fetch(`${rest.url}/healthz`)).status).toBe(200),
});
