import { networkInterfaces } from 'node:os';
import { AccessModule } from '@keystead/access/access.module';
import { limits } from '@keystead/contracts/limits';
import { Database } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import { MessagingModule } from '@keystead/service-runtime/messaging.module';
import { type DynamicModule, type INestMicroservice, Module } from '@nestjs/common';
import type { Registry } from 'prom-client';
import { ChannelSeals } from './channels/channel-seals.ts';
import { ChannelTests } from './channels/channel-tests.ts';
import { ChannelsBus } from './channels/channels.nats.ts';
import { Channels } from './channels/channels.ts';
import { CONFIG, type Config } from './config.ts';
import { DeliveriesBus } from './deliveries/deliveries.nats.ts';
import { Deliveries } from './deliveries/deliveries.ts';
import { DeliveryLedger } from './deliveries/delivery-ledger.ts';
import { DeliveryRunner, Senders } from './deliveries/delivery-runner.ts';
import { ExpiredDeliveries } from './deliveries/expired-deliveries.ts';
import { ExpiryJob } from './deliveries/expiry.job.ts';
import { AddressGuard } from './delivery/address-guard.ts';
import { EmailSender } from './delivery/email-sender.ts';
import { GuardedTransport } from './delivery/guarded-transport.ts';
import { hostResolver } from './delivery/host-resolver.ts';
import { SlackSender } from './delivery/slack-sender.ts';
import { WebhookSender } from './delivery/webhook-sender.ts';
import { DispatchJob } from './dispatch/dispatch.job.ts';
import { Dispatcher } from './dispatch/dispatcher.ts';
import { MailPost } from './mails/mail-post.ts';
import { createMetrics, NOTIFICATION_METRICS } from './metrics.ts';
import { SubscriptionsBus } from './subscriptions/subscriptions.nats.ts';
import { Subscriptions } from './subscriptions/subscriptions.ts';

/** A mail server may take its time; the lease of a delivery is longer still. */
const mailTimeoutMs = 2 * limits.deliveryTimeoutMs - 5_000;
const mailConnections = 8;

@Module({})
export class NotificationModule {
  static with(config: Config, log: Logger, registry: Registry): DynamicModule {
    const guard = new AddressGuard(config.KEYSTEAD_WEBHOOK_ALLOW, ownAddresses());
    const transport = new GuardedTransport({
      guard,
      resolveHost: hostResolver(),
      timeoutMs: limits.deliveryTimeoutMs,
      answerKeepBytes: limits.deliveryAnswerKeepBytes,
    });
    const email = new EmailSender({
      server: config.KEYSTEAD_SMTP_URL,
      from: config.KEYSTEAD_MAIL_FROM,
      timeoutMs: mailTimeoutMs,
      answerKeepBytes: limits.deliveryAnswerKeepBytes,
      connections: mailConnections,
    });
    return {
      module: NotificationModule,
      imports: [
        AccessModule.forRoot({
          serviceUrl: config.KEYSTEAD_SERVICE_DATABASE_URL,
          acrossUrl: config.KEYSTEAD_ACROSS_DATABASE_URL,
          installationKeyFile: config.KEYSTEAD_INSTALLATION_KEY_FILE,
          poolSize: config.KEYSTEAD_POOL_SIZE,
        }),
        MessagingModule.forRoot({ service: 'notification', environment: config }, log),
      ],
      controllers: [ChannelsBus, SubscriptionsBus, DeliveriesBus, DispatchJob],
      providers: [
        { provide: CONFIG, useValue: config },
        { provide: NOTIFICATION_METRICS, useValue: createMetrics(registry) },
        { provide: AddressGuard, useValue: guard },
        { provide: WebhookSender, useValue: new WebhookSender(transport) },
        { provide: SlackSender, useValue: new SlackSender(transport) },
        { provide: EmailSender, useValue: email },
        Senders,
        ChannelSeals,
        Channels,
        ChannelTests,
        Subscriptions,
        Deliveries,
        DeliveryLedger,
        DeliveryRunner,
        ExpiredDeliveries,
        ExpiryJob,
        Dispatcher,
        MailPost,
      ],
    };
  }
}

/** Also where it is public, this machine is none of the receivers. */
function ownAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap((all) =>
    (all ?? []).map(({ address }) => address),
  );
}

export const checks = (app: INestMicroservice) => [
  { name: 'postgresql', run: () => app.get(Database, { strict: false }).ping() },
];
