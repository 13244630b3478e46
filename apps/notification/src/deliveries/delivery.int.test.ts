import type { AlertKind } from '@keystead/contracts/monitoring';
import type {
  confirmRecipient,
  getDelivery,
  listDeliveries,
  replayDelivery,
  rotateChannelSecret,
  testChannel,
  updateChannel,
} from '@keystead/contracts/notification';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ChannelSeals } from '../channels/channel-seals.ts';
import {
  deliveriesOf,
  given,
  newOrganization,
  type Organization,
  operators,
  raise,
  startWorld,
  type World,
} from '../notification.fixture.ts';
import { DeliveryLedger } from './delivery-ledger.ts';

let world: World;
beforeAll(async () => {
  world = await startWorld();
});
afterAll(() => world.stop());

/** Dispatches, lets the group wait pass, and sends what is due. */
async function deliver(replica: Pick<World, 'tick'> = world) {
  await replica.tick();
  await world.letTimePass(11);
  await replica.tick();
}
const single = async (organization: Organization) => {
  const [one] = await deliveriesOf(world, organization);
  if (!one) throw new Error('no delivery');
  return one;
};
const settled = (organization: Organization, status: string, attempts?: number) =>
  expect
    .poll(
      async () => {
        const one = await single(organization);
        return [
          one.status,
          attempts === undefined ? undefined : one.attempts.filter((a) => a.outcome).length,
        ];
      },
      { timeout: 8_000 },
    )
    .toEqual([status, attempts]);
const subscribed = async (path: string, events?: AlertKind[]) => {
  const organization = await newOrganization(world);
  const channel = await organization.webhook(path);
  world.inbox.expectSignature(path, channel.secret ?? '');
  await organization.subscribe([channel.id], events);
  return { organization, channel, path };
};
const arrived = (channel: string) =>
  world.inbox.messages.filter((message) => message.channel === channel);

describe('an alert', () => {
  it('reaches webhook, Slack and mailbox, signed, in one message each', async () => {
    const organization = await newOrganization(world, 'Acme & Söhne');
    const webhook = await organization.webhook('all-webhook');
    world.inbox.expectSignature('all-webhook', webhook.secret ?? '');
    const slack = await organization.channel({
      kind: 'slack',
      name: 'Night shift',
      config: { url: world.inbox.slackUrl('all-slack') },
    });
    const email = await organization.channel({
      kind: 'email',
      name: 'Owner',
      config: { to: [organization.owner] },
    });
    await organization.subscribe([webhook.id, slack.id, email.id]);
    await raise(world, organization, [{ vaultName: 'payments' }, { vaultName: 'billing' }]);
    await deliver();
    const [hook, post, mail] = await Promise.all([
      world.inbox.waitFor(({ channel }) => channel === 'all-webhook', 5_000),
      world.inbox.waitFor(({ channel }) => channel === 'all-slack', 5_000),
      world.inbox.waitFor(({ channel }) => channel.includes(organization.owner), 5_000),
    ]);
    expect(hook.verdict.result).toBe('valid');
    expect(JSON.parse(hook.webhook?.body ?? '')).toMatchObject({
      type: 'vault.offline',
      data: {
        truncated: 0,
        alerts: [{ vault: { name: 'billing' } }, { vault: { name: 'payments' } }],
      },
    });
    expect(post.verdict.result).toBe('valid');
    expect(JSON.stringify(post.slack)).toContain('payments');
    expect(mail.subject).toContain('2 vaults are offline');
    expect(mail.email?.text).toContain('payments');
    expect(mail.email?.text).toContain('Acme & Söhne');
    await expect
      .poll(async () => (await deliveriesOf(world, organization)).map(({ status }) => status))
      .toEqual(['delivered', 'delivered', 'delivered']);
    for (const { attempts } of await deliveriesOf(world, organization)) {
      expect(attempts).toMatchObject([{ number: 1, outcome: 'delivered' }]);
      expect(attempts[0]?.durationMs).toBeGreaterThanOrEqual(0);
    }
  });

  it('is sent once though four replicas look at once', async () => {
    const { organization, path } = await subscribed('replicas');
    await raise(world, organization, [{}]);
    const replicas = [world, ...Array.from({ length: 3 }, () => world.anotherReplica())];
    await Promise.all(replicas.map((replica) => replica.tick()));
    await world.letTimePass(11);
    await Promise.all(replicas.map((replica) => replica.tick()));
    await Promise.all(replicas.map((replica) => replica.tick()));
    await settled(organization, 'delivered', 1);
    expect(arrived(path)).toHaveLength(1);
    await Promise.all(replicas.slice(1).map((replica) => replica.runner.onModuleDestroy()));
  });
});

describe('a failing receiver', () => {
  it('is tried again with the same id and body, and every attempt is recorded', async () => {
    const { organization, path, channel } = await subscribed('retry');
    world.inbox.behave(`/webhooks/${path}`, { status: 503, body: 'down for repair' });
    await raise(world, organization, [{}]);
    await deliver();
    await settled(organization, 'retrying', 1);
    const failing = await single(organization);
    expect(failing.attempts[0]).toMatchObject({ outcome: 'temporary', statusCode: 503 });
    expect(failing.attempts[0]?.answer).toContain('the receiver answered 503');
    // Reached through the allow list: what it said is not kept.
    expect(failing.attempts[0]?.answer).not.toContain('repair');
    const inMs = (failing.nextAttemptAt?.getTime() ?? 0) - Date.now();
    expect(inMs).toBeGreaterThan(1_000);
    expect(inMs).toBeLessThan(7_000);
    world.inbox.behave(`/webhooks/${path}`, undefined);
    await world.letTimePass(8);
    await world.tick();
    await settled(organization, 'delivered', 2);
    const [first, second] = arrived(path);
    expect(second?.webhook?.headers['webhook-id']).toBe(first?.webhook?.headers['webhook-id']);
    expect(second?.webhook?.body).toBe(first?.webhook?.body);
    const shown = await world.channels.get(organization.ctx, given({ params: { id: channel.id } }));
    expect(shown).toMatchObject({ failingSince: null, enabled: true });
    expect(shown.lastDeliveredAt).not.toBeNull();
  });

  it('gives up after 75 hours; the dead letter is listed, and replayed with the same id', async () => {
    const { organization, path } = await subscribed('dead');
    world.inbox.behave(`/webhooks/${path}`, { hangUp: true });
    await raise(world, organization, [{}]);
    await deliver();
    for (let attempt = 1; attempt <= 14; attempt += 1) {
      await settled(organization, attempt === 14 ? 'dead' : 'retrying', attempt);
      const { nextAttemptAt } = await single(organization);
      await world.letTimePass(((nextAttemptAt?.getTime() ?? 0) - Date.now()) / 1_000 + 1);
      await world.tick();
    }
    const listed = await world.deliveries.list(
      organization.ctx,
      given<typeof listDeliveries>({ query: { limit: 50, sort: 'createdAt', status: ['dead'] } }),
    );
    expect(listed.items).toHaveLength(1);
    expect(listed.items[0]?.attempts).toHaveLength(14);
    world.inbox.behave(`/webhooks/${path}`, undefined);
    const id = listed.items[0]?.id ?? '';
    await world.deliveries.replay(
      organization.ctx,
      given<typeof replayDelivery>({ params: { id } }),
    );
    expect(world.nudges()).toBeGreaterThan(0);
    await world.tick();
    await settled(organization, 'delivered', 15);
    expect(arrived(path).at(-1)?.webhook?.headers['webhook-id']).toBe(id);
  });

  it('that answers 410 is disabled at once, and the owners are told by mail', async () => {
    const { organization, path, channel } = await subscribed('gone');
    world.inbox.behave(`/webhooks/${path}`, { status: 410 });
    await raise(world, organization, [{}]);
    await deliver();
    await settled(organization, 'dead');
    expect(
      await world.channels.get(organization.ctx, given({ params: { id: channel.id } })),
    ).toMatchObject({ enabled: false, disabledReason: 'gone' });
    await world.mails.send();
    const mail = await world.inbox.waitFor(
      (message) =>
        message.channel.includes(organization.owner) && message.subject.includes('disabled'),
      5_000,
    );
    expect(mail.email?.text).toContain('The channel gone was disabled');
    const audit = await world.rows((transaction) =>
      transaction.auditEvent.findMany({
        where: { organizationId: organization.organizationId, action: 'channels.disable' },
      }),
    );
    expect(audit).toMatchObject([{ actorKind: 'system', targetId: channel.id }]);
  });

  it('for five days without a success is disabled; what waited is dead and can be replayed', async () => {
    const { organization, path, channel } = await subscribed('five-days');
    world.inbox.behave(`/webhooks/${path}`, { status: 500 });
    await raise(world, organization, [{}]);
    await deliver();
    await settled(organization, 'retrying', 1);
    await world.letTimePass(4.9 * 24 * 3_600);
    await world.tick();
    await settled(organization, 'retrying', 2);
    expect(
      await world.channels.get(organization.ctx, given({ params: { id: channel.id } })),
    ).toMatchObject({ enabled: true });
    await raise(world, organization, [{ kind: 'vault.stopped' }]);
    await world.tick();
    await world.letTimePass(0.2 * 24 * 3_600);
    await world.tick();
    await expect
      .poll(
        async () =>
          (await world.channels.get(organization.ctx, given({ params: { id: channel.id } })))
            .disabledReason,
      )
      .toBe('failing');
    await expect
      .poll(async () => (await deliveriesOf(world, organization)).map(({ status }) => status))
      .toEqual(['dead', 'dead']);
    const [dead] = await deliveriesOf(world, organization);
    const shown = await world.deliveries.list(
      organization.ctx,
      given<typeof listDeliveries>({ query: { limit: 50, sort: '-createdAt' } }),
    );
    const id = shown.items.find(({ kind }) => kind === dead?.kind)?.id ?? '';
    await expect(
      world.deliveries.replay(organization.ctx, given<typeof replayDelivery>({ params: { id } })),
    ).rejects.toMatchObject({ code: 'unprocessable' });
    world.inbox.behave(`/webhooks/${path}`, undefined);
    const enabled = await world.channels.update(
      organization.ctx,
      given<typeof updateChannel>({ params: { id: channel.id }, body: { enabled: true } }),
    );
    expect(enabled).toMatchObject({ enabled: true, disabledReason: null, failingSince: null });
    await world.deliveries.replay(
      organization.ctx,
      given<typeof replayDelivery>({ params: { id } }),
    );
    await world.tick();
    await expect
      .poll(
        async () =>
          (
            await world.deliveries.get(
              organization.ctx,
              given<typeof getDelivery>({ params: { id } }),
            )
          ).status,
      )
      .toBe('delivered');
  });

  it('that hangs delays nobody else', async () => {
    const slow = await newOrganization(world);
    const hanging = await Promise.all(
      Array.from({ length: 12 }, (_, index) => slow.webhook(`hang-${index}`)),
    );
    for (let index = 0; index < 12; index += 1) {
      world.inbox.behave(`/webhooks/hang-${index}`, { delayMs: 60_000 });
    }
    await slow.subscribe(hanging.map(({ id }) => id));
    const quick = await subscribed('quick');
    await raise(
      world,
      slow,
      Array.from({ length: 30 }, () => ({})),
    );
    await raise(world, quick.organization, [{}]);
    await world.tick();
    await world.letTimePass(11);
    const startedMs = performance.now();
    await world.tick();
    await world.inbox.waitFor(({ channel }) => channel === 'quick', 5_000);
    expect(performance.now() - startedMs).toBeLessThan(5_000);
  });
});

describe('a process that dies', () => {
  it('in the middle of sending leaves a lease that runs out; the next attempt marks the first', async () => {
    const { organization, path } = await subscribed('killed');
    await raise(world, organization, [{}]);
    await world.tick();
    await world.letTimePass(11);
    await world.dispatcher.closeGroups();
    // The dead process got as far as its claim.
    const dead = new DeliveryLedger(world.database, new ChannelSeals(world.key));
    const { id } = await single(organization);
    const claim = await dead.claim({ organizationId: organization.organizationId, id });
    expect(claim?.number).toBe(1);
    expect(await dead.claim({ organizationId: organization.organizationId, id })).toBeUndefined();
    await world.tick();
    expect((await world.ledger.due()).deliveries.map((due) => due.id)).not.toContain(id);
    await world.letTimePass(61);
    await world.tick();
    await settled(organization, 'delivered', 2);
    expect((await single(organization)).attempts.map(({ outcome }) => outcome)).toEqual([
      'interrupted',
      'delivered',
    ]);
    expect(arrived(path)).toHaveLength(1);
    // Should the dead come back after all, its word no longer counts.
    const late = {
      result: 'permanent',
      reason: 'x',
      detail: 'x',
      blame: 'receiver',
      durationMs: 1,
    } as const;
    if (claim) expect(await dead.finish(claim, late)).toBe(false);
    expect((await single(organization)).status).toBe('delivered');
  });

  it('in order cuts off what hangs and leaves it to be sent at once by another', async () => {
    const { organization, path } = await subscribed('stopped');
    world.inbox.behave(`/webhooks/${path}`, { delayMs: 60_000 });
    await raise(world, organization, [{}]);
    const stopping = world.anotherReplica();
    await stopping.tick();
    await world.letTimePass(11);
    await stopping.tick();
    await expect.poll(async () => (await single(organization)).attempts.length).toBe(1);
    await stopping.runner.onModuleDestroy();
    world.inbox.behave(`/webhooks/${path}`, undefined);
    await world.letTimePass(10);
    await world.tick();
    await settled(organization, 'delivered');
  });
});

describe('a row that cannot be read', () => {
  it('waits out a lease instead of being tried in a circle, and holds up nobody', async () => {
    const broken = await subscribed('broken');
    const whole = await subscribed('whole');
    await world.rows((transaction) =>
      transaction.channel.updateMany({
        where: { organizationId: broken.organization.organizationId },
        data: { sealedConfig: new Uint8Array(60) },
      }),
    );
    await raise(world, broken.organization, [{}]);
    await raise(world, whole.organization, [{}]);
    await deliver();
    await settled(whole.organization, 'delivered', 1);
    await expect.poll(async () => (await single(broken.organization)).leaseUntil).not.toBeNull();
    const { id, status, attempts } = await single(broken.organization);
    expect([status, attempts]).toEqual(['pending', []]);
    expect((await world.ledger.due()).deliveries.map((due) => due.id)).not.toContain(id);
  });
});

describe('the test button', () => {
  it('answers how it went, at once', async () => {
    const { organization, path, channel } = await subscribed('tested');
    const test = () =>
      world.tests.test(organization.ctx, given<typeof testChannel>({ params: { id: channel.id } }));
    const good = await test();
    expect(good).toMatchObject({
      kind: 'channel.test',
      status: 'delivered',
      channel: { id: channel.id },
      attempts: [{ number: 1, outcome: 'delivered', statusCode: 204 }],
    });
    expect(arrived(path).at(-1)?.verdict.result).toBe('valid');
    world.inbox.behave(`/webhooks/${path}`, { status: 500 });
    expect(await test()).toMatchObject({
      status: 'dead',
      attempts: [{ outcome: 'temporary', statusCode: 500 }],
    });
    // A test of a receiver that is being set up starts no count of failures.
    expect(
      await world.channels.get(organization.ctx, given({ params: { id: channel.id } })),
    ).toMatchObject({ failingSince: null });
  });
});

describe('a webhook secret', () => {
  it('signs along with its successor for a day, and is stored nowhere in the clear', async () => {
    const { organization, path, channel } = await subscribed('rotated');
    const rotated = await world.channels.rotateSecret(
      organization.ctx,
      given<typeof rotateChannelSecret>({ params: { id: channel.id } }),
    );
    await world.tests.test(
      organization.ctx,
      given<typeof testChannel>({ params: { id: channel.id } }),
    );
    const { headers, body } = arrived(path).at(-1)?.webhook ?? { headers: {}, body: '' };
    for (const secret of [channel.secret ?? '', rotated.secret]) {
      expect(
        new Webhook(secret).verify(body, { ...headers } as Record<string, string>),
      ).toBeDefined();
    }
    await world.rows((transaction) =>
      transaction.channel.updateMany({
        where: { organizationId: organization.organizationId },
        data: { previousValidUntil: new Date(Date.now() - 1) },
      }),
    );
    await world.tests.test(
      organization.ctx,
      given<typeof testChannel>({ params: { id: channel.id } }),
    );
    const later = arrived(path).at(-1)?.webhook;
    expect(later?.headers['webhook-signature']?.split(' ')).toHaveLength(1);
    const stored = await world.rows(
      (transaction) =>
        transaction.$queryRaw<{ row: string }[]>`select c::text as row from notification.channel c`,
    );
    const text = stored.map(({ row }) => Buffer.from(row).toString('latin1')).join();
    for (const secret of [channel.secret ?? '', rotated.secret, world.inbox.webhookUrl(path)]) {
      expect(text).not.toContain(secret);
      expect(text).not.toContain(Buffer.from(secret).toString('hex'));
    }
  });
});

describe('mail', () => {
  const confirmationToken = async (address: string) => {
    const mail = await world.inbox.waitFor(
      ({ channel, subject }) => channel.includes(address) && subject.includes('Confirm'),
      5_000,
    );
    return (
      /https:\/\/keystead\.test\/v1\/channels\/confirm#token=(\S+)/.exec(
        mail.email?.text ?? '',
      )?.[1] ?? ''
    );
  };

  it('goes to a stranger only after the owner of the address agreed', async () => {
    const organization = await newOrganization(world);
    const stranger = 'stranger@elsewhere.test';
    const channel = await organization.channel({
      kind: 'email',
      name: 'Duty',
      config: { to: [organization.owner, stranger] },
    });
    expect(channel.config).toEqual({ to: [organization.owner, stranger], unconfirmed: [stranger] });
    await organization.subscribe([channel.id]);
    await raise(world, organization, [{ vaultName: 'before' }]);
    await deliver();
    await settled(organization, 'delivered');
    await world.mails.send();
    const token = await confirmationToken(stranger);
    const toStranger = () =>
      world.inbox.messages.filter((message) => message.channel.includes(stranger));
    expect(toStranger()).toHaveLength(1);
    const anonymous = { ...organization.ctx, organizationId: null, permissions: [], role: null };
    const confirm = (text: string) =>
      world.channels.confirm(anonymous, given<typeof confirmRecipient>({ body: { token: text } }));
    await expect(confirm(`${token}x`)).rejects.toMatchObject({ code: 'not_found' });
    expect(await confirm(token)).toEqual({ email: stranger });
    expect(
      (await world.channels.get(organization.ctx, given({ params: { id: channel.id } }))).config
        .unconfirmed,
    ).toEqual([]);
    await raise(world, organization, [{ kind: 'vault.stopped', vaultName: 'after' }]);
    await deliver();
    await expect.poll(() => toStranger().length).toBe(2);
    expect(toStranger()[1]?.subject).toContain('after was stopped');
  });

  it('of an organization does not profit from what another was allowed', async () => {
    const [acme, beta] = [await newOrganization(world), await newOrganization(world)];
    const address = 'shared@elsewhere.test';
    await acme.channel({ kind: 'email', name: 'One', config: { to: [address] } });
    await world.mails.send();
    const token = await confirmationToken(address);
    await world.channels.confirm(acme.ctx, given<typeof confirmRecipient>({ body: { token } }));
    const theirs = await beta.channel({
      kind: 'email',
      name: 'Two',
      config: { to: [address, acme.owner] },
    });
    expect(theirs.config.unconfirmed).toEqual([address, acme.owner]);
  });

  it('that asks is sent once a day for an address, and thirty times an hour at most', async () => {
    const organization = await newOrganization(world);
    const ask = (address: string) =>
      organization.channel({ kind: 'email', name: 'Duty', config: { to: [address] } });
    await ask('again@elsewhere.test');
    await ask('again@elsewhere.test');
    const asked = await world.rows((transaction) =>
      transaction.outbox.count({ where: { organizationId: organization.organizationId } }),
    );
    expect(asked).toBe(1);
    for (let index = 1; index < 30; index += 1) await ask(`one-${index}@elsewhere.test`);
    await expect(ask('too-many@elsewhere.test')).rejects.toMatchObject({ code: 'limit_reached' });
  });

  it('beyond the quota of the hour waits for the next hour and is no failure of the channel', async () => {
    const organization = await newOrganization(world);
    const channel = await organization.channel({
      kind: 'email',
      name: 'Owner',
      config: { to: [organization.owner] },
    });
    await organization.subscribe([channel.id]);
    await world.rows(
      (transaction) => transaction.$executeRaw`
      insert into notification.mail_hour (organization_id, hour, mails)
      values (${organization.organizationId}::uuid, date_trunc('hour', clock_timestamp()), 500)`,
    );
    await raise(world, organization, [{}]);
    await deliver();
    await settled(organization, 'retrying', 1);
    expect((await single(organization)).attempts[0]?.answer).toContain('quota');
    expect(
      (await world.channels.get(organization.ctx, given({ params: { id: channel.id } })))
        .failingSince,
    ).toBeNull();
    expect(
      world.inbox.messages.filter((mail) => mail.channel.includes(organization.owner)),
    ).toEqual([]);
  });

  it('refused by the mail server is tried again, and the row of a notice stays until it was taken', async () => {
    const organization = await newOrganization(world);
    world.inbox.refuseMail({ code: 451, text: 'later' });
    await organization.channel({
      kind: 'email',
      name: 'Duty',
      config: { to: ['late@elsewhere.test'] },
    });
    await world.mails.send();
    const waiting = () =>
      world.rows((transaction) =>
        transaction.outbox.findMany({ where: { organizationId: organization.organizationId } }),
      );
    expect(await waiting()).toMatchObject([{ failures: 1 }]);
    world.inbox.refuseMail(undefined);
    await world.mails.send();
    expect(await waiting()).toHaveLength(1);
    await world.letTimePass(60);
    await world.mails.send();
    expect(await waiting()).toEqual([]);
    await world.inbox.waitFor(({ channel }) => channel.includes('late@elsewhere.test'), 2_000);
  });

  it('tells the operators when a gateway could not hear', async () => {
    await world.rows((transaction) =>
      transaction.outbox.create({
        data: {
          organizationId: null,
          topic: 'installation.deaf',
          payload: {
            gatewayId: '01a1fcf4-991b-7e2a-a154-090de9c6888c',
            startedAt: '2026-11-21T06:00:00.000Z',
            endedAt: '2026-11-21T06:02:30.000Z',
          },
        },
      }),
    );
    await world.mails.send();
    const mail = await world.inbox.waitFor(
      ({ channel }) => channel.includes(operators[0] ?? ''),
      5_000,
    );
    expect(mail.subject).toContain('could not hear for 2 min 30 s');
  });
});
