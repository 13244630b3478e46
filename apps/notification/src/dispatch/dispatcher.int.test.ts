import { newUuid } from '@keystead/contracts/ids';
import type { updateChannel } from '@keystead/contracts/notification';
import { enqueue } from '@keystead/database/outbox';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  deliveriesOf,
  given,
  newOrganization,
  raise,
  startWorld,
  uuidOf,
  type World,
} from '../notification.fixture.ts';

let world: World;
beforeAll(async () => {
  world = await startWorld();
});
afterAll(() => world.stop());

const waiting = (organizationId: string) =>
  world.rows((transaction) => transaction.outbox.count({ where: { organizationId } }));

describe('dispatching', () => {
  it('makes one delivery of 200 alerts of one kind, held back for the group wait', async () => {
    const acme = await newOrganization(world);
    const channel = await acme.webhook('group');
    await acme.subscribe([channel.id]);
    await raise(
      world,
      acme,
      Array.from({ length: 120 }, () => ({})),
    );
    await world.dispatcher.dispatch();
    await raise(
      world,
      acme,
      Array.from({ length: 80 }, () => ({})),
    );
    await world.dispatcher.dispatch();
    await world.dispatcher.closeGroups();
    const [delivery, ...others] = await deliveriesOf(world, acme);
    expect(others).toEqual([]);
    expect(delivery).toMatchObject({ status: 'collecting', kind: 'vault.offline' });
    expect(delivery?.alerts).toHaveLength(200);
    const waitMs = (delivery?.nextAttemptAt?.getTime() ?? 0) - (delivery?.createdAt.getTime() ?? 0);
    expect(waitMs).toBeGreaterThan(9_000);
    expect(waitMs).toBeLessThan(11_000);
    await world.letTimePass(11);
    await world.dispatcher.closeGroups();
    expect((await deliveriesOf(world, acme))[0]?.status).toBe('pending');
    expect(await waiting(acme.organizationId)).toBe(0);
  });

  it('tells each channel of each alert once, with four dispatchers at once', async () => {
    const acme = await newOrganization(world);
    const channels = await Promise.all([acme.webhook('one'), acme.webhook('two')]);
    await acme.subscribe(channels.map(({ id }) => id));
    await acme.subscribe([channels[0]?.id ?? '']);
    const raised = await raise(
      world,
      acme,
      Array.from({ length: 1_200 }, () => ({})),
    );
    const replicas = [
      world,
      world.anotherReplica(),
      world.anotherReplica(),
      world.anotherReplica(),
    ];
    for (let round = 0; round < 4; round += 1) {
      await Promise.all(replicas.map(({ dispatcher }) => dispatcher.dispatch()));
      await world.letTimePass(4);
      await Promise.all(replicas.map(({ dispatcher }) => dispatcher.closeGroups()));
    }
    const deliveries = await deliveriesOf(world, acme);
    for (const channel of channels) {
      const told = deliveries
        .filter(({ channelId }) => channelId === uuidOf(channel.id))
        .flatMap(({ alerts }) => alerts.map(({ alertId }) => alertId));
      expect(told.sort()).toEqual(raised.map(({ id }) => id).sort());
    }
  });

  it('tells two hundred channels of five hundred vaults at once', async () => {
    const acme = await newOrganization(world);
    const channels: string[] = [];
    for (let index = 0; index < 200; index += 1)
      channels.push((await acme.webhook(`c${index}`)).id);
    for (let index = 0; index < 200; index += 20)
      await acme.subscribe(channels.slice(index, index + 20));
    await raise(
      world,
      acme,
      Array.from({ length: 500 }, () => ({})),
    );
    await world.dispatcher.dispatch();
    await world.letTimePass(11);
    await world.dispatcher.closeGroups();
    const counts = await world.rows((transaction) =>
      transaction.deliveryAlert.groupBy({
        by: ['deliveryId'],
        where: { organizationId: acme.organizationId },
        _count: true,
      }),
    );
    expect(counts).toHaveLength(200);
    expect(counts.every(({ _count }) => _count === 500)).toBe(true);
  });

  it('leaves out what a wider alert has overtaken before it was told', async () => {
    const acme = await newOrganization(world);
    const channel = await acme.webhook('overtaken');
    await acme.subscribe([channel.id]);
    const [degraded] = await raise(world, acme, [{ kind: 'vault.degraded' }]);
    await world.dispatcher.dispatch();
    await world.rows(async (transaction) => {
      const { organizationId } = acme;
      await transaction.alert.update({
        where: { organizationId_id: { organizationId, id: degraded?.id ?? '' } },
        data: { status: 'resolved' },
      });
    });
    const [wider] = await raise(world, acme, [
      { kind: 'vault.offline', vaultId: degraded?.vaultId ?? '' },
    ]);
    await world.rows((transaction) =>
      transaction.alert.update({
        where: {
          organizationId_id: { organizationId: acme.organizationId, id: degraded?.id ?? '' },
        },
        data: { supersededById: wider?.id ?? null },
      }),
    );
    await world.dispatcher.dispatch();
    await world.letTimePass(11);
    await world.dispatcher.closeGroups();
    const deliveries = await deliveriesOf(world, acme);
    expect(deliveries.map(({ kind, status }) => [kind, status]).sort()).toEqual([
      ['vault.degraded', 'suppressed'],
      ['vault.offline', 'pending'],
    ]);
  });

  it('tells nobody of a restart: what was stopped runs again within the group wait', async () => {
    const acme = await newOrganization(world);
    const channel = await acme.webhook('restarted');
    await acme.subscribe([channel.id]);
    const [stopped] = await raise(world, acme, [{ kind: 'vault.stopped' }]);
    await world.dispatcher.dispatch();
    await world.rows((transaction) =>
      transaction.alert.update({
        where: {
          organizationId_id: { organizationId: acme.organizationId, id: stopped?.id ?? '' },
        },
        data: { status: 'resolved' },
      }),
    );
    await world.letTimePass(11);
    await world.dispatcher.closeGroups();
    expect(await deliveriesOf(world, acme)).toMatchObject([{ status: 'suppressed' }]);
  });

  it('keeps a row it cannot read aside, and goes on with the others', async () => {
    const acme = await newOrganization(world);
    const channel = await acme.webhook('readable');
    await acme.subscribe([channel.id]);
    await world.rows((transaction) =>
      transaction.outbox.create({
        data: {
          organizationId: acme.organizationId,
          topic: 'alert.raised',
          payload: { of: 'a newer release' },
        },
      }),
    );
    await raise(world, acme, [{}]);
    await world.dispatcher.dispatch();
    expect(await deliveriesOf(world, acme)).toHaveLength(1);
    expect(await waiting(acme.organizationId)).toBe(1);
  });

  it('still tells a degraded vault to those who hear of nothing wider', async () => {
    const acme = await newOrganization(world);
    const channel = await acme.webhook('degraded-only');
    await acme.subscribe([channel.id], ['vault.degraded']);
    const [degraded] = await raise(world, acme, [{ kind: 'vault.degraded' }]);
    await world.rows((transaction) =>
      transaction.alert.update({
        where: {
          organizationId_id: { organizationId: acme.organizationId, id: degraded?.id ?? '' },
        },
        data: { supersededById: newUuid(), status: 'resolved' },
      }),
    );
    await world.dispatcher.dispatch();
    await world.letTimePass(11);
    await world.dispatcher.closeGroups();
    expect(await deliveriesOf(world, acme)).toMatchObject([
      { kind: 'vault.degraded', status: 'pending' },
    ]);
  });

  it('records muted alerts as suppressed and sends none of them, muted before or meanwhile', async () => {
    const acme = await newOrganization(world);
    const channel = await acme.webhook('muted');
    await acme.subscribe([channel.id]);
    const mutedUntil = new Date(Date.now() + 3_600_000);
    const [muted, meanwhile, loud] = await raise(world, acme, [{ mutedUntil }, {}, {}]);
    await world.dispatcher.dispatch();
    await world.rows((transaction) =>
      transaction.alert.update({
        where: {
          organizationId_id: { organizationId: acme.organizationId, id: meanwhile?.id ?? '' },
        },
        data: { mutedUntil },
      }),
    );
    await world.letTimePass(11);
    await world.dispatcher.closeGroups();
    const told = (await deliveriesOf(world, acme)).map(({ status, alerts }) => [
      status,
      alerts.map(({ alertId }) => alertId),
    ]);
    expect(told).toHaveLength(3);
    expect(told).toContainEqual(['pending', [loud?.id]]);
    expect(told).toContainEqual(['suppressed', [muted?.id]]);
    expect(told).toContainEqual(['suppressed', [meanwhile?.id]]);
  });

  it('tells nobody of another organization, of a disabled subscription, or of a disabled channel', async () => {
    const [acme, beta] = [await newOrganization(world), await newOrganization(world)];
    const channel = await acme.webhook('own');
    await acme.subscribe([channel.id]);
    await beta.subscribe([(await beta.webhook('foreign')).id]);
    await world.channels.update(
      acme.ctx,
      given<typeof updateChannel>({ params: { id: channel.id }, body: { enabled: false } }),
    );
    await raise(world, acme, [{}]);
    await world.dispatcher.dispatch();
    expect(await deliveriesOf(world, acme)).toEqual([]);
    expect(await deliveriesOf(world, beta)).toEqual([]);
    expect(await waiting(acme.organizationId)).toBe(0);
  });

  it('forgets an alert that is gone rather than stumble over it for ever', async () => {
    const acme = await newOrganization(world);
    await world.rows((transaction) =>
      enqueue(transaction, acme.organizationId, 'alert.raised', { alertId: newUuid() }),
    );
    await world.dispatcher.dispatch();
    expect(await waiting(acme.organizationId)).toBe(0);
  });
});
