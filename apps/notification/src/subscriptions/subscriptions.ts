/** Subscriptions: which events of which vaults are told to which channels. */
import { differences } from '@keystead/access/audit';
import { asDate, Listing } from '@keystead/access/listing';
import { checkMatch, etagOf } from '@keystead/access/precondition';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import {
  createSubscription,
  deleteSubscription,
  type getSubscription,
  listSubscriptions,
  updateSubscription,
} from '@keystead/contracts/notification';
import type { Input, Output } from '@keystead/contracts/operation';
import type { Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { lockCollection } from '../channels/channels.ts';

type Shown = Output<typeof getSubscription>;
const withChannels = {
  channels: { select: { channelId: true }, orderBy: { channelId: 'asc' } },
} as const;

@Injectable()
export class Subscriptions {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listSubscriptions>,
  ): Promise<Output<typeof listSubscriptions>> {
    const { query } = input;
    const { organizationId } = ctx;
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listSubscriptions.id, query, {
        fields: { createdAt: { read: asDate }, name: {} },
        where: {
          organizationId,
          ...(query.channelId && {
            channels: { some: { channelId: toUuid('channel', query.channelId) } },
          }),
          ...(query.event && { events: { has: query.event } }),
        },
        fetch: (page) => transaction.subscription.findMany({ ...page, include: withChannels }),
        valueOf: (row, sort) => row[sort as 'createdAt' | 'name'],
        idOf: ({ id }) => id,
        toItem: toSubscription,
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getSubscription>): Promise<Shown> {
    return this.work.read(ctx, async (transaction) =>
      toSubscription(await findSubscription(transaction, ctx, input.params.id)),
    );
  }

  async create(ctx: TenantCtx, input: Input<typeof createSubscription>): Promise<Shown> {
    const { organizationId } = ctx;
    const { channelIds, ...body } = input.body;
    return this.work.write(ctx, createSubscription, input, async (transaction, note) => {
      await lockCollection(transaction, organizationId, 'subscriptions');
      const count = await transaction.subscription.count({ where: { organizationId } });
      if (count >= limits.subscriptionsPerOrganization) {
        throw new ServiceError('limit_reached', {
          detail: `an organization has at most ${limits.subscriptionsPerOrganization} subscriptions`,
        });
      }
      const id = newUuid();
      await transaction.subscription.create({
        data: { organizationId, id, ...body, events: [...new Set(body.events)] },
      });
      await setChannels(transaction, ctx, id, channelIds);
      note({
        target: { kind: 'subscription', id: toId('subscription', id), name: body.name },
        changes: { ...input.body },
      });
      return toSubscription(await findSubscription(transaction, ctx, toId('subscription', id)));
    });
  }

  async update(ctx: TenantCtx, input: Input<typeof updateSubscription>): Promise<Shown> {
    const { channelIds, ...body } = input.body;
    return this.work.write(ctx, updateSubscription, input, async (transaction, note) => {
      const before = await findSubscription(transaction, ctx, input.params.id, true);
      checkMatch(input.ifMatch, before.revision, false);
      const { organizationId, id } = before;
      const data = Object.fromEntries(
        Object.entries({ ...body, events: body.events && [...new Set(body.events)] }).filter(
          ([, value]) => value !== undefined,
        ),
      );
      await transaction.subscription.update({
        where: { organizationId_id: { organizationId, id } },
        data: { ...data, updatedAt: new Date(), revision: { increment: 1 } },
      });
      if (channelIds) await setChannels(transaction, ctx, id, channelIds);
      const after = toSubscription(await findSubscription(transaction, ctx, input.params.id));
      const { etag: _before, updatedAt: _at, ...was } = toSubscription(before);
      const { etag: _after, updatedAt: _now, ...is } = after;
      note({
        target: { kind: 'subscription', id: input.params.id, name: after.name },
        changes: differences(was, is),
      });
      return after;
    });
  }

  async delete(ctx: TenantCtx, input: Input<typeof deleteSubscription>): Promise<null> {
    return this.work.write(ctx, deleteSubscription, input, async (transaction, note) => {
      const { organizationId, id, name, revision } = await findSubscription(
        transaction,
        ctx,
        input.params.id,
        true,
      );
      checkMatch(input.ifMatch, revision, false);
      await transaction.subscription.delete({
        where: { organizationId_id: { organizationId, id } },
      });
      note({ target: { kind: 'subscription', id: input.params.id, name } });
      return null;
    });
  }
}

async function setChannels(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  subscriptionId: string,
  channelIds: readonly string[],
): Promise<void> {
  const ids = [...new Set(channelIds.map((id) => toUuid('channel', id)))];
  // Locked, so that none is deleted before this commits.
  const known = await transaction.$queryRaw<{ id: string }[]>`
    select id from notification.channel
    where organization_id = ${organizationId}::uuid and id = any(${ids}::uuid[]) for key share`;
  const knownIds = new Set(known.map(({ id }) => toId('channel', id) as string));
  const unknown = channelIds.findIndex((id) => !knownIds.has(id));
  if (unknown !== -1) {
    const path = `/channelIds/${unknown}`;
    throw new ServiceError('invalid_request', {
      detail: `body ${path}: there is no such channel`,
      errors: [{ in: 'body', path, message: 'there is no such channel' }],
    });
  }
  await transaction.subscriptionChannel.deleteMany({ where: { organizationId, subscriptionId } });
  await transaction.subscriptionChannel.createMany({
    data: ids.map((channelId) => ({ organizationId, subscriptionId, channelId })),
  });
}

async function findSubscription(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  publicId: string,
  forChange = false,
) {
  const id = toUuid('subscription', publicId);
  if (forChange) {
    await transaction.$queryRaw`
      select 1 from notification.subscription
      where organization_id = ${organizationId}::uuid and id = ${id}::uuid for update`;
  }
  const row = await transaction.subscription.findUnique({
    where: { organizationId_id: { organizationId, id } },
    include: withChannels,
  });
  if (!row) throw notFound();
  return row;
}

function toSubscription(row: Awaited<ReturnType<typeof findSubscription>>): Shown {
  return {
    id: toId('subscription', row.id),
    name: row.name,
    channelIds: row.channels.map(({ channelId }) => toId('channel', channelId)),
    events: row.events as Shown['events'],
    vaultTags: row.vaultTags,
    enabled: row.enabled,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
    etag: etagOf(row.revision),
  };
}
