/** Takes deliveries through their lanes: claim, render, send, record. */
import { setTimeout as sleep } from 'node:timers/promises';
import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { Database } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import { LOG } from '@keystead/service-runtime/messaging.module';
import { Inject, Injectable, type OnModuleDestroy } from '@nestjs/common';
import { CONFIG, type Config } from '../config.ts';
import { ChannelLanes } from '../delivery/channel-lanes.ts';
import { EmailSender } from '../delivery/email-sender.ts';
import { renderEmail, renderSlack, renderWebhook } from '../delivery/render.ts';
import type { SendOutcome } from '../delivery/send-outcome.ts';
import { SlackSender } from '../delivery/slack-sender.ts';
import { WebhookSender } from '../delivery/webhook-sender.ts';
import { NOTIFICATION_METRICS, type NotificationMetrics } from '../metrics.ts';
import { type Claim, DeliveryLedger, type DueDelivery } from './delivery-ledger.ts';
import type { DeliveryKey } from './delivery-rows.ts';

/** What still runs when the service stops is given this long before it is cut off. */
const stopGraceMs = 2_000;
const pollMs = 50;

/** The senders of the three kinds of channels. */
@Injectable()
export class Senders {
  constructor(
    @Inject(WebhookSender) readonly webhook: WebhookSender,
    @Inject(SlackSender) readonly slack: SlackSender,
    @Inject(EmailSender) readonly email: EmailSender,
  ) {}
}

@Injectable()
export class DeliveryRunner implements OnModuleDestroy {
  readonly #stop = new AbortController();
  readonly #lanes: ChannelLanes;

  constructor(
    @Inject(DeliveryLedger) private readonly ledger: DeliveryLedger,
    @Inject(Senders) private readonly senders: Senders,
    @Inject(Database) private readonly database: Database,
    @Inject(CONFIG) private readonly config: Pick<Config, 'KEYSTEAD_PUBLIC_URL'>,
    @Inject(NOTIFICATION_METRICS) private readonly metrics: NotificationMetrics,
    @Inject(LOG) private readonly log: Logger,
  ) {
    this.#lanes = new ChannelLanes({
      perChannel: limits.deliveriesInFlightPerChannel,
      overall: limits.deliveriesInFlight,
      perOrganization: Math.floor(limits.deliveriesInFlight / 8),
      suspect: Math.floor((limits.deliveriesInFlight * 3) / 4),
      suspectPerOrganization: 2,
      waitingPerChannel: 2 * limits.deliveriesInFlightPerChannel,
      waiting: 10_000,
      slowAfterMs: 3_000,
      onError: (error) => this.log.error({ err: error }, 'a delivery could not be recorded'),
    });
  }

  /** Puts a due delivery into its channel's lane. What finds no room comes again. */
  offer({ organizationId, id, channelId }: DueDelivery): void {
    this.#lanes.offer({
      id,
      channelId,
      organizationId,
      run: () => this.#run({ organizationId, id }),
    });
  }

  /** Attempts as soon as the lane has room, and returns when it is over or the time is up. */
  async runNow(due: DueDelivery, withinMs: number): Promise<void> {
    const { organizationId, id, channelId } = due;
    const deadlineMs = performance.now() + withinMs;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, withinMs);
      const over = () => {
        clearTimeout(timer);
        resolve();
      };
      const run = () => this.#run({ organizationId, id }).finally(over);
      if (this.#lanes.offer({ id, channelId, organizationId, run }) !== 'taken') over();
    });
    // Another may have been quicker to take it up.
    while (performance.now() < deadlineMs && (await this.#isUnderWay(due))) await sleep(pollMs);
  }

  async #isUnderWay({ organizationId, id }: DeliveryKey): Promise<boolean> {
    const row = await this.database.withTenant({ organizationId }, (transaction) =>
      transaction.delivery.findUnique({
        where: { organizationId_id: { organizationId, id } },
        select: { status: true },
      }),
    );
    return row?.status === 'pending';
  }

  /** @returns whether the receiver is well */
  async #run(key: DeliveryKey): Promise<boolean> {
    const claim = await this.ledger.claim(key).catch(async (error: unknown) => {
      await this.ledger.postpone(key);
      throw error;
    });
    if (!claim) return true;
    const startedMs = performance.now();
    const outcome =
      'refusal' in claim.work ? claim.work.refusal : await this.#send(claim, claim.work, startedMs);
    await this.ledger.finish(claim, outcome);
    this.#measure(claim, outcome);
    return outcome.result === 'delivered' || outcome.blame === 'installation';
  }

  async #send(
    claim: Claim,
    { address, message }: Exclude<Claim['work'], { refusal: SendOutcome }>,
    startedMs: number,
  ): Promise<SendOutcome> {
    const id = toId('delivery', claim.id);
    const organizationId = toId('organization', claim.organizationId);
    const options = { publicUrl: this.config.KEYSTEAD_PUBLIC_URL };
    const { signal } = this.#stop;
    try {
      switch (address.kind) {
        case 'email': {
          const mail = renderEmail(message, options);
          return await this.senders.email.send({ id, to: address.to, ...mail, signal });
        }
        case 'slack': {
          const slack = renderSlack(message, options);
          const { url } = address;
          return await this.senders.slack.send({ organizationId, url, message: slack, signal });
        }
        case 'webhook': {
          const body = Buffer.from(renderWebhook(message));
          const { url, secrets } = address;
          return await this.senders.webhook.send({
            id,
            organizationId,
            url,
            secrets,
            body,
            signal,
          });
        }
      }
    } catch (error) {
      // A sender throws only by a fault of ours: it is logged, and tried again like an outage.
      this.log.error({ err: error, delivery: id }, 'a sender failed');
      return {
        result: 'temporary',
        reason: 'internal',
        detail: 'something went wrong on our side',
        blame: 'installation',
        durationMs: performance.now() - startedMs,
      };
    }
  }

  #measure(claim: Claim, outcome: SendOutcome): void {
    const { channelKind: channel, openedAt } = claim;
    this.metrics.attempts.inc({ channel, outcome: outcome.result });
    this.metrics.attemptSeconds.observe({ channel }, outcome.durationMs / 1_000);
    if (outcome.result === 'delivered' && openedAt) {
      const seconds = (Date.now() - openedAt.getTime()) / 1_000;
      this.metrics.handOverSeconds.observe({ channel }, Math.max(0, seconds));
    }
  }

  async onModuleDestroy(): Promise<void> {
    const closed = this.#lanes.close();
    await Promise.race([closed, sleep(stopGraceMs, undefined, { ref: false })]);
    this.#stop.abort();
    await closed;
    this.senders.email.close();
  }
}
