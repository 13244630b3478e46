/**
 * PostgreSQL, Redis and NATS for an installation on this machine, used alike by `npm start` and by the
 * tests; and MariaDB, as a customer's agent may have it, for tests that ask for it. Each is looked for
 * in the same order:
 *
 *   1. named by KEYSTEAD_DATABASE_URL, KEYSTEAD_REDIS_URL, KEYSTEAD_NATS_URL, KEYSTEAD_MYSQL_URL: used,
 *      never touched
 *   2. Docker Compose, where an engine answers (KEYSTEAD_DOCKER=off leaves it out)
 *   3. the PostgreSQL of an npm package; redis-server, nats-server and mariadbd on the PATH
 *   4. as root on Debian: redis-server, nats-server and mariadb-server from its packages
 *   5. a message that names what is missing
 *
 * What it starts listens on loopback, at ports that were free, behind passwords of its own, and keeps
 * its files in a folder only its user can enter. It stops what it started and nothing else, by process
 * id; should this process be killed, a guard stops them in its place.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { guardFolder } from './child-guard.ts';
import { dockerAnswers } from './docker.ts';
import { preferredPort } from './free-port.ts';
import { startMariadb } from './mariadb.ts';
import { type NatsUser, startNats } from './nats.ts';
import { ensureOwner, startPostgresql } from './postgresql.ts';
import { canInstallPackages, findProgram, installPackages } from './programs.ts';
import { startRedis } from './redis.ts';
import { namedServer, type RunningServer } from './running-server.ts';

export type ServerName = 'postgresql' | 'redis' | 'nats' | 'mariadb';

export const serviceNames = [
  'gateway',
  'auth',
  'vault-registry',
  'monitoring',
  'policy',
  'analytics',
  'notification',
] as const;
export type ServiceName = (typeof serviceNames)[number];

export interface InfrastructureOptions {
  /** A folder of its own, made when absent, with mode 0700. */
  readonly stateDir: string;
  /** `start` keeps its data and its ports; `test` forgets them and trades safety for speed. */
  readonly purpose: 'start' | 'test';
  /** Whether a commit is on the disk when it is answered; by default for `start` only. */
  readonly durable?: boolean;
  /** Which of them; all but MariaDB by default. */
  readonly servers?: readonly ServerName[];
  readonly natsUsers?: readonly NatsUser[];
  /** One line a step, for people. */
  readonly report?: (line: string) => void;
  /** A server ended though nobody asked it to. */
  readonly onServerDied?: (message: string) => void;
  /** Whether the environment may name servers; a test that stops them wants its own. */
  readonly useNamed?: boolean;
}

export interface Infrastructure {
  /** The owner's: for migrations. */
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly natsUrl: (service: string) => string;
  readonly postgresql: RunningServer;
  readonly redis: RunningServer;
  readonly nats: RunningServer;
  /** As its administrator, who makes databases; no database is named. */
  readonly mysqlUrl: string;
  readonly mariadb: RunningServer;
  readonly stop: (withinMs?: number) => Promise<void>;
}

interface Secrets {
  postgresqlPassword: string;
  ownerPassword: string;
  redisPassword: string;
  mariadbPassword: string;
  natsPasswords: Record<string, string>;
  ports: Partial<Record<ServerName, number>>;
}

const ownerName = 'keystead_owner';
const databaseName = 'keystead';
const fullRights: readonly NatsUser[] = serviceNames.map((service) => ({
  service,
  publish: ['>'],
  subscribe: ['>'],
}));

export async function startInfrastructure(options: InfrastructureOptions): Promise<Infrastructure> {
  const { stateDir, purpose } = options;
  const report = options.report ?? (() => undefined);
  const onUnexpectedExit =
    options.onServerDied ?? ((message: string) => console.error(`\n${message}\n`));
  const wanted = new Set(options.servers ?? (['postgresql', 'redis', 'nats'] as const));
  const temporary = purpose === 'test';
  const durable = options.durable ?? purpose === 'start';
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  if (temporary) guardFolder(stateDir);
  else chmodSync(stateDir, 0o700);

  const named = (variable: string) =>
    options.useNamed === false ? undefined : process.env[variable] || undefined;
  const databaseUrl = named('KEYSTEAD_DATABASE_URL');
  const redisUrl = named('KEYSTEAD_REDIS_URL');
  const natsUrl = named('KEYSTEAD_NATS_URL');
  const mysqlUrl = named('KEYSTEAD_MYSQL_URL');
  const ours = {
    postgresql: wanted.has('postgresql') && databaseUrl === undefined,
    redis: wanted.has('redis') && redisUrl === undefined,
    nats: wanted.has('nats') && natsUrl === undefined,
    mariadb: wanted.has('mariadb') && mysqlUrl === undefined,
  };

  const docker = Object.values(ours).includes(true) && (await dockerAnswers());
  const programs = docker
    ? {}
    : await findPrograms(
        [
          ...(ours.redis ? ['redis-server'] : []),
          ...(ours.nats ? ['nats-server'] : []),
          ...(ours.mariadb ? ['mariadbd'] : []),
        ],
        report,
      );

  const secretsFile = join(stateDir, 'infrastructure.json');
  const secrets = await readSecrets(secretsFile, options.natsUsers ?? fullRights, ours);
  writeFileSync(secretsFile, `${JSON.stringify(secrets, null, 2)}\n`, { mode: 0o600 });

  const running: RunningServer[] = [];
  const started = async (server: Promise<RunningServer>) => {
    const begun = Date.now();
    const result = await server;
    running.push(result);
    const seconds = ((Date.now() - begun) / 1_000).toFixed(1);
    report(
      result.provider === 'named'
        ? `${result.label} ${result.description}`
        : `${result.label}: ${result.description} (${seconds} s)`,
    );
    return result;
  };
  const port = (name: ServerName) => secrets.ports[name] as number;
  const passwordOf = (service: string) => {
    const password = secrets.natsPasswords[service];
    if (password === undefined) throw new Error(`NATS knows no service ${service}`);
    return password;
  };

  const stop = async (withinMs?: number) => {
    const stopped = await Promise.allSettled(running.map((server) => server.stop(withinMs)));
    for (const result of stopped) {
      if (result.status === 'rejected') console.error(String(result.reason));
    }
    if (temporary) rmSync(stateDir, { recursive: true, force: true });
  };

  const results = await Promise.allSettled([
    !wanted.has('postgresql')
      ? Promise.resolve(absentServer('PostgreSQL'))
      : started(
          databaseUrl !== undefined
            ? Promise.resolve(namedServer('PostgreSQL', 'KEYSTEAD_DATABASE_URL', databaseUrl, 5432))
            : startPostgresql({
                stateDir,
                port: port('postgresql'),
                password: secrets.postgresqlPassword,
                temporary,
                durable,
                docker,
                onUnexpectedExit,
                report,
              }),
        ),
    !wanted.has('redis')
      ? Promise.resolve(absentServer('Redis'))
      : started(
          redisUrl !== undefined
            ? Promise.resolve(namedServer('Redis', 'KEYSTEAD_REDIS_URL', redisUrl, 6379))
            : startRedis({
                stateDir,
                port: port('redis'),
                password: secrets.redisPassword,
                temporary,
                program: programs['redis-server'],
                onUnexpectedExit,
              }),
        ),
    !wanted.has('nats')
      ? Promise.resolve(absentServer('NATS'))
      : started(
          natsUrl !== undefined
            ? Promise.resolve(namedServer('NATS', 'KEYSTEAD_NATS_URL', natsUrl, 4222))
            : startNats({
                stateDir,
                port: port('nats'),
                users: options.natsUsers ?? fullRights,
                passwordOf,
                temporary,
                program: programs['nats-server'],
                onUnexpectedExit,
              }),
        ),
    !wanted.has('mariadb')
      ? Promise.resolve(absentServer('MariaDB'))
      : started(
          mysqlUrl !== undefined
            ? Promise.resolve(namedServer('MariaDB', 'KEYSTEAD_MYSQL_URL', mysqlUrl, 3306))
            : startMariadb({
                stateDir,
                port: port('mariadb'),
                password: secrets.mariadbPassword,
                temporary,
                durable,
                program: programs.mariadbd,
                onUnexpectedExit,
              }),
        ),
  ]);
  try {
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    if (ours.postgresql) {
      await ensureOwner({
        port: port('postgresql'),
        password: secrets.postgresqlPassword,
        owner: { name: ownerName, password: secrets.ownerPassword },
        database: databaseName,
      });
    }
  } catch (error) {
    await stop();
    throw error;
  }
  const [postgresql, redis, nats, mariadb] = results.map((result) =>
    result.status === 'fulfilled' ? result.value : undefined,
  ) as [RunningServer, RunningServer, RunningServer, RunningServer];

  return {
    databaseUrl:
      databaseUrl ??
      `postgresql://${ownerName}:${secrets.ownerPassword}@127.0.0.1:${port('postgresql')}/${databaseName}`,
    redisUrl: redisUrl ?? `redis://:${secrets.redisPassword}@127.0.0.1:${port('redis')}/0`,
    natsUrl: (service) =>
      natsUrl ?? `nats://${service}:${passwordOf(service)}@127.0.0.1:${port('nats')}`,
    postgresql,
    redis,
    nats,
    mysqlUrl: mysqlUrl ?? `mysql://root:${secrets.mariadbPassword}@127.0.0.1:${port('mariadb')}`,
    mariadb,
    stop,
  };
}

const variableOf: Record<string, string> = {
  'redis-server': 'KEYSTEAD_REDIS_URL',
  'nats-server': 'KEYSTEAD_NATS_URL',
  mariadbd: 'KEYSTEAD_MYSQL_URL',
};

async function findPrograms(
  names: readonly string[],
  report: (line: string) => void,
): Promise<Record<string, string>> {
  const missing = () => names.filter((name) => findProgram(name) === undefined);
  const packageOf = (name: string) => (name === 'mariadbd' ? 'mariadb-server' : name);
  let reason = '';
  if (missing().length > 0 && canInstallPackages()) {
    try {
      await installPackages(missing().map(packageOf), report);
    } catch (error) {
      reason = `\n${error instanceof Error ? error.message : String(error)}`;
    }
  }
  const left = missing();
  if (left.length > 0) {
    const variables = left.map((name) => variableOf[name]);
    const brewed = left.map((name) =>
      name.replace('redis-server', 'redis').replace('mariadbd', 'mariadb'),
    );
    throw new Error(
      `Missing: ${left.join(' and ')}. Any one of these helps:\n` +
        `  - install ${left.length > 1 ? 'them' : 'it'}: apt-get install ${left.map(packageOf).join(' ')} ` +
        `(or brew install ${brewed.join(' ')})\n` +
        '  - start a Docker engine with Docker Compose\n' +
        `  - name a running one by ${variables.join(' and ')}${reason}`,
    );
  }
  return Object.fromEntries(names.map((name) => [name, findProgram(name) as string]));
}

/** Passwords are made once and kept; ports are kept while they are free. */
async function readSecrets(
  file: string,
  users: readonly NatsUser[],
  ours: Record<ServerName, boolean>,
): Promise<Secrets> {
  const kept: Partial<Secrets> = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  const password = () => randomBytes(24).toString('hex');
  const ports: Secrets['ports'] = { ...kept.ports };
  for (const name of ['postgresql', 'redis', 'nats', 'mariadb'] as const) {
    if (ours[name]) ports[name] = await preferredPort(kept.ports?.[name]);
  }
  return {
    postgresqlPassword: kept.postgresqlPassword ?? password(),
    ownerPassword: kept.ownerPassword ?? password(),
    redisPassword: kept.redisPassword ?? password(),
    mariadbPassword: kept.mariadbPassword ?? password(),
    natsPasswords: Object.fromEntries(
      users.map(({ service }) => [service, kept.natsPasswords?.[service] ?? password()]),
    ),
    ports,
  };
}

function absentServer(label: RunningServer['label']): RunningServer {
  return new Proxy({} as RunningServer, {
    get(_target, property) {
      // A promise is resolved with this object, which asks it for `then`.
      if (property === 'then') return undefined;
      throw new Error(`${label} was not asked for`);
    },
  });
}
