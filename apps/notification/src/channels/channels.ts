/** Channels: where alerts go. What a tenant enters is judged here, before it is kept. */
import { randomBytes } from 'node:crypto';
import { differences, writeAudit } from '@keystead/access/audit';
import { asDate, Listing } from '@keystead/access/listing';
import { checkMatch, etagOf } from '@keystead/access/precondition';
import { TenantWork } from '@keystead/access/tenant-work';
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId, toUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import {
  type confirmRecipient,
  createChannel,
  deleteChannel,
  type getChannel,
  listChannels,
  rotateChannelSecret,
  updateChannel,
} from '@keystead/contracts/notification';
import type { Input, Output } from '@keystead/contracts/operation';
import { Database, type Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { closeDeliveriesOf } from '../deliveries/delivery-rows.ts';
import { AddressGuard } from '../delivery/address-guard.ts';
import { generateWebhookSecret } from '../delivery/webhook-signature.ts';
import { type ChannelConfig, ChannelSeals } from './channel-seals.ts';
import { askForConfirmation, confirmedAmong, hashToken } from './recipients.ts';

const previousSecretValidMs = 24 * 3_600_000;

type ChannelRow = NonNullable<Awaited<ReturnType<Transaction['channel']['findUnique']>>>;
type Shown = Output<typeof getChannel>;

@Injectable()
export class Channels {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Database) private readonly database: Database,
    @Inject(Listing) private readonly listing: Listing,
    @Inject(ChannelSeals) private readonly seals: ChannelSeals,
    @Inject(AddressGuard) private readonly guard: AddressGuard,
  ) {}

  async list(
    ctx: TenantCtx,
    input: Input<typeof listChannels>,
  ): Promise<Output<typeof listChannels>> {
    const { query } = input;
    const { organizationId } = ctx;
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listChannels.id, query, {
        fields: {
          createdAt: { read: asDate },
          name: {},
          kind: {},
          lastDeliveredAt: { nullable: true, read: asDate },
          failingSince: { nullable: true, read: asDate },
          updatedAt: { read: asDate },
        },
        where: {
          organizationId,
          ...(query.kind && { kind: { in: query.kind } }),
          ...(query.enabled && { enabled: query.enabled === 'true' }),
        },
        fetch: async (page) => this.#shown(transaction, await transaction.channel.findMany(page)),
        valueOf: ({ row }, sort) => row[sort as 'createdAt' | 'name' | 'kind' | 'lastDeliveredAt'],
        idOf: ({ row }) => row.id,
        toItem: ({ shown }) => shown,
      }),
    );
  }

  async get(ctx: TenantCtx, input: Input<typeof getChannel>): Promise<Shown> {
    return this.work.read(ctx, async (transaction) =>
      this.#show(transaction, await findChannel(transaction, ctx, input.params.id)),
    );
  }

  async create(
    ctx: TenantCtx,
    input: Input<typeof createChannel>,
  ): Promise<Output<typeof createChannel>> {
    const { organizationId } = ctx;
    const { kind, name, config } = input.body;
    return this.work.write(ctx, createChannel, input, async (transaction, note) => {
      await lockCollection(transaction, organizationId, 'channels');
      if (
        (await transaction.channel.count({ where: { organizationId } })) >=
        limits.channelsPerOrganization
      ) {
        throw new ServiceError('limit_reached', {
          detail: `an organization has at most ${limits.channelsPerOrganization} channels`,
        });
      }
      const key = { organizationId, id: newUuid() };
      const kept = this.#judge(ctx, config);
      const secret =
        kind === 'webhook'
          ? generateWebhookSecret((bytes) => randomBytes(bytes.length))
          : undefined;
      const row = await transaction.channel.create({
        data: {
          ...key,
          kind,
          name,
          sealedConfig: this.seals.sealConfig(key, kept),
          sealedSecret: secret === undefined ? null : this.seals.sealSecret(key, secret),
        },
      });
      await this.#askRecipients(transaction, row, kept);
      note({ target: { kind: 'channel', id: toId('channel', row.id), name }, changes: { kind } });
      return { ...(await this.#show(transaction, row)), ...(secret !== undefined && { secret }) };
    });
  }

  async update(ctx: TenantCtx, input: Input<typeof updateChannel>): Promise<Shown> {
    const { body } = input;
    return this.work.write(ctx, updateChannel, input, async (transaction, note) => {
      const before = await findChannel(transaction, ctx, input.params.id, true);
      checkMatch(input.ifMatch, before.revision, false);
      const config = body.config && this.#changedConfig(ctx, before, body.config);
      const enabled = body.enabled ?? before.enabled;
      const readdressed = config !== undefined || (enabled && !before.enabled);
      const row = await transaction.channel.update({
        where: where(before),
        data: {
          ...(body.name !== undefined && { name: body.name }),
          ...(config && { sealedConfig: this.seals.sealConfig(before, config) }),
          enabled,
          disabledReason: enabled ? null : before.enabled ? 'by_operator' : before.disabledReason,
          // A new address, or the word that the old one was mended, starts with a clean slate.
          ...(readdressed && { failingSince: null }),
          updatedAt: new Date(),
          revision: { increment: 1 },
        },
      });
      if (config) await this.#askRecipients(transaction, row, config);
      if (before.enabled && !enabled)
        await closeDeliveriesOf(transaction, row, 'the channel was disabled');
      note({
        target: { kind: 'channel', id: input.params.id, name: row.name },
        changes: {
          ...differences(
            { name: before.name, enabled: before.enabled },
            { name: row.name, enabled },
          ),
          ...(config && { config: 'changed' }),
        },
      });
      return this.#show(transaction, row);
    });
  }

  async delete(ctx: TenantCtx, input: Input<typeof deleteChannel>): Promise<null> {
    return this.work.write(ctx, deleteChannel, input, async (transaction, note) => {
      const row = await findChannel(transaction, ctx, input.params.id, true);
      checkMatch(input.ifMatch, row.revision, false);
      await transaction.channel.delete({ where: where(row) });
      note({ target: { kind: 'channel', id: input.params.id, name: row.name } });
      return null;
    });
  }

  async rotateSecret(
    ctx: TenantCtx,
    input: Input<typeof rotateChannelSecret>,
  ): Promise<Output<typeof rotateChannelSecret>> {
    return this.work.write(ctx, rotateChannelSecret, input, async (transaction, note) => {
      const row = await findChannel(transaction, ctx, input.params.id, true);
      checkMatch(input.ifMatch, row.revision, false);
      if (row.kind !== 'webhook') {
        throw new ServiceError('unprocessable', { detail: 'only a webhook has a secret' });
      }
      const secret = generateWebhookSecret((bytes) => randomBytes(bytes.length));
      const previousValidUntil = new Date(Date.now() + previousSecretValidMs);
      await transaction.channel.update({
        where: where(row),
        data: {
          sealedSecret: this.seals.sealSecret(row, secret),
          sealedPrevious: row.sealedSecret,
          previousValidUntil,
          updatedAt: new Date(),
          revision: { increment: 1 },
        },
      });
      note({ target: { kind: 'channel', id: input.params.id, name: row.name } });
      return { secret, previousValidUntil: previousValidUntil.toISOString() };
    });
  }

  /** The owner of an address agrees; the token of the mail is the only credential. */
  async confirm(
    ctx: Ctx,
    input: Input<typeof confirmRecipient>,
  ): Promise<Output<typeof confirmRecipient>> {
    return this.database.acrossTenants('confirm-recipient', async (transaction) => {
      const found = await transaction.recipientConfirmation.findFirst({
        where: { tokenHash: hashToken(input.body.token) },
      });
      if (!found) throw notFound();
      const { organizationId, email } = found;
      if (found.confirmedAt) return { email };
      if (found.expiresAt <= new Date()) {
        throw new ServiceError('gone', { detail: 'the link has expired; ask for a new one' });
      }
      await transaction.recipientConfirmation.update({
        where: { organizationId_email: { organizationId, email } },
        data: { confirmedAt: new Date() },
      });
      await writeAudit(transaction, ctx, organizationId, 'channels.confirm', {
        target: { kind: 'recipient', id: email },
      });
      return { email };
    });
  }

  #judge(ctx: TenantCtx, config: { to: string[] } | { url: string }): ChannelConfig {
    if ('to' in config) return { to: [...new Set(config.to)] };
    const verdict = this.guard.judgeUrl(config.url, toId('organization', ctx.organizationId));
    if (!verdict.ok) {
      throw new ServiceError('invalid_request', {
        detail: `body /config/url: ${verdict.message}`,
        errors: [{ in: 'body', path: '/config/url', message: verdict.message }],
      });
    }
    return { url: verdict.url.href };
  }

  #changedConfig(
    ctx: TenantCtx,
    { kind }: ChannelRow,
    config: { to?: string[] | undefined; url?: string | undefined },
  ): ChannelConfig {
    const [wanted, other] = kind === 'email' ? (['to', 'url'] as const) : (['url', 'to'] as const);
    const wrong = (path: string, message: string) =>
      new ServiceError('invalid_request', {
        detail: `body ${path}: ${message}`,
        errors: [{ in: 'body', path, message }],
      });
    if (config[other] !== undefined)
      throw wrong(`/config/${other}`, `is not a field of a ${kind} channel`);
    if (config[wanted] === undefined) throw wrong('/config', `must have the field ${wanted}`);
    return this.#judge(ctx, config as { to: string[] } | { url: string });
  }

  async #askRecipients(transaction: Transaction, row: ChannelRow, config: ChannelConfig) {
    if (!config.to) return;
    await askForConfirmation(transaction, {
      organizationId: row.organizationId,
      channelName: row.name,
      emails: config.to,
      now: new Date(),
      newToken: () => randomBytes(32).toString('base64url'),
    });
  }

  async #show(transaction: Transaction, row: ChannelRow): Promise<Shown> {
    const [one] = await this.#shown(transaction, [row]);
    return (one as { shown: Shown }).shown;
  }

  async #shown(
    transaction: Transaction,
    rows: ChannelRow[],
  ): Promise<{ row: ChannelRow; shown: Shown }[]> {
    const configs = rows.map((row) => ({ row, config: this.seals.openConfig(row) }));
    const emails = [...new Set(configs.flatMap(({ config }) => config.to ?? []))];
    const [first] = rows;
    const confirmed = first
      ? await confirmedAmong(transaction, first.organizationId, emails)
      : new Set<string>();
    return configs.map(({ row, config }) => ({ row, shown: toChannel(row, config, confirmed) }));
  }
}

function toChannel(row: ChannelRow, config: ChannelConfig, confirmed: Set<string>): Shown {
  const { to, url } = config;
  return {
    id: toId('channel', row.id),
    kind: row.kind as Shown['kind'],
    name: row.name,
    config: {
      ...(to && { to, unconfirmed: to.filter((email) => !confirmed.has(email)) }),
      ...(url && { url: row.kind === 'slack' ? `${new URL(url).origin}/…` : url }),
    },
    enabled: row.enabled,
    disabledReason: row.disabledReason as Shown['disabledReason'],
    failingSince: row.failingSince?.toISOString() ?? null,
    lastDeliveredAt: row.lastDeliveredAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
    etag: etagOf(row.revision),
  };
}

const where = ({ organizationId, id }: ChannelRow) => ({
  organizationId_id: { organizationId, id },
});

/** @throws ServiceError `not_found`, the same for an absent and for a foreign channel */
export async function findChannel(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  publicId: string,
  forChange = false,
): Promise<ChannelRow> {
  const id = toUuid('channel', publicId);
  if (forChange) {
    await transaction.$queryRaw`
      select 1 from notification.channel
      where organization_id = ${organizationId}::uuid and id = ${id}::uuid for update`;
  }
  const row = await transaction.channel.findUnique({
    where: { organizationId_id: { organizationId, id } },
  });
  if (!row) throw notFound();
  return row;
}

/** Those who add to a bounded collection of one organization wait for each other. */
export async function lockCollection(
  transaction: Transaction,
  organizationId: string,
  collection: string,
): Promise<void> {
  await transaction.$executeRaw`
    select pg_advisory_xact_lock(hashtextextended(${`${organizationId}/${collection}`}, 0))`;
}
