/**
 * Paces the way of alerts: woken by a nudge, by a timer for the next thing that falls due, and,
 * should both be lost, by a periodic job. Due deliveries go through a queue, whose jobs carry ids
 * alone: any replica takes them up, and where Redis cannot carry them, this process does.
 */
import { limits } from '@keystead/contracts/limits';
import { OnNudge } from '@keystead/messaging/bus-handlers';
import { Jobs } from '@keystead/messaging/jobs';
import type { Logger } from '@keystead/service-runtime/log';
import { LOG } from '@keystead/service-runtime/messaging.module';
import {
  Controller,
  Inject,
  type OnApplicationBootstrap,
  type OnModuleDestroy,
} from '@nestjs/common';
import { DeliveryLedger, type DueDelivery } from '../deliveries/delivery-ledger.ts';
import { DeliveryRunner } from '../deliveries/delivery-runner.ts';
import { MailPost } from '../mails/mail-post.ts';
import { Dispatcher } from './dispatcher.ts';

/** As many reminders are taken up at once; each only joins its lane. */
const reminderConcurrency = 32;
const reminderRenewedMs = 5_000;

@Controller()
export class DispatchJob implements OnApplicationBootstrap, OnModuleDestroy {
  #runDispatch: () => void = () => undefined;
  #runMails: () => void = () => undefined;
  #remind: ((due: DueDelivery[]) => Promise<void>) | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject(Dispatcher) private readonly dispatcher: Dispatcher,
    @Inject(DeliveryLedger) private readonly ledger: DeliveryLedger,
    @Inject(DeliveryRunner) private readonly runner: DeliveryRunner,
    @Inject(MailPost) private readonly mails: MailPost,
    @Inject(LOG) private readonly log: Logger,
  ) {}

  onApplicationBootstrap(): void {
    const { remind } = this.jobs.reminders(
      'deliveries',
      reminderConcurrency,
      async (id, organizationId) => {
        const [deliveryId, channelId] = id.split('/');
        if (deliveryId && channelId)
          this.runner.offer({ organizationId, id: deliveryId, channelId });
      },
    );
    this.#remind = (due) =>
      remind(
        due.map(({ organizationId, id, channelId }) => ({
          // Renewed every few seconds: a job that died with its worker holds nothing up.
          key: `${id}-${Math.floor(Date.now() / reminderRenewedMs)}`,
          id: `${id}/${channelId}`,
          organizationId,
        })),
      );
    const periodMs = limits.reconcilePeriodMs;
    this.#runDispatch = this.jobs.every({
      name: 'dispatch',
      periodMs,
      work: () => this.run(),
    }).runNow;
    this.#runMails = this.jobs.every({
      name: 'mails',
      periodMs,
      work: () => this.mails.send(),
    }).runNow;
  }

  @OnNudge('notification')
  nudged(): void {
    this.#runDispatch();
    this.#runMails();
  }

  async run(): Promise<void> {
    await this.dispatcher.dispatch();
    await this.dispatcher.closeGroups();
    const { deliveries, nextInMs } = await this.ledger.due();
    if (deliveries.length > 0) await this.#hand(deliveries);
    if (nextInMs !== undefined && nextInMs < limits.groupWaitMs) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(this.#runDispatch, nextInMs + 5);
    }
  }

  async #hand(deliveries: DueDelivery[]): Promise<void> {
    try {
      await this.#remind?.(deliveries);
    } catch (error) {
      this.log.warn({ err: error }, 'the queue of deliveries is not there; sending without it');
      for (const delivery of deliveries) this.runner.offer(delivery);
    }
  }

  onModuleDestroy(): void {
    clearTimeout(this.#timer);
  }
}
