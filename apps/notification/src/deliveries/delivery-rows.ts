/** Delivery rows: how they are found, shown, made due again and given up. */
import { notFound } from '@keystead/contracts/errors';
import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { getDelivery } from '@keystead/contracts/notification';
import type { Output } from '@keystead/contracts/operation';
import type { Transaction } from '@keystead/database/database';

export interface DeliveryKey {
  organizationId: string;
  id: string;
}

export const shownWithDelivery = {
  channel: { select: { id: true, name: true, kind: true } },
  alerts: {
    select: { alertId: true },
    orderBy: { alertId: 'asc' },
    take: limits.deliveryAlertsMax,
  },
  attempts: { orderBy: { number: 'asc' } },
} as const;

/** @throws ServiceError `not_found` */
export async function findDelivery(transaction: Transaction, organizationId: string, id: string) {
  const row = await transaction.delivery.findUnique({
    where: { organizationId_id: { organizationId, id } },
    include: shownWithDelivery,
  });
  if (!row) throw notFound();
  return row;
}

type Shown = Output<typeof getDelivery>;

export function toDelivery(row: Awaited<ReturnType<typeof findDelivery>>): Shown {
  return {
    id: toId('delivery', row.id),
    channel: {
      id: toId('channel', row.channel.id),
      name: row.channel.name,
      kind: row.channel.kind as Shown['channel']['kind'],
    },
    kind: row.kind,
    alertIds: row.alerts.map(({ alertId }) => toId('alert', alertId)),
    status: row.status as Shown['status'],
    attempts: row.attempts
      // The one that runs now has no outcome yet.
      .filter(({ outcome }) => outcome !== null)
      .map((attempt) => ({
        number: attempt.number,
        startedAt: attempt.startedAt.toISOString(),
        durationMs: attempt.durationMs ?? 0,
        outcome: attempt.outcome as Shown['attempts'][number]['outcome'],
        statusCode: attempt.statusCode,
        answer: attempt.answer,
      })),
    createdAt: row.createdAt.toISOString(),
    nextAttemptAt: row.nextAttemptAt?.toISOString() ?? null,
    deliveredAt: row.deliveredAt?.toISOString() ?? null,
  };
}

/** The delivery starts again from its first attempt, with the same id. */
export async function makeDue(transaction: Transaction, key: DeliveryKey): Promise<void> {
  await transaction.$executeRaw`
    update notification.delivery
    set status = 'pending', attempt_count = 0, next_attempt_at = clock_timestamp(),
      lease_until = null, delivered_at = null
    where organization_id = ${key.organizationId}::uuid and id = ${key.id}::uuid`;
}

/** What still waits for a channel becomes dead letters, to be replayed once the channel works. */
export async function closeDeliveriesOf(
  transaction: Transaction,
  channel: DeliveryKey,
  why: string,
): Promise<void> {
  await transaction.$executeRaw`
    with closed as (
      update notification.delivery
      set status = 'dead', next_attempt_at = null, lease_until = null
      where organization_id = ${channel.organizationId}::uuid and channel_id = ${channel.id}::uuid
        and status in ('collecting', 'pending', 'retrying')
      returning organization_id, id
    )
    insert into notification.attempt
      (organization_id, delivery_id, number, started_at, duration_ms, outcome, answer)
    select c.organization_id, c.id,
      coalesce((
        select max(a.number) from notification.attempt a
        where a.organization_id = c.organization_id and a.delivery_id = c.id
      ), 0) + 1,
      clock_timestamp(), 0, 'permanent', ${why}
    from closed c`;
}
