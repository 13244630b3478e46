/**
 * The books of deliveries. An attempt begins with a lease on the delivery and an attempt row, and
 * ends with what came of it. Who dies in between leaves a lease that runs out, and an attempt that
 * the next one marks as interrupted. The receiver may then see the delivery twice, with one id.
 */
import { randomInt } from 'node:crypto';
import { writeAudit } from '@keystead/access/audit';
import type { Ctx } from '@keystead/contracts/context';
import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { enqueueMany } from '@keystead/database/outbox';
import { Inject, Injectable } from '@nestjs/common';
import { ChannelSeals } from '../channels/channel-seals.ts';
import { chargeMails, confirmedAmong } from '../channels/recipients.ts';
import type { Message } from '../delivery/message.ts';
import { attemptsMax, channelHealthAfter, nextAttempt } from '../delivery/next-attempt.ts';
import type { SendOutcome } from '../delivery/send-outcome.ts';
import { readMessage } from './delivery-message.ts';
import { closeDeliveriesOf, type DeliveryKey } from './delivery-rows.ts';

export type Address =
  | { kind: 'email'; to: string[] }
  | { kind: 'slack'; url: string }
  | { kind: 'webhook'; url: string; secrets: string[] };

export interface Claim extends DeliveryKey {
  channelId: string;
  channelKind: string;
  deliveryKind: string;
  /** Of the attempt row, never given twice. */
  number: number;
  /** Since the start or the last replay, from 1: what the schedule counts by. */
  attempt: number;
  openedAt: Date | undefined;
  /** What to send where, or why nothing is sent. */
  work: { address: Address; message: Message } | { refusal: SendOutcome };
}

export interface DueDelivery extends DeliveryKey {
  channelId: string;
}

interface ClaimedRow {
  kind: string;
  content: unknown;
  attemptCount: number;
  number: number;
  channelId: string;
  channelKind: string;
  channelName: string;
  enabled: boolean;
  sealedConfig: Uint8Array;
  sealedSecret: Uint8Array | null;
  sealedPrevious: Uint8Array | null;
  previousValidUntil: Date | null;
  organizationName: string;
}

/** Of one channel, at most this many are taken up at a time, so that none crowds the others out. */
const duePerChannel = 2 * limits.deliveriesInFlightPerChannel;
const dueMax = 2_000;

@Injectable()
export class DeliveryLedger {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(ChannelSeals) private readonly seals: ChannelSeals,
  ) {}

  /** What is to be attempted now, and in how many milliseconds the next thing falls due. */
  async due(): Promise<{ deliveries: DueDelivery[]; nextInMs: number | undefined }> {
    return this.database.acrossTenants('deliver', async (transaction) => {
      const rows = await transaction.$queryRaw<
        { organization_id: string; id: string; channel_id: string }[]
      >`
        select organization_id, id, channel_id from (
          select organization_id, id, channel_id, next_attempt_at,
            row_number() over (
              partition by organization_id, channel_id order by next_attempt_at, id
            ) as place
          from notification.delivery
          where status in ('pending', 'retrying') and next_attempt_at <= clock_timestamp()
            and (lease_until is null or lease_until < clock_timestamp())
        ) d
        where place <= ${duePerChannel} order by next_attempt_at limit ${dueMax}`;
      const [next] = await transaction.$queryRaw<{ in_ms: number | null }[]>`
        select (extract(epoch from min(next_attempt_at) - clock_timestamp()) * 1000)::float8 as in_ms
        from notification.delivery
        where status in ('collecting', 'pending', 'retrying')
          and next_attempt_at > clock_timestamp()`;
      return {
        deliveries: rows.map((row) => ({
          organizationId: row.organization_id,
          id: row.id,
          channelId: row.channel_id,
        })),
        nextInMs: next?.in_ms ?? undefined,
      };
    });
  }

  /** @returns undefined where it is not due, or another holds it */
  async claim(key: DeliveryKey): Promise<Claim | undefined> {
    const { organizationId, id } = key;
    return this.database.withTenant(key, async (transaction) => {
      const [row] = await transaction.$queryRaw<ClaimedRow[]>`
        with claimed as (
          update notification.delivery
          set lease_until = clock_timestamp() + ${limits.deliveryLeaseMs} * interval '1 millisecond',
            attempt_count = attempt_count + 1
          where organization_id = ${organizationId}::uuid and id = ${id}::uuid
            and status in ('pending', 'retrying') and next_attempt_at <= clock_timestamp()
            and (lease_until is null or lease_until < clock_timestamp())
          returning organization_id, id, channel_id, kind, content, attempt_count
        ), interrupted as (
          update notification.attempt a
          set outcome = 'interrupted', answer = 'the process that sent it ended before the answer',
            duration_ms = (extract(epoch from clock_timestamp() - a.started_at) * 1000)::int
          from claimed c
          where a.organization_id = c.organization_id and a.delivery_id = c.id and a.outcome is null
        ), begun as (
          insert into notification.attempt (organization_id, delivery_id, number, started_at)
          select c.organization_id, c.id, coalesce((
              select max(a.number) from notification.attempt a
              where a.organization_id = c.organization_id and a.delivery_id = c.id
            ), 0) + 1, clock_timestamp()
          from claimed c
          returning number
        )
        select c.kind, c.content, c.attempt_count as "attemptCount", b.number,
          h.id as "channelId", h.kind as "channelKind", h.name as "channelName", h.enabled,
          h.sealed_config as "sealedConfig", h.sealed_secret as "sealedSecret",
          h.sealed_previous as "sealedPrevious", h.previous_valid_until as "previousValidUntil",
          o.name as "organizationName"
        from claimed c
        cross join begun b
        join notification.channel h on h.organization_id = c.organization_id and h.id = c.channel_id
        join auth.organization o on o.organization_id = c.organization_id`;
      if (!row) return undefined;
      const channel = { ...row, organizationId, id: row.channelId };
      const about = {
        organization: { organizationId, name: row.organizationName },
        id,
        kind: row.kind,
        content: row.content,
        channel: { id: row.channelId, name: row.channelName, kind: row.channelKind },
      };
      const read = await readMessage(transaction, about, new Date());
      const claim = {
        organizationId,
        id,
        channelId: row.channelId,
        channelKind: row.channelKind,
        deliveryKind: row.kind,
        number: row.number,
        attempt: row.attemptCount,
        openedAt: read?.openedAt,
      };
      const isTest = row.kind === 'channel.test';
      if (!row.enabled && !isTest) return { ...claim, work: refuse('the channel is disabled') };
      if (!read) return { ...claim, work: refuse('what it was about is gone') };
      if (row.attemptCount > attemptsMax) {
        return { ...claim, work: refuse('it was interrupted too often') };
      }
      const address = await this.#address(transaction, channel);
      if ('refusal' in address) return { ...claim, work: address };
      return { ...claim, work: { address, message: read.message } };
    });
  }

  async #address(
    transaction: Transaction,
    channel: ClaimedRow & DeliveryKey,
  ): Promise<Address | { refusal: SendOutcome }> {
    const { organizationId, channelKind, content } = channel;
    const config = this.seals.openConfig(channel);
    if (channelKind !== 'email') {
      const url = config.url ?? '';
      return channelKind === 'slack'
        ? { kind: 'slack', url }
        : { kind: 'webhook', url, secrets: this.seals.openSecrets(channel, new Date()) };
    }
    const { remaining } = (content ?? {}) as { remaining?: string[] };
    const wanted = (config.to ?? []).filter((email) => remaining?.includes(email) ?? true);
    const confirmed = await confirmedAmong(transaction, organizationId, wanted);
    const to = wanted.filter((email) => confirmed.has(email));
    if (to.length === 0) return refuse('no recipient of the channel has confirmed the address');
    if (!(await chargeMails(transaction, organizationId, 'mails', to.length))) {
      return {
        refusal: {
          result: 'temporary',
          reason: 'quota',
          detail: `the quota of ${limits.mailsPerOrganizationPerHour} mails an hour is used up`,
          blame: 'installation',
          retryAfterMs: 3_600_000 - (Date.now() % 3_600_000),
          durationMs: 0,
        },
      };
    }
    return { kind: 'email', to };
  }

  /** What could not even be claimed, by a fault of ours, waits for the time of a lease. */
  async postpone({ organizationId, id }: DeliveryKey): Promise<void> {
    await this.database.withTenant(
      { organizationId },
      (transaction) => transaction.$executeRaw`
        update notification.delivery
        set lease_until = clock_timestamp() + ${limits.deliveryLeaseMs} * interval '1 millisecond'
        where organization_id = ${organizationId}::uuid and id = ${id}::uuid
          and (lease_until is null or lease_until < clock_timestamp())`,
    );
  }

  /** @returns whether the claim still held */
  async finish(claim: Claim, outcome: SendOutcome): Promise<boolean> {
    const { organizationId, id } = claim;
    return this.database.withTenant(claim, async (transaction) => {
      const { status, inMs } = this.#next(claim, outcome);
      const remaining =
        outcome.result === 'delivered' && status === 'retrying'
          ? (outcome.undelivered ?? [])
              .filter(({ permanent }) => !permanent)
              .map(({ address }) => address)
          : undefined;
      const stopped = isStopped(outcome);
      const held = await transaction.$executeRaw`
        with ended as (
          update notification.attempt
          set outcome = ${stopped ? 'interrupted' : outcome.result},
            duration_ms = ${Math.round(outcome.durationMs)}::int,
            status_code = ${outcome.status ?? null}::int, answer = ${answerOf(outcome)}::text
          where organization_id = ${organizationId}::uuid and delivery_id = ${id}::uuid
            and number = ${claim.number} and outcome is null
        )
        update notification.delivery
        set status = ${status}, lease_until = null,
          next_attempt_at = clock_timestamp() + ${inMs}::float8 * interval '1 millisecond',
          delivered_at = case when ${status} = 'delivered' then clock_timestamp() end,
          attempt_count = case when ${stopped} then attempt_count - 1 else attempt_count end,
          content = coalesce(${remaining ? JSON.stringify({ remaining }) : null}::jsonb, content)
        where organization_id = ${organizationId}::uuid and id = ${id}::uuid
          and attempt_count = ${claim.attempt} and status in ('pending', 'retrying')`;
      // Who comes back after the lease ran out has lost its say.
      if (held === 1) await this.#judgeChannel(transaction, claim, outcome);
      return held === 1;
    });
  }

  #next(claim: Claim, outcome: SendOutcome): { status: string; inMs: number | null } {
    if (isStopped(outcome)) return { status: 'retrying', inMs: 0 };
    if (claim.deliveryKind === 'channel.test') {
      return { status: outcome.result === 'delivered' ? 'delivered' : 'dead', inMs: null };
    }
    const next = nextAttempt(outcome, claim.attempt, randomInt(2 ** 32) / 2 ** 32);
    if (next.next === 'retry') return { status: 'retrying', inMs: next.inMs };
    const done = next.next === 'done' || outcome.result === 'delivered';
    return { status: done ? 'delivered' : 'dead', inMs: null };
  }

  async #judgeChannel(transaction: Transaction, claim: Claim, outcome: SendOutcome): Promise<void> {
    const { organizationId, channelId } = claim;
    if (outcome.result === 'delivered') {
      await transaction.$executeRaw`
        update notification.channel
        set failing_since = null, last_delivered_at = clock_timestamp()
        where organization_id = ${organizationId}::uuid and id = ${channelId}::uuid`;
      return;
    }
    // A test of a receiver that is being set up starts no count of failures.
    if (claim.deliveryKind === 'channel.test') return;
    const [channel] = await transaction.$queryRaw<
      { name: string; enabled: boolean; failing_since: Date | null; now: Date }[]
    >`
      select name, enabled, failing_since, clock_timestamp() as now from notification.channel
      where organization_id = ${organizationId}::uuid and id = ${channelId}::uuid for update`;
    if (!channel) return;
    const verdict = channelHealthAfter(
      { failingSinceMs: channel.failing_since?.getTime() ?? null },
      outcome,
      channel.now.getTime(),
      limits.channelDisabledAfterSeconds * 1_000,
    );
    const failingSince = verdict.failingSinceMs === null ? null : new Date(verdict.failingSinceMs);
    const disable = channel.enabled ? verdict.disable : undefined;
    await transaction.channel.update({
      where: { organizationId_id: { organizationId, id: channelId } },
      data: {
        failingSince,
        ...(disable && {
          enabled: false,
          disabledReason: disable,
          updatedAt: channel.now,
          revision: { increment: 1 },
        }),
      },
    });
    if (!disable) return;
    await closeDeliveriesOf(
      transaction,
      { organizationId, id: channelId },
      'the channel was disabled',
    );
    await writeAudit(transaction, systemCtx(claim), organizationId, 'channels.disable', {
      target: { kind: 'channel', id: toId('channel', channelId), name: channel.name },
      changes: { reason: disable },
    });
    const organization = await transaction.organization.findUniqueOrThrow({
      where: { organizationId },
      select: { name: true },
    });
    const owners = await transaction.member.findMany({
      where: { organizationId, role: 'owner', personId: { not: null } },
      select: { email: true },
    });
    await enqueueMany(
      transaction,
      'mail.requested',
      owners.map(({ email }) => ({
        organizationId,
        payload: {
          template: 'channel.disabled' as const,
          to: email,
          data: {
            organizationName: organization.name,
            channelId: toId('channel', channelId),
            channelName: channel.name,
            reason: disable,
            failingSince: failingSince?.toISOString() ?? null,
            lastAnswer: answerOf(outcome) ?? null,
          },
        },
      })),
    );
  }
}

function refuse(detail: string): { refusal: SendOutcome } {
  return {
    refusal: {
      result: 'permanent',
      reason: 'not_sent',
      detail,
      blame: 'installation',
      durationMs: 0,
    },
  };
}

export function isStopped(outcome: SendOutcome): boolean {
  return outcome.result === 'temporary' && outcome.reason === 'stopped';
}

/** What is kept of an attempt: what went wrong, then the start of the answer. */
function answerOf(outcome: SendOutcome): string | null {
  const refused =
    outcome.result === 'delivered'
      ? (outcome.undelivered ?? []).map(({ address, answer }) => `${address}: ${answer}`).join('\n')
      : outcome.detail;
  const text = [refused, outcome.answer ?? ''].filter((part) => part !== '').join('\n');
  return text === ''
    ? null
    : text.replaceAll('\u0000', '').toWellFormed().slice(0, limits.deliveryAnswerKeepBytes);
}

function systemCtx({ organizationId, id }: Claim): Ctx {
  return {
    organizationId,
    actor: { kind: 'system', id: 'notification', name: 'Delivery of alerts' },
    role: null,
    permissions: [],
    personId: null,
    credentialId: null,
    requestId: toId('delivery', id),
    address: null,
    userAgent: null,
    idempotencyKey: null,
  };
}
