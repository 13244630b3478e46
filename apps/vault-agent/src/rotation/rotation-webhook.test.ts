import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { afterEach, expect, test } from 'vitest';
import type { RotationReport } from './rotation-report.ts';
import { RotationWebhook } from './rotation-webhook.ts';

let server: Server | undefined;
afterEach(() => {
  server?.closeAllConnections();
  server?.close();
});

const report = (given: Partial<RotationReport> = {}): RotationReport => ({
  id: 'rot_1',
  namespace: 'payments',
  secret: 'db/password',
  outcome: 'gave-up',
  attempt: 3,
  rotator: 'postgresql',
  nextDueMs: null,
  problem: { step: 'apply', code: 'unreachable', message: 'The server could not be reached' },
  atMs: Date.now(),
  ...given,
});

async function listen(statuses: number[]) {
  const received: { headers: Record<string, string>; body: string }[] = [];
  server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    received.push({
      headers: request.headers as Record<string, string>,
      body: Buffer.concat(chunks).toString(),
    });
    response.writeHead(statuses.shift() ?? 204).end();
  });
  await new Promise<void>((resolve) => server?.listen(0, '127.0.0.1', resolve));
  return { received, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` };
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('it did not come');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test('what was asked for is told, signed so that another library verifies it, again after a failure', async () => {
  const { received, url } = await listen([500, 204]);
  const secret = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
  const errors: unknown[] = [];
  const webhook = new RotationWebhook({
    url,
    secret,
    events: ['gave-up', 'due-soon'],
    onError: (error) => errors.push(error),
    retryPauseMs: 1,
  });
  webhook.report(report());
  webhook.report(report({ outcome: 'succeeded' }));
  webhook.report(report({ outcome: 'due-soon', problem: null }));
  await until(() => received.length === 3);
  await webhook.stop();
  expect(errors).toEqual([]);
  const verified = received.map(({ headers, body }) => new Webhook(secret).verify(body, headers));
  expect(verified).toMatchObject([
    { type: 'rotation.gave-up' },
    { type: 'rotation.gave-up', data: { secret: 'db/password', problem: { code: 'unreachable' } } },
    { type: 'rotation.due-soon', data: { problem: null } },
  ]);
  // The same fact has the same id, so that the receiver can tell.
  expect(received[0]?.headers['webhook-id']).toBe(received[1]?.headers['webhook-id']);
});

test('an endpoint that stays away is given up and holds up nothing', async () => {
  const { received, url } = await listen([500, 500, 500, 204]);
  const errors: unknown[] = [];
  const webhook = new RotationWebhook({
    url,
    secret: undefined,
    events: ['gave-up'],
    onError: (error) => errors.push(error),
    retryPauseMs: 1,
  });
  webhook.report(report());
  webhook.report(report({ id: 'rot_2' }));
  await until(() => received.length === 4);
  await webhook.stop();
  expect(errors.map(String)).toEqual(['Error: the webhook of rotations answered with status 500']);
  expect(received.at(-1)?.headers['webhook-signature']).toBeUndefined();
});
