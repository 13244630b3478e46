import { describe, expect, it } from 'vitest';
import { AddressGuard } from './address-guard.ts';
import { GuardedTransport } from './guarded-transport.ts';
import { receiver, testAuthority } from './receivers.fixture.ts';
import { SlackSender } from './slack-sender.ts';

/** Judges loopback as it would judge Slack, so that answers are read as from Slack. */
class LoopbackIsPublic extends AddressGuard {
  override judge(text: string, id: string) {
    if (text === '127.0.0.1') return { verdict: 'public', address: text, family: 4 } as const;
    return super.judge(text, id);
  }
}
const authority = await testAuthority();
const certificate = await authority.issue([{ type: 'dns', value: 'hooks.slack.example' }]);
const sender = new SlackSender(
  new GuardedTransport({
    guard: new LoopbackIsPublic([]),
    resolveHost: async () => ['127.0.0.1'],
    timeoutMs: 500,
    answerKeepBytes: 1_024,
    additionalRoots: [authority.rootPem],
  }),
);
const message = { text: 'payments is offline', blocks: [{ type: 'section' }] };

async function answered(status: number, body = '', headers: Record<string, string> = {}) {
  const server = await receiver(
    (response) => response.writeHead(status, headers).end(body),
    certificate,
  );
  const outcome = await sender.send({
    organizationId: 'org_01h455vb4pex5vsknk084sn02q',
    url: `https://hooks.slack.example:${server.port}/services/T0/B0/x`,
    message,
  });
  return { outcome, server };
}

describe('a Slack message', () => {
  it('is posted as JSON with text and blocks', async () => {
    const { outcome, server } = await answered(200, 'ok');
    expect(outcome).toMatchObject({ result: 'delivered', status: 200, answer: 'ok' });
    expect(JSON.parse(server.seen[0]?.body ?? '')).toEqual(message);
    expect(server.seen[0]?.url).toBe('/services/T0/B0/x');
  });

  it.each([
    [400, 'invalid_payload', undefined],
    [400, 'invalid_blocks', undefined],
    [403, 'action_prohibited', undefined],
    [404, 'channel_not_found', undefined],
    [404, 'no_service', true],
    [410, 'channel_is_archived', true],
    [404, 'no_team', true],
    [500, 'no_active_hooks', true],
  ])('answered with %i %s is never sent again', async (status, word, gone) => {
    const { outcome } = await answered(status, `${word}\n`);
    expect(outcome).toMatchObject({ result: 'permanent', reason: word, status });
    expect(outcome.result === 'permanent' && outcome.gone).toBe(gone);
  });

  it.each([400, 404, 410])('answered with a bare %i is never sent again', async (status) => {
    expect((await answered(status)).outcome).toMatchObject({ result: 'permanent', status });
  });

  it('answered with 429 is sent when Slack asked for it', async () => {
    const { outcome } = await answered(429, 'rate_limited', { 'retry-after': '30' });
    expect(outcome).toMatchObject({
      result: 'temporary',
      reason: 'rate_limited',
      retryAfterMs: 30_000,
    });
  });

  it.each([302, 408, 500, 502, 503])('answered with %i is tried again', async (status) => {
    expect((await answered(status, 'rollup_error')).outcome).toMatchObject({
      result: 'temporary',
      status,
    });
  });

  it('is not fooled by answers named like what objects inherit', async () => {
    expect((await answered(500, 'constructor')).outcome.result).toBe('temporary');
  });
});
