import { newUuid, toId } from '@keystead/contracts/ids';
import type {
  createChannel,
  deleteChannel,
  getChannel,
  listChannels,
  listDeliveries,
  listSubscriptions,
  rotateChannelSecret,
  updateChannel,
  updateSubscription,
} from '@keystead/contracts/notification';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ExpiredDeliveries } from '../deliveries/expired-deliveries.ts';
import {
  deliveriesOf,
  given,
  newOrganization,
  raise,
  startWorld,
  type World,
} from '../notification.fixture.ts';

let world: World;
beforeAll(async () => {
  world = await startWorld();
});
afterAll(() => world.stop());

const auditOf = ({ organizationId }: { organizationId: string }) =>
  world.rows((transaction) =>
    transaction.auditEvent.findMany({ where: { organizationId }, orderBy: { id: 'asc' } }),
  );

describe('a channel', () => {
  it('shows what it is, but of a Slack URL only where it leads, and a secret once', async () => {
    const acme = await newOrganization(world);
    const slack = await acme.channel({
      kind: 'slack',
      name: 'Night shift',
      config: { url: world.inbox.slackUrl('T0/B0/very-secret') },
    });
    expect(slack.config.url).toBe(`${world.inbox.url}/…`);
    const webhook = await acme.webhook('shown');
    expect(webhook.secret).toMatch(/^whsec_/);
    const shown = await world.channels.get(
      acme.ctx,
      given<typeof getChannel>({ params: { id: webhook.id } }),
    );
    expect(shown).not.toHaveProperty('secret');
    expect(shown).toMatchObject({
      kind: 'webhook',
      enabled: true,
      disabledReason: null,
      etag: '"1"',
    });
    expect(JSON.stringify(await auditOf(acme))).not.toMatch(/whsec_|very-secret/);
  });

  it('is changed with If-Match, audited, and refuses what its kind does not have', async () => {
    const acme = await newOrganization(world);
    const { id } = await acme.webhook('changed');
    const update = (body: object, ifMatch?: string) =>
      world.channels.update(
        acme.ctx,
        given<typeof updateChannel>({
          params: { id },
          body: body as never,
          ...(ifMatch && { ifMatch }),
        }),
      );
    expect(await update({ name: 'Renamed' }, '"1"')).toMatchObject({
      name: 'Renamed',
      etag: '"2"',
    });
    await expect(update({ name: 'Late' }, '"1"')).rejects.toMatchObject({
      code: 'precondition_failed',
    });
    await expect(update({ config: { to: ['a@b.test'] } })).rejects.toMatchObject({
      code: 'invalid_request',
      errors: [{ in: 'body', path: '/config/to' }],
    });
    await expect(update({ config: {} })).rejects.toMatchObject({ code: 'invalid_request' });
    await expect(update({ config: { url: 'https://10.0.0.1/' } })).rejects.toMatchObject({
      errors: [{ path: '/config/url' }],
    });
    const audit = await auditOf(acme);
    expect(audit.map(({ action }) => action)).toEqual(['channels.create', 'channels.update']);
    expect(audit[1]?.changes).toEqual({ name: { from: 'changed', to: 'Renamed' } });
  });

  it('is made once for one Idempotency-Key, and its secret is answered again', async () => {
    const acme = await newOrganization(world);
    const ctx = { ...acme.ctx, idempotencyKey: 'one' };
    const input = given<typeof createChannel>({
      body: { kind: 'webhook', name: 'Once', config: { url: world.inbox.webhookUrl('once') } },
    });
    const [first, second] = [
      await world.channels.create(ctx, input),
      await world.channels.create(ctx, input),
    ];
    expect(second).toEqual(first);
  });

  it('disabled by hand leaves what waited as dead letters; deleted, it takes them along', async () => {
    const acme = await newOrganization(world);
    const { id } = await acme.webhook('by-hand');
    await acme.subscribe([id]);
    await raise(world, acme, [{}]);
    await world.dispatcher.dispatch();
    const disabled = await world.channels.update(
      acme.ctx,
      given<typeof updateChannel>({ params: { id }, body: { enabled: false } }),
    );
    expect(disabled).toMatchObject({ enabled: false, disabledReason: 'by_operator' });
    expect(await deliveriesOf(world, acme)).toMatchObject([
      { status: 'dead', attempts: [{ outcome: 'permanent', answer: 'the channel was disabled' }] },
    ]);
    await world.channels.delete(acme.ctx, given<typeof deleteChannel>({ params: { id } }));
    expect(await deliveriesOf(world, acme)).toEqual([]);
    await expect(
      world.channels.get(acme.ctx, given<typeof getChannel>({ params: { id } })),
    ).rejects.toMatchObject({ code: 'not_found' });
  });

  it('of another organization answers like an absent one, in every operation', async () => {
    const [acme, beta] = [await newOrganization(world), await newOrganization(world)];
    const foreign = await beta.webhook('theirs');
    const own = await acme.webhook('own');
    const subscription = await acme.subscribe([own.id]);
    for (const id of [foreign.id, toId('channel', newUuid())]) {
      const params = { id };
      for (const call of [
        () => world.channels.get(acme.ctx, given<typeof getChannel>({ params })),
        () =>
          world.channels.update(
            acme.ctx,
            given<typeof updateChannel>({ params, body: { name: 'x' } }),
          ),
        () => world.channels.delete(acme.ctx, given<typeof deleteChannel>({ params })),
        () => world.channels.rotateSecret(acme.ctx, given<typeof rotateChannelSecret>({ params })),
        () => world.tests.test(acme.ctx, given({ params })),
      ]) {
        await expect(call()).rejects.toMatchObject({ code: 'not_found', detail: undefined });
      }
      for (const call of [
        () => acme.subscribe([own.id, id]),
        () =>
          world.subscriptions.update(
            acme.ctx,
            given<typeof updateSubscription>({
              params: { id: subscription.id },
              body: { channelIds: [own.id, id] as never },
            }),
          ),
      ]) {
        await expect(call()).rejects.toMatchObject({
          code: 'invalid_request',
          errors: [{ in: 'body', path: '/channelIds/1', message: 'there is no such channel' }],
        });
      }
    }
    const list = await world.channels.list(
      acme.ctx,
      given<typeof listChannels>({ query: { limit: 50, sort: 'createdAt' } }),
    );
    expect(list.items.map(({ id }) => id)).toEqual([own.id]);
  });

  it('is listed, filtered and sorted by what its rows show, page by page', async () => {
    const acme = await newOrganization(world);
    for (const name of ['c', 'a', 'e', 'b', 'd']) await acme.webhook(name);
    await acme.channel({ kind: 'email', name: 'mail', config: { to: [acme.owner] } });
    for (const sort of [
      'name',
      '-name',
      'kind',
      'createdAt',
      'lastDeliveredAt',
      '-lastDeliveredAt',
    ]) {
      const names: string[] = [];
      for (let cursor: string | null | undefined; cursor !== null; ) {
        const page: Awaited<ReturnType<World['channels']['list']>> = await world.channels.list(
          acme.ctx,
          given<typeof listChannels>({ query: { limit: 2, sort, ...(cursor && { cursor }) } }),
        );
        names.push(...page.items.map(({ name }) => name));
        cursor = page.nextCursor;
      }
      expect([...names].sort()).toEqual(['a', 'b', 'c', 'd', 'e', 'mail']);
      if (sort === 'name') expect(names).toEqual([...names].sort());
    }
    const mails = await world.channels.list(
      acme.ctx,
      given<typeof listChannels>({ query: { limit: 50, sort: 'name', kind: ['email'] } }),
    );
    expect(mails.items.map(({ name }) => name)).toEqual(['mail']);
  });
});

describe('a subscription', () => {
  it('is changed as a whole and found by channel and event', async () => {
    const acme = await newOrganization(world);
    const [one, two] = [await acme.webhook('one'), await acme.webhook('two')];
    const made = await acme.subscribe([one.id], ['vault.offline'], ['env=production']);
    const changed = await world.subscriptions.update(
      acme.ctx,
      given<typeof updateSubscription>({
        params: { id: made.id },
        body: { channelIds: [two.id] as never, events: ['vault.recovered'], vaultTags: [] },
        ifMatch: made.etag,
      }),
    );
    expect(changed).toMatchObject({
      channelIds: [two.id],
      events: ['vault.recovered'],
      vaultTags: [],
    });
    const find = async (query: object) =>
      (
        await world.subscriptions.list(
          acme.ctx,
          given<typeof listSubscriptions>({ query: { limit: 50, sort: 'name', ...query } }),
        )
      ).items.length;
    expect(await find({ channelId: two.id })).toBe(1);
    expect(await find({ channelId: one.id })).toBe(0);
    expect(await find({ event: 'vault.recovered' })).toBe(1);
    expect(await find({ event: 'vault.offline' })).toBe(0);
  });
});

describe('deliveries', () => {
  it('are filtered by what their rows show, and a text that is no kind matches nothing', async () => {
    const acme = await newOrganization(world);
    const { id } = await acme.webhook('filtered');
    await acme.subscribe([id]);
    const [alert] = await raise(world, acme, [{}, { kind: 'vault.stopped' }]);
    await world.dispatcher.dispatch();
    const count = async (query: object) =>
      (
        await world.deliveries.list(
          acme.ctx,
          given<typeof listDeliveries>({ query: { limit: 50, sort: '-createdAt', ...query } }),
        )
      ).items.length;
    expect(await count({})).toBe(2);
    expect(await count({ kind: 'vault.stopped' })).toBe(1);
    expect(await count({ kind: 'no\u0000kind' })).toBe(0);
    expect(await count({ status: ['collecting'], channelId: id })).toBe(2);
    expect(await count({ status: ['dead'] })).toBe(0);
    expect(await count({ alertId: toId('alert', alert?.id ?? '') })).toBe(1);
    expect(await count({ since: new Date(Date.now() + 60_000).toISOString() })).toBe(0);
  });

  it('that are over are kept for ninety days', async () => {
    const acme = await newOrganization(world);
    const { id } = await acme.webhook('old');
    await acme.subscribe([id]);
    await raise(world, acme, [{}, { kind: 'vault.stopped' }]);
    await world.dispatcher.dispatch();
    await world.rows(async (transaction) => {
      await transaction.$executeRaw`
        update notification.delivery set status = 'delivered', created_at = created_at - interval '91 days'
        where organization_id = ${acme.organizationId}::uuid and kind = 'vault.offline'`;
      await transaction.$executeRaw`
        update notification.delivery set created_at = created_at - interval '91 days'
        where organization_id = ${acme.organizationId}::uuid and kind = 'vault.stopped'`;
    });
    await new ExpiredDeliveries(world.database).remove();
    expect((await deliveriesOf(world, acme)).map(({ kind }) => kind)).toEqual(['vault.stopped']);
  });
});
