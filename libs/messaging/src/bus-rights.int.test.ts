import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { nudges } from '@keystead/contracts/nudges';
import { operations } from '@keystead/contracts/operations';
import {
  type Infrastructure,
  startInfrastructure,
} from '@keystead/test-control-plane/infrastructure/infrastructure';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { natsConnection } from './bus-options.ts';
import { busRights } from './bus-rights.ts';
import { BusServer } from './bus-server.ts';

const folder = mkdtempSync(join(tmpdir(), 'keystead-bus-'));
const open: NatsConnection[] = [];
let servers: Infrastructure;

beforeAll(async () => {
  servers = await startInfrastructure({
    stateDir: folder,
    purpose: 'test',
    servers: ['nats'],
    natsUsers: busRights(),
    useNamed: false,
  });
});
afterAll(async () => {
  await Promise.all(open.map((connection) => connection.close()));
  await servers.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function as(service: (typeof operations)[number]['service']): Promise<NatsConnection> {
  const connection = await connect(natsConnection({ natsUrl: servers.natsUrl(service), service }));
  open.push(connection);
  return connection;
}

/** What the server says to a subscription, or undefined when it lets it stand. */
async function refusal(connection: NatsConnection, subject: string): Promise<string | undefined> {
  const subscription = connection.subscribe(subject, { callback: () => undefined });
  const closed = subscription.closed.then((error) => (error ? error.message : undefined));
  await connection.flush();
  return Promise.race([closed, connection.flush().then(() => undefined)]);
}

test('a call is asked, heard and answered', async () => {
  const [gateway, policy] = await Promise.all([as('gateway'), as('policy')]);
  policy.subscribe('policy.policy-sets.get', {
    queue: 'policy',
    callback: (_, message) => {
      message.respond('here');
    },
  });
  await policy.flush();
  const answer = await gateway.request('policy.policy-sets.get', 'where?', {
    noMux: true,
    reply: '_INBOX.gateway.one',
    timeout: 5_000,
  });
  expect(answer.string()).toBe('here');
});

test('who stops answers what it has heard, and whoever asks then hears at once that nobody does', async () => {
  const gateway = await as('gateway');
  const subject = 'policy.policy-sets.list';
  const server = new BusServer(
    natsConnection({ natsUrl: servers.natsUrl('policy'), service: 'policy' }),
  );
  const heard = Promise.withResolvers<void>();
  const ready = Promise.withResolvers<void>();
  server.addHandler(subject, async () => {
    heard.resolve();
    await ready.promise;
    return 'here';
  });
  await new Promise<void>((resolve, reject) => {
    void server.listen((error) => (error ? reject(error) : resolve()));
  });
  const ask = (reply: string) =>
    gateway.request(subject, JSON.stringify({ id: '1', data: {} }), {
      noMux: true,
      reply: `_INBOX.gateway.${reply}`,
      timeout: 5_000,
    });
  const asked = ask('before');
  await heard.promise;
  const closed = server.close();
  // Whoever does not wait for the answer is closed by then.
  await Promise.race([closed, delay(100)]);
  ready.resolve();
  expect((await asked).json()).toMatchObject({ response: 'here', isDisposed: true });
  await closed;
  await expect(ask('after')).rejects.toThrow(/no responders/i);
});

test('every operation can be asked by the gateway, and heard by its service', () => {
  const rights = new Map(busRights().map((right) => [right.service, right]));
  for (const { service, subject } of operations) {
    expect(rights.get('gateway')?.publish).toContain(subject);
    expect(rights.get(service)?.subscribe).toContain(`${service}.>`);
  }
  for (const { subject, publishers, listeners } of Object.values(nudges)) {
    for (const service of publishers) expect(rights.get(service)?.publish).toContain(subject);
    for (const service of listeners) expect(rights.get(service)?.subscribe).toContain(subject);
  }
});

test.each([
  ['policy', 'monitoring.>'],
  ['policy', '>'],
  ['policy', '_INBOX.gateway.>'],
  ['notification', 'nudge.revocations'],
] as const)('%s cannot listen on %s', async (service, subject) => {
  expect(await refusal(await as(service), subject)).toMatch(/permissions violation/i);
});

test('a service cannot ask what it is not named as caller of', async () => {
  const policy = await as('policy');
  const words: string[] = [];
  const watching = (async () => {
    for await (const status of policy.status()) {
      if (status.type === 'error') words.push(String(status.error));
      if (words.length > 0) return;
    }
  })();
  policy.publish('vault-registry.internal.enroll', '{}');
  await policy.flush();
  await watching;
  expect(words[0]).toMatch(/permissions violation/i);
});
