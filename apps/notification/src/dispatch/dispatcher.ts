/**
 * From alerts to deliveries. The outbox row of an alert is removed in the transaction that writes
 * who is told of it, so that however many dispatchers run and whenever one dies, each channel is
 * told of each alert once. Alerts of one kind for one channel collect for the group wait and then
 * leave as one message.
 */

import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { AlertKind } from '@keystead/contracts/monitoring';
import { Database, type Transaction } from '@keystead/database/database';
import { take } from '@keystead/database/outbox';
import { Inject, Injectable } from '@nestjs/common';
import { type Group, type RoutedAlert, type RoutingSubscription, route } from './routing.ts';

@Injectable()
export class Dispatcher {
  constructor(@Inject(Database) private readonly database: Database) {}

  /** Routes what waits in the outbox. Safe to run at any time, anywhere, at once. */
  async dispatch(): Promise<void> {
    for (let taken: number = limits.outboxBatch; taken === limits.outboxBatch; ) {
      taken = await this.database.acrossTenants('dispatch-alerts', async (transaction) => {
        const rows = await take(transaction, 'alert.raised');
        const keys = rows.flatMap(({ organizationId, payload }) =>
          organizationId === null ? [] : [{ organizationId, alertId: payload.alertId }],
        );
        await this.#route(transaction, keys);
        return rows.length;
      });
    }
  }

  async #route(
    transaction: Transaction,
    keys: readonly { organizationId: string; alertId: string }[],
  ): Promise<void> {
    if (keys.length === 0) return;
    const organizations = keys.map(({ organizationId }) => organizationId);
    const alerts = await transaction.$queryRaw<
      { organization_id: string; id: string; kind: AlertKind; tags: string[]; muted: boolean }[]
    >`
      select a.organization_id, a.id, a.kind, v.tags,
        coalesce(a.muted_until > clock_timestamp(), false) as muted
      from monitoring.alert a
      join unnest(${organizations}::uuid[], ${keys.map(({ alertId }) => alertId)}::uuid[])
        as k(organization_id, id) on a.organization_id = k.organization_id and a.id = k.id
      join registry.vault v on v.organization_id = a.organization_id and v.id = a.vault_id`;
    const subscriptions = await transaction.$queryRaw<
      { organization_id: string; events: string[]; vault_tags: string[]; channel_ids: string[] }[]
    >`
      select s.organization_id, s.events, s.vault_tags, array_agg(c.id::text) as channel_ids
      from notification.subscription s
      join notification.subscription_channel sc
        on sc.organization_id = s.organization_id and sc.subscription_id = s.id
      join notification.channel c
        on c.organization_id = sc.organization_id and c.id = sc.channel_id and c.enabled
      where s.organization_id = any(${[...new Set(organizations)]}::uuid[]) and s.enabled
      group by s.organization_id, s.id, s.events, s.vault_tags`;
    const groups = route(
      alerts.map(
        (row): RoutedAlert => ({
          organizationId: row.organization_id,
          id: row.id,
          kind: row.kind,
          vaultTags: row.tags,
          muted: row.muted,
        }),
      ),
      subscriptions.map(
        (row): RoutingSubscription => ({
          organizationId: row.organization_id,
          events: row.events,
          vaultTags: row.vault_tags,
          channelIds: row.channel_ids,
        }),
      ),
    );
    await this.#collect(transaction, groups);
  }

  async #collect(transaction: Transaction, groups: readonly Group[]): Promise<void> {
    const collected = groups.filter(({ suppressed }) => !suppressed);
    const suppressed = groups
      .filter((group) => group.suppressed)
      .map((group) => ({ ...group, deliveryId: newUuid() }));
    const open = await transaction.$queryRaw<
      { organization_id: string; channel_id: string; kind: string; id: string }[]
    >`
      insert into notification.delivery
        (organization_id, id, channel_id, kind, status, next_attempt_at)
      select k.organization_id, k.id, k.channel_id, k.kind, 'collecting',
        clock_timestamp() + ${limits.groupWaitMs} * interval '1 millisecond'
      from unnest(
        ${collected.map((group) => group.organizationId)}::uuid[],
        ${collected.map(() => newUuid())}::uuid[],
        ${collected.map((group) => group.channelId)}::uuid[],
        ${collected.map((group) => group.kind)}::text[]
      ) as k(organization_id, id, channel_id, kind)
      on conflict (organization_id, channel_id, kind) where status = 'collecting'
      do update set status = 'collecting'
      returning organization_id, channel_id, kind, id`;
    if (suppressed.length > 0) {
      await transaction.delivery.createMany({
        data: suppressed.map(({ organizationId, channelId, kind, deliveryId }) => ({
          organizationId,
          id: deliveryId,
          channelId,
          kind,
          status: 'suppressed',
        })),
      });
    }
    const key = (organizationId: string, channelId: string, kind: string) =>
      [organizationId, channelId, kind].join('/');
    const openIds = new Map(
      open.map((row) => [key(row.organization_id, row.channel_id, row.kind), row.id]),
    );
    const told = [
      ...collected.map((group) => ({
        ...group,
        deliveryId: openIds.get(key(group.organizationId, group.channelId, group.kind)) as string,
      })),
      ...suppressed,
    ].flatMap(({ organizationId, channelId, deliveryId, alertIds }) =>
      alertIds.map((alertId) => ({ organizationId, channelId, deliveryId, alertId })),
    );
    await transaction.$executeRaw`
      insert into notification.delivery_alert (organization_id, channel_id, alert_id, delivery_id)
      select * from unnest(
        ${told.map((one) => one.organizationId)}::uuid[],
        ${told.map((one) => one.channelId)}::uuid[],
        ${told.map((one) => one.alertId)}::uuid[],
        ${told.map((one) => one.deliveryId)}::uuid[]
      )
      on conflict do nothing`;
  }

  /**
   * Ends the collecting of groups whose wait is over. What a wider alert has overtaken meanwhile
   * (degraded, then offline) is left out, and so is what was muted meanwhile.
   */
  async closeGroups(): Promise<void> {
    for (let closed: number = limits.outboxBatch; closed === limits.outboxBatch; ) {
      closed = await this.database.acrossTenants('dispatch-alerts', async (transaction) => {
        const due = await transaction.$queryRaw<{ organization_id: string; id: string }[]>`
          select organization_id, id from notification.delivery
          where status = 'collecting' and next_attempt_at <= clock_timestamp()
          order by next_attempt_at limit ${limits.outboxBatch} for update skip locked`;
        if (due.length === 0) return 0;
        const organizations = due.map((row) => row.organization_id);
        const ids = due.map((row) => row.id);
        await this.#dropOvertaken(transaction, organizations, ids);
        await this.#setMutedApart(transaction, organizations, ids);
        await transaction.$executeRaw`
          update notification.delivery d
          set status = case when k.told then 'pending' else 'suppressed' end,
            next_attempt_at = case when k.told then clock_timestamp() end
          from (
            select x.organization_id, x.id, exists (
              select 1 from notification.delivery_alert t
              where t.organization_id = x.organization_id and t.delivery_id = x.id
            ) as told
            from unnest(${organizations}::uuid[], ${ids}::uuid[]) as x(organization_id, id)
          ) k
          where d.organization_id = k.organization_id and d.id = k.id`;
        return due.length;
      });
    }
  }

  async #dropOvertaken(transaction: Transaction, organizations: string[], ids: string[]) {
    await transaction.$executeRaw`
      delete from notification.delivery_alert t
      using monitoring.alert a,
        unnest(${organizations}::uuid[], ${ids}::uuid[]) as k(organization_id, id)
      where t.organization_id = k.organization_id and t.delivery_id = k.id
        and a.organization_id = t.organization_id and a.id = t.alert_id
        and (
          exists (
            select 1 from notification.delivery_alert wider
            where wider.organization_id = t.organization_id and wider.channel_id = t.channel_id
              and wider.alert_id = a.superseded_by_id
          )
          -- A restart: what was stopped runs again before anybody was told.
          or (a.kind = 'vault.stopped' and a.status = 'resolved')
        )`;
  }

  async #setMutedApart(transaction: Transaction, organizations: string[], ids: string[]) {
    const muted = await transaction.$queryRaw<
      {
        organization_id: string;
        delivery_id: string;
        channel_id: string;
        kind: string;
        alert_ids: string[];
      }[]
    >`
      select t.organization_id, t.delivery_id, t.channel_id, a.kind, array_agg(t.alert_id::text) as alert_ids
      from notification.delivery_alert t
      join unnest(${organizations}::uuid[], ${ids}::uuid[]) as k(organization_id, id)
        on t.organization_id = k.organization_id and t.delivery_id = k.id
      join monitoring.alert a on a.organization_id = t.organization_id and a.id = t.alert_id
      where a.muted_until > clock_timestamp()
      group by t.organization_id, t.delivery_id, t.channel_id, a.kind`;
    for (const row of muted) {
      const id = newUuid();
      await transaction.delivery.create({
        data: {
          organizationId: row.organization_id,
          id,
          channelId: row.channel_id,
          kind: row.kind,
          status: 'suppressed',
        },
      });
      await transaction.deliveryAlert.updateMany({
        where: {
          organizationId: row.organization_id,
          deliveryId: row.delivery_id,
          alertId: { in: row.alert_ids },
        },
        data: { deliveryId: id },
      });
    }
  }
}
