/** The notification service in one process, over a database of its own and real receivers. */
import { randomBytes } from 'node:crypto';
import { Listing } from '@keystead/access/listing';
import { InstallationKey } from '@keystead/access/sealing';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toUuid } from '@keystead/contracts/ids';
import { type AlertKind, severityOf } from '@keystead/contracts/monitoring';
import type { createChannel, createSubscription } from '@keystead/contracts/notification';
import type { Input, Operation } from '@keystead/contracts/operation';
import { permissionsOf } from '@keystead/contracts/permissions';
import { Database, type Transaction } from '@keystead/database/database';
import { enqueue } from '@keystead/database/outbox';
import { createLog } from '@keystead/service-runtime/log';
import { Inbox } from '@keystead/test-control-plane/inbox/inbox';
import { createTestDatabase } from '@keystead/test-control-plane/test-database';
import { Registry } from 'prom-client';
import { ChannelSeals } from './channels/channel-seals.ts';
import { ChannelTests } from './channels/channel-tests.ts';
import { Channels } from './channels/channels.ts';
import { Deliveries } from './deliveries/deliveries.ts';
import { DeliveryLedger } from './deliveries/delivery-ledger.ts';
import { DeliveryRunner, Senders } from './deliveries/delivery-runner.ts';
import { AddressGuard, parseAllowList } from './delivery/address-guard.ts';
import { EmailSender, parseMailServer } from './delivery/email-sender.ts';
import { GuardedTransport } from './delivery/guarded-transport.ts';
import { SlackSender } from './delivery/slack-sender.ts';
import { WebhookSender } from './delivery/webhook-sender.ts';
import { Dispatcher } from './dispatch/dispatcher.ts';
import { MailPost } from './mails/mail-post.ts';
import { createMetrics } from './metrics.ts';
import { Subscriptions } from './subscriptions/subscriptions.ts';

export const publicUrl = 'https://keystead.test';
export const operators = ['operator@keystead.test'];

/** One replica of the service. */
export function startReplica(database: Database, key: InstallationKey, inbox: Inbox) {
  const config = { KEYSTEAD_PUBLIC_URL: publicUrl, KEYSTEAD_OPERATOR_EMAILS: operators };
  const log = createLog('notification', 'silent');
  const guard = new AddressGuard(parseAllowList('127.0.0.0/8'));
  const transport = new GuardedTransport({
    guard,
    resolveHost: async () => ['127.0.0.1'],
    timeoutMs: 8_000,
    answerKeepBytes: 1_024,
  });
  const email = new EmailSender({
    server: parseMailServer(inbox.smtpUrl),
    from: { name: 'Keystead', address: 'alerts@keystead.test' },
    timeoutMs: 3_000,
    answerKeepBytes: 1_024,
    connections: 4,
  });
  const work = new TenantWork(database, key);
  const listing = new Listing(key);
  const seals = new ChannelSeals(key);
  const ledger = new DeliveryLedger(database, seals);
  const senders = new Senders(new WebhookSender(transport), new SlackSender(transport), email);
  const metrics = createMetrics(new Registry());
  const runner = new DeliveryRunner(ledger, senders, database, config, metrics, log);
  const dispatcher = new Dispatcher(database);
  const mails = new MailPost(database, email, config, log);
  let nudges = 0;
  return {
    channels: new Channels(work, database, listing, seals, guard),
    tests: new ChannelTests(work, runner),
    subscriptions: new Subscriptions(work, listing),
    deliveries: new Deliveries(work, listing, { nudge: () => (nudges += 1) }),
    ledger,
    runner,
    dispatcher,
    mails,
    nudges: () => nudges,
    /** What the periodic job does, without the queue between. */
    async tick() {
      await dispatcher.dispatch();
      await dispatcher.closeGroups();
      const { deliveries } = await ledger.due();
      for (const delivery of deliveries) runner.offer(delivery);
    },
  };
}

export type World = Awaited<ReturnType<typeof startWorld>>;

export async function startWorld() {
  const urls = await createTestDatabase();
  const database = new Database({ ...urls, poolSize: 6 });
  const key = new InstallationKey(randomBytes(32));
  const inbox = await Inbox.start();
  const replica = startReplica(database, key, inbox);
  const rows = <T>(work: (transaction: Transaction) => Promise<T>) =>
    database.acrossTenants('deliver', work);
  return {
    ...replica,
    database,
    key,
    inbox,
    rows,
    anotherReplica: () => startReplica(database, key, inbox),
    async stop() {
      await replica.runner.onModuleDestroy();
      await inbox.stop();
      await database.close();
      await urls.drop();
    },
    /** As if so much time had passed for everything that waits. */
    async letTimePass(seconds: number) {
      await rows(async (transaction) => {
        await transaction.$executeRaw`
          update notification.delivery set
            next_attempt_at = next_attempt_at - ${seconds} * interval '1 second',
            lease_until = lease_until - ${seconds} * interval '1 second'`;
        await transaction.$executeRaw`
          update notification.channel
          set failing_since = failing_since - ${seconds} * interval '1 second'`;
        await transaction.$executeRaw`
          update messaging.outbox set available_at = available_at - ${seconds} * interval '1 second'`;
      });
    },
  };
}

export type Organization = Awaited<ReturnType<typeof newOrganization>>;

export async function newOrganization(world: World, name = `Acme ${newUuid().slice(-6)}`) {
  const organizationId = newUuid();
  const owner = `owner-${organizationId.slice(-12)}@acme.test`;
  await world.rows(async (transaction) => {
    const personId = newUuid();
    await transaction.organization.create({ data: { organizationId, name } });
    await transaction.person.create({ data: { id: personId, email: owner, name: 'Olive Owner' } });
    await transaction.member.create({
      data: {
        organizationId,
        id: newUuid(),
        personId,
        email: owner,
        name: 'Olive Owner',
        role: 'owner',
      },
    });
  });
  const ctx: TenantCtx = {
    organizationId,
    actor: { kind: 'person', id: `usr_${organizationId}`, name: 'Olive Owner' },
    role: 'owner',
    permissions: [...permissionsOf.owner],
    personId: null,
    credentialId: null,
    requestId: 'req_test',
    address: null,
    userAgent: null,
    idempotencyKey: null,
  };
  return {
    organizationId,
    name,
    owner,
    ctx,
    channel: (body: Input<typeof createChannel>['body']) =>
      world.channels.create(ctx, given<typeof createChannel>({ body })),
    webhook: (path: string) =>
      world.channels.create(
        ctx,
        given<typeof createChannel>({
          body: { kind: 'webhook', name: path, config: { url: world.inbox.webhookUrl(path) } },
        }),
      ),
    subscribe: (
      channelIds: string[],
      events: AlertKind[] = [
        'vault.offline',
        'vault.degraded',
        'vault.recovered',
        'vault.stopped',
        'agent.duplicated',
      ],
      vaultTags: string[] = [],
    ) =>
      world.subscriptions.create(
        ctx,
        given<typeof createSubscription>({
          body: {
            name: 'Everything',
            channelIds: channelIds as never,
            events,
            vaultTags,
            enabled: true,
          },
        }),
      ),
  };
}

export function given<O extends Operation>(input: {
  params?: Record<string, string>;
  query?: Input<O>['query'];
  body?: Input<O>['body'];
  ifMatch?: string;
}): Input<O> {
  return { params: {}, query: {}, body: {}, ifMatch: null, ...input } as Input<O>;
}

export interface NewAlert {
  kind?: AlertKind;
  vaultName?: string;
  vaultId?: string;
  tags?: string[];
  mutedUntil?: Date;
}

/** Alerts as monitoring raises them: rows and outbox rows in one transaction. */
export async function raise(
  world: Pick<World, 'rows'>,
  { organizationId }: { organizationId: string },
  alerts: NewAlert[],
): Promise<{ id: string; vaultId: string }[]> {
  return world.rows(async (transaction) => {
    const made = alerts.map((alert) => ({
      ...alert,
      id: newUuid(),
      isNew: alert.vaultId === undefined,
      vaultId: alert.vaultId ?? newUuid(),
      agentId: newUuid(),
    }));
    await transaction.vault.createMany({
      data: made
        .filter(({ isNew }) => isNew)
        .map(({ vaultId, vaultName, tags }) => ({
          organizationId,
          id: vaultId,
          name: vaultName ?? `vault-${vaultId.slice(-12)}`,
          tags: tags ?? [],
        })),
    });
    await transaction.alert.createMany({
      data: made.map(({ id, vaultId, kind = 'vault.offline', mutedUntil }) => ({
        organizationId,
        id,
        vaultId,
        kind,
        severity: severityOf[kind],
        severityRank: 0,
        status: kind === 'vault.recovered' ? 'resolved' : 'open',
        summary: '',
        openedAt: new Date(),
        silentSince: new Date(Date.now() - 270_000),
        outageSeconds: kind === 'vault.recovered' ? 725 : null,
        agentCount: 1,
        mutedUntil: mutedUntil ?? null,
      })),
    });
    await transaction.alertAgent.createMany({
      data: made.map(({ id, agentId }) => ({
        organizationId,
        alertId: id,
        agentId,
        agentName: 'web-1',
      })),
    });
    for (const { id } of made) {
      await enqueue(transaction, organizationId, 'alert.raised', { alertId: id });
    }
    return made.map(({ id, vaultId }) => ({ id, vaultId }));
  });
}

/** Deliveries of an organization as stored, oldest first. */
export function deliveriesOf(
  world: Pick<World, 'rows'>,
  { organizationId }: { organizationId: string },
) {
  return world.rows((transaction) =>
    transaction.delivery.findMany({
      where: { organizationId },
      orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
      include: { alerts: true, attempts: { orderBy: { number: 'asc' } } },
    }),
  );
}

export const uuidOf = (id: string) => toUuid('channel', id);
