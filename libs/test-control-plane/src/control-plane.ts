/**
 * The whole control plane for a test: the seven built services as processes, on free ports, over a
 * fresh database and a Redis and a NATS of its own, with an inbox as the world it sends to.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Inbox } from './inbox/inbox.ts';
import { guardFolder } from './infrastructure/child-guard.ts';
import { freePort } from './infrastructure/free-port.ts';
import {
  type Infrastructure,
  type ServiceName,
  serviceNames,
  startInfrastructure,
} from './infrastructure/infrastructure.ts';
import type { NatsUser } from './infrastructure/nats.ts';
import { AgentProcess } from './installation/agent-process.ts';
import { Api, type EnrollmentToken, signUp } from './installation/api.ts';
import { type DatabaseUrls, databaseUrls } from './installation/database-urls.ts';
import { ensureInstallationKeys, type InstallationKeys } from './installation/installation-keys.ts';
import { migrate } from './installation/migrate.ts';
import {
  type InstallationSettings,
  serviceEnvironment,
} from './installation/service-environment.ts';
import { repository, ServiceProcess, stopServices } from './installation/service-process.ts';

export interface ControlPlaneOptions {
  /** Added to what every service reads; over what is made up here. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Added for one service. */
  readonly serviceEnvironment?: Partial<Record<ServiceName, Readonly<Record<string, string>>>>;
  readonly settings?: Partial<InstallationSettings>;
  /** Which are started; all by default. The others can be launched later. */
  readonly services?: readonly ServiceName[];
  /** A PostgreSQL of its own that a test may kill, with commits on the disk. */
  readonly ownPostgresql?: boolean;
  readonly natsUsers?: readonly NatsUser[];
  readonly readyTimeoutMs?: number;
}

export interface ControlPlane {
  readonly folder: string;
  readonly apiUrl: string;
  readonly api: Api;
  readonly agentEndpoint: string;
  readonly databases: DatabaseUrls;
  readonly keys: InstallationKeys;
  readonly settings: InstallationSettings;
  readonly services: Readonly<Record<ServiceName, ServiceProcess>>;
  /** Redis and NATS always; PostgreSQL with `ownPostgresql`. */
  readonly infrastructure: Infrastructure;
  readonly inbox: Inbox;
  readonly environment: (service: ServiceName) => Record<string, string>;
  /** One more process of a service, with a health port of its own. */
  launchAnother(
    service: ServiceName,
    environment?: Readonly<Record<string, string>>,
  ): Promise<ServiceProcess>;
  /** A new organization, its owner signed in. */
  signUp(name: string): Promise<{ api: Api; email: string; password: string; accessToken: string }>;
  /** A real agent, enrolled by a token of this organization and started; its vault is named alike. */
  startAgent(api: Api, options?: { name?: string; vault?: string }): Promise<AgentProcess>;
  stop(): Promise<void>;
}

/** Every caller of a test comes from this machine; the limits per address have tests of their own. */
const manyCallersAtOneAddress = {
  KEYSTEAD_REQUESTS_PER_MINUTE_PER_ADDRESS: '1000000',
  KEYSTEAD_REQUESTS_PER_MINUTE_PER_CALLER: '1000000',
  KEYSTEAD_SIGN_UPS_PER_ADDRESS_PER_HOUR: '1000000',
};

/**
 * What each service may say and hear in a real installation. By path, because the tests of that
 * library start their servers with this one, and libraries do not import each other in a ring.
 */
async function ordinaryRights(): Promise<readonly NatsUser[]> {
  const { busRights } = await import(join(repository, 'libs/messaging/src/bus-rights.ts'));
  return busRights();
}

let counter = 0;

export async function startControlPlane(options: ControlPlaneOptions = {}): Promise<ControlPlane> {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-control-plane-'));
  guardFolder(folder);
  const undo: (() => Promise<unknown>)[] = [];
  const stop = async () => {
    const failures: unknown[] = [];
    for (const step of undo.splice(0).reverse()) {
      await step().catch((error: unknown) => failures.push(error));
    }
    rmSync(folder, { recursive: true, force: true });
    if (failures.length > 0) throw new AggregateError(failures, 'the control plane did not stop');
  };
  try {
    return await start(folder, options, undo, stop);
  } catch (error) {
    await stop().catch(() => undefined);
    throw error;
  }
}

async function start(
  folder: string,
  options: ControlPlaneOptions,
  undo: (() => Promise<unknown>)[],
  stop: () => Promise<void>,
): Promise<ControlPlane> {
  const ownPostgresql = options.ownPostgresql ?? false;
  const infrastructure = await startInfrastructure({
    stateDir: join(folder, 'infrastructure'),
    purpose: 'test',
    servers: ownPostgresql ? ['postgresql', 'redis', 'nats'] : ['redis', 'nats'],
    durable: ownPostgresql,
    useNamed: false,
    natsUsers: options.natsUsers ?? (await ordinaryRights()),
  });
  undo.push(() => infrastructure.stop());

  const keys = ensureInstallationKeys(join(folder, 'keys'));
  let databases: DatabaseUrls;
  if (ownPostgresql) {
    databases = databaseUrls(infrastructure.databaseUrl, keys.databasePasswords);
    await migrate(databases);
  } else {
    // Only here, because it works inside a test run alone; benchmarks have a PostgreSQL of their own.
    const { createTestDatabase } = await import('./test-database.ts');
    const database = await createTestDatabase();
    undo.push(() => database.drop());
    databases = database;
  }

  const inbox = await Inbox.start();
  undo.push(() => inbox.stop());

  const healthPorts = Object.fromEntries(
    await Promise.all(serviceNames.map(async (name) => [name, await freePort()])),
  ) as Record<ServiceName, number>;
  const httpPort = await freePort();
  const agentPort = await freePort();
  const settings: InstallationSettings = {
    databases,
    redisUrl: infrastructure.redisUrl,
    natsUrl: infrastructure.natsUrl,
    keys,
    healthPorts,
    httpHost: '127.0.0.1',
    httpPort,
    agentPort,
    agentEndpoint: `localhost:${agentPort}`,
    publicUrl: `http://127.0.0.1:${httpPort}`,
    smtpUrl: inbox.smtpUrl,
    mailFrom: 'Keystead <keystead@keystead.test>',
    webhookAllow: '127.0.0.0/8,::1/128',
    operatorEmails: 'operator@keystead.test',
    signUp: 'open',
    offlineAfterSeconds: 270,
    logLevel: 'info',
    trustDomain: 'keystead.local',
    ...options.settings,
  };
  const environment = (service: ServiceName) => ({
    ...serviceEnvironment(service, settings),
    ...manyCallersAtOneAddress,
    ...options.environment,
    ...options.serviceEnvironment?.[service],
  });
  const logs = join(folder, 'logs');
  mkdirSync(logs, { mode: 0o700 });
  const create = (
    service: ServiceName,
    name: string,
    extra: Readonly<Record<string, string>> = {},
  ) =>
    new ServiceProcess({
      service,
      environment: { ...environment(service), ...extra },
      logFile: join(logs, `${name}.log`),
    });
  const services = Object.fromEntries(
    serviceNames.map((service) => [service, create(service, service)]),
  ) as Record<ServiceName, ServiceProcess>;
  const all: ServiceProcess[] = Object.values(services);
  undo.push(() => stopServices(all));

  const wanted = options.services ?? serviceNames;
  for (const service of wanted) services[service].launch();
  await Promise.all(wanted.map((service) => services[service].untilReady(options.readyTimeoutMs)));

  const agents: AgentProcess[] = [];
  undo.push(() => Promise.all(agents.map((agent) => agent.stop())));
  const api = new Api(settings.publicUrl);
  return {
    folder,
    apiUrl: settings.publicUrl,
    api,
    agentEndpoint: settings.agentEndpoint,
    databases,
    keys,
    settings,
    services,
    infrastructure,
    inbox,
    environment,
    launchAnother: async (service, extra = {}) => {
      const another = create(service, `${service}-${all.length}`, {
        KEYSTEAD_HEALTH_PORT: String(await freePort()),
        ...extra,
      });
      all.push(another);
      await another.start(options.readyTimeoutMs);
      return another;
    },
    signUp: async (name) => {
      const owner = {
        name: `Owner of ${name}`,
        email: `owner-${++counter}-${process.pid}@keystead.test`,
        password: 'a long enough test password',
      };
      const { api: signedIn, accessToken } = await signUp(api, name, owner);
      return { api: signedIn, email: owner.email, password: owner.password, accessToken };
    },
    startAgent: async (organization, { name, vault } = {}) => {
      const label = name ?? `agent-${++counter}`;
      const enrollment = await organization.post<EnrollmentToken>('/v1/enrollment-tokens', {
        name: `token of ${label}`,
        maxUses: 1,
        ttlSeconds: 600,
        vault: vault ?? label,
      });
      const data = join(folder, 'agents', `${++counter}-${label}`);
      await AgentProcess.enroll({ enrollment, data, agentName: label });
      const agent = new AgentProcess(data);
      agents.push(agent);
      await agent.adjust(settings.agentEndpoint);
      agent.start();
      return agent;
    },
    stop,
  };
}
