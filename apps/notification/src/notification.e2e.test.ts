/** The built service as a process, killed, doubled, and with Redis and NATS taken away. */
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toId } from '@keystead/contracts/ids';
import {
  createChannel,
  createSubscription,
  getChannel,
  listDeliveries,
  testChannel,
} from '@keystead/contracts/notification';
import type { Input } from '@keystead/contracts/operation';
import { permissionsOf } from '@keystead/contracts/permissions';
import { Database } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { readServiceKeys } from '@keystead/messaging/service-token';
import { type ControlPlane, startControlPlane } from '@keystead/test-control-plane/control-plane';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { deliveriesOf, given, raise } from './notification.fixture.ts';

let plane: ControlPlane;
let database: Database;
let bus: Bus;
/** What raises alerts speaks for monitoring. */
let monitoring: Bus;
const world = {
  rows: <T>(work: Parameters<typeof Database.prototype.acrossTenants<T>>[1]) =>
    database.acrossTenants('deliver', work),
};

beforeAll(async () => {
  plane = await startControlPlane({ services: ['notification'] });
  database = new Database({ ...plane.databases, poolSize: 4 });
  const connect = async (service: 'gateway' | 'monitoring') => {
    const { natsUrl } = plane.infrastructure;
    const { publicKeysFolder, signingKeyFile } = plane.keys;
    const keys = readServiceKeys(service, signingKeyFile(service), publicKeysFolder);
    const connected = new Bus({ natsUrl: natsUrl(service), service, keys });
    await connected.connect();
    return connected;
  };
  bus = await connect('gateway');
  monitoring = await connect('monitoring');
});
afterAll(async () => {
  await bus?.close();
  await monitoring?.close();
  await database?.close();
  await plane?.stop();
});

async function organizationWithWebhook(path: string) {
  const organizationId = newUuid();
  await world.rows((transaction) =>
    transaction.organization.create({ data: { organizationId, name: `Acme ${path}` } }),
  );
  const ctx: TenantCtx = {
    organizationId,
    actor: { kind: 'apiKey', id: `key_${path}`, name: path },
    role: 'owner',
    permissions: [...permissionsOf.owner],
    personId: null,
    credentialId: null,
    requestId: 'req_test',
    address: null,
    userAgent: null,
    idempotencyKey: null,
  };
  const body = {
    kind: 'webhook',
    name: path,
    config: { url: plane.inbox.webhookUrl(path) },
  } as const;
  const channel = await bus.perform(createChannel, ctx, given<typeof createChannel>({ body }));
  plane.inbox.expectSignature(path, channel.secret ?? '');
  await bus.perform(
    createSubscription,
    ctx,
    given<typeof createSubscription>({
      body: {
        name: 'Everything',
        channelIds: [channel.id],
        events: ['vault.offline', 'vault.recovered', 'vault.degraded', 'vault.stopped'],
        vaultTags: [],
        enabled: true,
      },
    }),
  );
  return { organizationId, ctx, channel };
}

/** Every alert id that arrived at a receiver, in deliveries as distinct as their ids. */
function told(path: string): string[] {
  const bodies = new Map(
    plane.inbox.messages
      .filter(({ channel, verdict }) => channel === path && verdict.result === 'valid')
      .map(({ webhook }) => [webhook?.headers['webhook-id'], webhook?.body ?? '{}']),
  );
  return [...bodies.values()].flatMap((body) =>
    (JSON.parse(body).data.alerts as { id: string }[]).map(({ id }) => id),
  );
}

/** As if so much time had passed for everything that waits. */
const letTimePass = (seconds: number) =>
  world.rows(
    (transaction) => transaction.$executeRaw`
    update notification.delivery set
      next_attempt_at = next_attempt_at - ${seconds} * interval '1 second',
      lease_until = lease_until - ${seconds} * interval '1 second'`,
  );

const publicIds = (alerts: { id: string }[]) => alerts.map(({ id }) => toId('alert', id)).sort();

describe('the notification service', () => {
  it('hands an alert over shortly after the end of its group wait', async () => {
    const { organizationId } = await organizationWithWebhook('latency');
    const overMs = await Promise.all(
      (['vault.offline', 'vault.stopped', 'vault.recovered'] as const).map(async (kind) => {
        const startedMs = Date.now();
        const [alert] = await raise(world, { organizationId }, [{ kind }]);
        monitoring.nudge('notification');
        const id = toId('alert', alert?.id ?? '');
        await plane.inbox.waitFor(({ webhook }) => webhook?.body.includes(id) ?? false, 20_000);
        return Date.now() - startedMs - 10_000;
      }),
    );
    console.log(`hand-over beyond the group wait: ${overMs.join(', ')} ms`);
    expect(Math.max(...overMs)).toBeLessThan(3_000);
    expect(Math.min(...overMs)).toBeGreaterThan(-500);
  });

  it('answers the test button with what the receiver said', async () => {
    const { ctx, channel } = await organizationWithWebhook('button');
    const input = given<typeof testChannel>({ params: { id: channel.id } });
    expect(await bus.perform(testChannel, ctx, input)).toMatchObject({
      status: 'delivered',
      attempts: [{ outcome: 'delivered' }],
    });
  });

  it('refuses a URL that leads inside, says why, and answers foreign ids like absent ones', async () => {
    const acme = await organizationWithWebhook('acme');
    const beta = await organizationWithWebhook('beta');
    const create = (url: string) =>
      bus.perform(
        createChannel,
        acme.ctx,
        given<typeof createChannel>({ body: { kind: 'webhook', name: 'x', config: { url } } }),
      );
    for (const url of [
      'https://10.0.0.1/',
      'https://[fd00:ec2::254]/',
      'https://169.254.169.254/',
      'x',
    ]) {
      await expect(create(url)).rejects.toMatchObject({
        code: 'invalid_request',
        errors: [{ in: 'body', path: '/config/url' }],
      });
    }
    const get = (id: string) =>
      bus.perform(getChannel, acme.ctx, given<typeof getChannel>({ params: { id } }));
    const errors = await Promise.all(
      [beta.channel.id, toId('channel', newUuid())].map((id) => get(id).catch((error) => error)),
    );
    expect(errors.map(({ code, detail }) => [code, detail])).toEqual([
      ['not_found', undefined],
      ['not_found', undefined],
    ]);
    const input = given<typeof listDeliveries>({ query: { limit: 50, sort: 'createdAt' } });
    expect(
      (await bus.perform(listDeliveries, acme.ctx, input as Input<typeof listDeliveries>)).items,
    ).toEqual([]);
  });

  it('killed in the middle of sending loses nothing', async () => {
    const { organizationId } = await organizationWithWebhook('killed');
    plane.inbox.behave('/webhooks/killed', { delayMs: 30_000 });
    const alerts = await raise(world, { organizationId }, [{}, {}, {}]);
    monitoring.nudge('notification');
    await expect.poll(() => deliveriesOf(world, { organizationId })).toHaveLength(1);
    await letTimePass(11);
    await expect
      .poll(async () => (await deliveriesOf(world, { organizationId }))[0]?.attempts.length, {
        timeout: 10_000,
      })
      .toBe(1);
    await plane.services.notification.kill('SIGKILL');
    plane.inbox.behave('/webhooks/killed', undefined);
    await plane.services.notification.start();
    await letTimePass(61);
    await expect.poll(() => told('killed').sort(), { timeout: 20_000 }).toEqual(publicIds(alerts));
    await expect
      .poll(async () => (await deliveriesOf(world, { organizationId }))[0]?.status, {
        timeout: 20_000,
      })
      .toBe('delivered');
    const [delivery] = await deliveriesOf(world, { organizationId });
    expect(delivery?.attempts.map(({ outcome }) => outcome)).toEqual(['interrupted', 'delivered']);
  });

  it('tells of each alert once while two replicas run, Redis is wiped and NATS is away', async () => {
    const another = await plane.launchAnother('notification');
    const { organizationId } = await organizationWithWebhook('storm');
    const raised: { id: string }[] = [];
    for (let round = 0; round < 6; round += 1) {
      raised.push(
        ...(await raise(
          world,
          { organizationId },
          Array.from({ length: 50 }, () => ({})),
        )),
      );
      monitoring.nudge('notification');
      if (round === 1) await plane.infrastructure.redis.wipe();
      if (round === 2) await plane.infrastructure.nats.kill();
      if (round === 3) await another.kill('SIGKILL');
      if (round === 4) await plane.infrastructure.nats.restart();
      await expect
        .poll(
          () =>
            world.rows((transaction) => transaction.outbox.count({ where: { organizationId } })),
          { timeout: 15_000 },
        )
        .toBe(0);
      await letTimePass(5);
    }
    await expect
      .poll(
        async () => {
          await letTimePass(61);
          return told('storm').length;
        },
        { timeout: 60_000, interval: 500 },
      )
      .toBe(300);
    expect(told('storm').sort()).toEqual(publicIds(raised));
  });

  it('stays at work while Redis is down', async () => {
    const { organizationId } = await organizationWithWebhook('no-redis');
    await plane.infrastructure.redis.kill();
    const alerts = await raise(world, { organizationId }, [{}]);
    await expect
      .poll(() => deliveriesOf(world, { organizationId }).then(({ length }) => length), {
        timeout: 20_000,
      })
      .toBe(1);
    await letTimePass(11);
    await expect.poll(() => told('no-redis'), { timeout: 20_000 }).toEqual(publicIds(alerts));
    await plane.infrastructure.redis.restart();
  });

  it('stops within five seconds though a receiver hangs', async () => {
    const { organizationId } = await organizationWithWebhook('stop');
    plane.inbox.behave('/webhooks/stop', { delayMs: 30_000 });
    await raise(world, { organizationId }, [{}]);
    monitoring.nudge('notification');
    await expect.poll(() => deliveriesOf(world, { organizationId })).toHaveLength(1);
    await letTimePass(11);
    await expect
      .poll(async () => (await deliveriesOf(world, { organizationId }))[0]?.attempts.length, {
        timeout: 10_000,
      })
      .toBe(1);
    const startedMs = performance.now();
    await plane.services.notification.stop(10_000);
    expect(performance.now() - startedMs).toBeLessThan(5_000);
    const [delivery] = await deliveriesOf(world, { organizationId });
    expect(delivery).toMatchObject({ status: 'retrying', leaseUntil: null });
    expect(delivery?.attempts[0]?.outcome).toBe('interrupted');
  });
});
