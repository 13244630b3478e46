/**
 * The HTTP half over real PostgreSQL, Redis and NATS. In place of the services stands one that
 * verifies every call as they do, and answers what a test says.
 */
import { createPrivateKey, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newCredential } from '@keystead/access/credential';
import { signSessionToken } from '@keystead/access/session-token';
import { bytes } from '@keystead/access/tenant-work';
import { readLiveEvents } from '@keystead/contracts/agent-link';
import type { Ctx } from '@keystead/contracts/context';
import { ServiceError, toWireError } from '@keystead/contracts/errors';
import { newUuid } from '@keystead/contracts/ids';
import { inputSchema, type Operation, services } from '@keystead/contracts/operation';
import { operations } from '@keystead/contracts/operations';
import type { Role } from '@keystead/contracts/permissions';
import { Database } from '@keystead/database/database';
import { natsConnection } from '@keystead/messaging/bus-options';
import { readServiceKeys, verifyCall } from '@keystead/messaging/service-token';
import { createLog } from '@keystead/service-runtime/log';
import { startInfrastructure } from '@keystead/test-control-plane/infrastructure/infrastructure';
import { ensureInstallationKeys } from '@keystead/test-control-plane/installation/installation-keys';
import { createTestDatabase } from '@keystead/test-control-plane/test-database';
import { connect, type Msg } from '@nats-io/transport-node';
import { readConfig } from './config.ts';
import { runGateway } from './gateway.ts';

export type Answer = (operation: Operation, ctx: Ctx, input: Asked) => unknown;
export interface Asked {
  params: Record<string, string>;
  query: Record<string, unknown>;
  body: unknown;
  ifMatch: string | null;
}
/** Answers an internal call; which ones there are is told by their subjects. */
export type InternalAnswer = (input: never, ctx: Ctx) => unknown;

export type RestFixture = Awaited<ReturnType<typeof startRest>>;

export async function startRest(
  environment: Record<string, string> = {},
  options: { internal?: Record<string, InternalAnswer> } = {},
) {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-gateway-'));
  const testDatabase = await createTestDatabase();
  const servers = await startInfrastructure({
    stateDir: join(folder, 'servers'),
    purpose: 'test',
    servers: ['redis', 'nats'],
    useNamed: false,
  });
  const keys = ensureInstallationKeys(join(folder, 'keys'));
  const database = new Database({
    serviceUrl: testDatabase.serviceUrl,
    acrossUrl: testDatabase.acrossUrl,
    poolSize: 4,
  });
  const config = readConfig({
    KEYSTEAD_SERVICE_DATABASE_URL: testDatabase.serviceUrl,
    KEYSTEAD_ACROSS_DATABASE_URL: testDatabase.acrossUrl,
    KEYSTEAD_REDIS_URL: servers.redisUrl,
    KEYSTEAD_NATS_URL: servers.natsUrl('gateway'),
    KEYSTEAD_SIGNING_KEY_FILE: keys.signingKeyFile('gateway'),
    KEYSTEAD_PUBLIC_KEYS_DIR: keys.publicKeysFolder,
    KEYSTEAD_INSTALLATION_KEY_FILE: keys.installationKeyFile,
    KEYSTEAD_HTTP_PORT: '0',
    KEYSTEAD_GATEWAY_HALVES: 'rest',
    KEYSTEAD_REQUESTS_PER_MINUTE_PER_CALLER: '1000000',
    KEYSTEAD_REQUESTS_PER_MINUTE_PER_ADDRESS: '1000000',
    ...environment,
  });
  const gateway = await runGateway(config, createLog('gateway', 'silent'));
  const url = `http://127.0.0.1:${gateway.httpPort}`;

  // The services' stand-in.
  const refusedCalls: string[] = [];
  const answers: { perform: Answer; internal: Record<string, InternalAnswer> } = {
    perform: () => ({ items: [], nextCursor: null }),
    internal: {
      [readLiveEvents.subject]: ({ after }: { after: string | null }) => ({
        events: [],
        position: after ?? '10-0',
        missed: false,
      }),
      ...options.internal,
    },
  };
  const connection = await connect(
    natsConnection({ natsUrl: servers.natsUrl('monitoring'), service: 'monitoring' }),
  );
  const keysOf = new Map(
    services.map((name) => [
      name,
      readServiceKeys(name, keys.signingKeyFile(name), keys.publicKeysFolder),
    ]),
  );
  const respond = (message: Msg, answer: unknown) =>
    message.respond(JSON.stringify({ response: answer, isDisposed: true }));
  const verify = (message: Msg, service: Operation['service']) => {
    const serviceKeys = keysOf.get(service);
    if (!serviceKeys) throw new Error(`no keys of ${service}`);
    return verifyCall(serviceKeys, {
      subject: message.subject,
      payload: JSON.parse(message.string()).data,
      token: message.headers?.get('keystead-token') ?? '',
      callers: ['gateway'],
    });
  };
  const answer = async (message: Msg, service: Operation['service'], work: Work) => {
    try {
      const { ctx } = await verify(message, service);
      const payload = JSON.parse(JSON.parse(message.string()).data);
      respond(message, { result: await work(payload, ctx) });
    } catch (error) {
      respond(message, { error: toWireError(error) });
    }
  };
  for (const operation of operations) {
    const schema = inputSchema(operation);
    connection.subscribe(operation.subject, {
      callback: (_error, message) =>
        void answer(message, operation.service, (payload, ctx) => {
          // What the gateway let through, a service lets through, and reads as the same.
          const parsed = schema.safeParse(payload);
          if (!parsed.success || JSON.stringify(parsed.data) !== JSON.stringify(payload)) {
            refusedCalls.push(`${operation.id}: ${JSON.stringify(payload)}`);
          }
          return answers.perform(operation, ctx, payload as Asked);
        }),
    });
  }
  connection.subscribe('*.internal.*', {
    callback: (_error, message) => {
      const [service = ''] = message.subject.split('.');
      void answer(message, service as Operation['service'], (payload, ctx) => {
        const work = answers.internal[message.subject];
        if (!work) throw new ServiceError('unavailable');
        return work(payload as never, ctx);
      });
    },
  });
  await connection.flush();

  const authKey = createPrivateKey(readFileSync(keys.signingKeyFile('auth')));
  return {
    url,
    port: gateway.httpPort,
    gateway,
    database,
    servers,
    answers,
    refusedCalls,
    keys,
    nudge: (subject: string, payload: string) =>
      connection.publish(subject, JSON.stringify(payload)),
    /** A person of a new organization, signed in. */
    async signIn(role: Role = 'owner') {
      const organizationId = newUuid();
      const personId = newUuid();
      const memberId = newUuid();
      const sessionId = newUuid();
      const tenant = { organizationId };
      await database.withTenant(tenant, async (transaction) => {
        await transaction.organization.create({ data: { organizationId, name: 'Acme' } });
        const email = `${personId}@keystead.test`;
        await transaction.person.create({ data: { id: personId, email, name: 'Ann' } });
        await transaction.member.create({
          data: { organizationId, id: memberId, personId, email, name: 'Ann', role },
        });
        await transaction.session.create({
          data: {
            organizationId,
            id: sessionId,
            memberId,
            personId,
            refreshHash: bytes(randomBytes(32)),
            expiresAt: new Date(Date.now() + 3_600_000),
          },
        });
      });
      const claims = { personId, sessionId, organizationId };
      const { token } = await signSessionToken(authKey, claims, new Date());
      return { ...claims, memberId, token, tenant };
    },
    /** An API key of an organization. */
    async createKey(organizationId: string, role: Role, expiresAt: Date | null = null) {
      const { text, hash, prefix } = newCredential('apiKey');
      const id = newUuid();
      await database.withTenant({ organizationId }, (transaction) =>
        transaction.apiKey.create({
          data: { organizationId, id, name: 'ci', role, prefix, hash: bytes(hash), expiresAt },
        }),
      );
      return { id, key: text };
    },
    async stop(): Promise<void> {
      await connection.close();
      await gateway.close();
      await database.close();
      await servers.stop();
      await testDatabase.drop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

type Work = (payload: unknown, ctx: Ctx) => unknown;
