import { Webhook } from 'standardwebhooks';
import { describe, expect, it } from 'vitest';
import { AddressGuard, parseAllowList } from './address-guard.ts';
import { GuardedTransport } from './guarded-transport.ts';
import { type Answer, rawReceiver, receiver } from './receivers.fixture.ts';
import { WebhookSender } from './webhook-sender.ts';
import { generateWebhookSecret } from './webhook-signature.ts';

const secret = generateWebhookSecret((bytes) => bytes.fill(1));
const previous = generateWebhookSecret((bytes) => bytes.fill(2));
const body = Buffer.from('{"type":"vault.offline","name":"Tresor „Süd“ 🗝"}');
const sender = new WebhookSender(
  new GuardedTransport({
    guard: new AddressGuard(parseAllowList('127.0.0.1')),
    resolveHost: async () => ['127.0.0.1'],
    timeoutMs: 500,
    answerKeepBytes: 1_024,
  }),
);

const sendTo = (url: string) =>
  sender.send({
    id: 'dlv_01h455vb4pex5vsknk084sn02q',
    organizationId: 'org_01h455vb4pex5vsknk084sn02q',
    url,
    secrets: [secret, previous],
    body,
  });
async function answered(answer: Answer) {
  const server = await receiver(answer);
  return { outcome: await sendTo(`http://127.0.0.1:${server.port}/hook`), server };
}

describe('a webhook', () => {
  it('arrives byte by byte, signed so that the standardwebhooks library accepts it', async () => {
    const { outcome, server } = await answered((response) => response.writeHead(204).end());
    expect(outcome).toMatchObject({ result: 'delivered', status: 204 });
    expect(outcome.durationMs).toBeGreaterThan(0);
    const [seen] = server.seen;
    expect(seen?.body).toBe(body.toString());
    expect(seen?.headers['content-type']).toBe('application/json; charset=utf-8');
    for (const known of [secret, previous]) {
      const verified = new Webhook(known).verify(
        seen?.body ?? '',
        seen?.headers as Record<string, string>,
      );
      expect(verified).toMatchObject({ type: 'vault.offline' });
    }
  });

  it.each([200, 201, 202, 299])('answered with %i is delivered', async (status) => {
    const { outcome } = await answered((response) => response.writeHead(status).end());
    expect(outcome).toMatchObject({ result: 'delivered', status });
  });

  it.each([301, 302, 307, 308, 400, 401, 404, 418, 500, 503])(
    'answered with %i is tried again',
    async (status) => {
      const { outcome } = await answered((response) =>
        response.writeHead(status, { location: 'https://example.com/' }).end(),
      );
      expect(outcome).toMatchObject({ result: 'temporary', status, blame: 'receiver' });
    },
  );

  it('answered with 410 is never sent again and disables the channel', async () => {
    const { outcome } = await answered((response) => response.writeHead(410).end());
    expect(outcome).toMatchObject({ result: 'permanent', gone: true, status: 410 });
  });

  it('tells when the receiver wants to be asked again', async () => {
    const { outcome } = await answered((response) =>
      response.writeHead(503, { 'retry-after': '120' }).end(),
    );
    expect(outcome).toMatchObject({ result: 'temporary', retryAfterMs: 120_000 });
  });

  it('to a receiver that does not answer is a failure of that receiver, for now', async () => {
    const silent = await rawReceiver(() => undefined);
    expect(await sendTo(`http://127.0.0.1:${silent.port}/`)).toMatchObject({
      result: 'temporary',
      reason: 'timeout',
      blame: 'receiver',
    });
  });

  it('to an inside address is refused for good', async () => {
    expect(await sendTo('https://169.254.169.254/latest/meta-data')).toMatchObject({
      result: 'permanent',
      reason: 'refused_address',
    });
  });
});
