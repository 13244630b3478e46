/** Deliveries as people see them: listed with every attempt, and sent again. */
import { asDate, Listing } from '@keystead/access/listing';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { toUuid } from '@keystead/contracts/ids';
import { alertKinds } from '@keystead/contracts/monitoring';
import { type getDelivery, listDeliveries, replayDelivery } from '@keystead/contracts/notification';
import type { Input, Output } from '@keystead/contracts/operation';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { findDelivery, makeDue, shownWithDelivery, toDelivery } from './delivery-rows.ts';

const kinds: ReadonlySet<string> = new Set([...alertKinds, 'channel.test']);

@Injectable()
export class Deliveries {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listDeliveries>,
  ): Promise<Output<typeof listDeliveries>> {
    const { query } = input;
    const { organizationId } = ctx;
    const created = {
      ...(query.since && { gte: new Date(query.since) }),
      ...(query.until && { lt: new Date(query.until) }),
    };
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listDeliveries.id, query, {
        fields: {
          createdAt: { read: asDate },
          nextAttemptAt: { nullable: true, read: asDate },
          deliveredAt: { nullable: true, read: asDate },
          status: {},
          kind: {},
        },
        where: {
          organizationId,
          ...(query.status && { status: { in: query.status } }),
          ...(query.channelId && { channelId: toUuid('channel', query.channelId) }),
          ...(query.alertId && { alerts: { some: { alertId: toUuid('alert', query.alertId) } } }),
          // A text that is no kind matches nothing, and need not be one the database can store.
          ...(query.kind !== undefined && { kind: kinds.has(query.kind) ? query.kind : '' }),
          ...(Object.keys(created).length > 0 && { createdAt: created }),
        },
        fetch: (page) => transaction.delivery.findMany({ ...page, include: shownWithDelivery }),
        valueOf: (row, sort) =>
          row[sort as 'createdAt' | 'nextAttemptAt' | 'deliveredAt' | 'status'],
        idOf: ({ id }) => id,
        toItem: toDelivery,
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getDelivery>): Promise<Output<typeof getDelivery>> {
    const id = toUuid('delivery', input.params.id);
    return this.work.read(ctx, async (transaction) =>
      toDelivery(await findDelivery(transaction, ctx.organizationId, id)),
    );
  }

  async replay(
    ctx: TenantCtx,
    input: Input<typeof replayDelivery>,
  ): Promise<Output<typeof replayDelivery>> {
    const { organizationId } = ctx;
    const id = toUuid('delivery', input.params.id);
    const replayed = await this.work.write(
      ctx,
      replayDelivery,
      input,
      async (transaction, note) => {
        await transaction.$queryRaw`
        select 1 from notification.delivery
        where organization_id = ${organizationId}::uuid and id = ${id}::uuid for update`;
        const row = await findDelivery(transaction, organizationId, id);
        const { enabled } = await transaction.channel.findUniqueOrThrow({
          where: { organizationId_id: { organizationId, id: row.channelId } },
          select: { enabled: true },
        });
        if (!enabled) {
          throw new ServiceError('unprocessable', {
            detail: 'its channel is disabled: enable it first',
          });
        }
        if (row.status === 'collecting' || row.status === 'pending') {
          throw new ServiceError('conflict', { detail: 'it is on its way already' });
        }
        if (row.leaseUntil && row.leaseUntil > new Date()) {
          throw new ServiceError('conflict', { detail: 'it is being sent at this moment' });
        }
        await makeDue(transaction, { organizationId, id });
        note({
          target: { kind: 'delivery', id: input.params.id },
          changes: { status: { from: row.status, to: 'pending' } },
        });
        return toDelivery(await findDelivery(transaction, organizationId, id));
      },
    );
    this.bus.nudge('notification');
    return replayed;
  }
}
