import { execFile } from 'node:child_process';
import {
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { guardFolder } from './child-guard.ts';
import { ChildServer } from './child-server.ts';
import { startContainer } from './docker.ts';
import { embeddedPostgres, type PostgresPrograms, sharedFolder } from './embedded-postgres.ts';
import type { RunningServer } from './running-server.ts';
import { canEnter, type SystemUser, unprivilegedUser } from './unprivileged-user.ts';

const run = promisify(execFile);

export const superuser = 'postgres';

export interface PostgresqlOptions {
  readonly stateDir: string;
  readonly port: number;
  /** Of the superuser. */
  readonly password: string;
  readonly temporary: boolean;
  /** Whether a commit is on the disk when it is answered. Off is several times faster. */
  readonly durable: boolean;
  readonly docker: boolean;
  readonly onUnexpectedExit: (message: string) => void;
  readonly report: (line: string) => void;
}

const maxConnections = 400;

function settings(durable: boolean): Record<string, string> {
  return {
    max_connections: String(maxConnections),
    shared_buffers: '256MB',
    max_wal_size: '2GB',
    log_min_messages: 'warning',
    timezone: 'UTC',
    log_timezone: 'UTC',
    ...(durable ? {} : { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' }),
  };
}

const asArguments = (values: Record<string, string>) =>
  Object.entries(values).flatMap(([name, value]) => ['-c', `${name}=${value}`]);

export async function startPostgresql(options: PostgresqlOptions): Promise<RunningServer> {
  const { stateDir, port, password, temporary, durable } = options;
  const isReady = () => acceptsQueries(port, password);

  if (options.docker) {
    return startContainer({
      label: 'PostgreSQL',
      stateDir,
      port,
      containerPort: 5432,
      command: ['postgres', ...asArguments(settings(durable))],
      environment: { POSTGRES_PASSWORD: password, POSTGRES_USER: superuser },
      dataPath: '/var/lib/postgresql',
      isReady,
      temporary,
    });
  }

  const user = await unprivilegedUser();
  const programs = embeddedPostgres(user);
  if (programs === undefined) {
    throw new Error(
      `There is no embedded PostgreSQL for ${process.platform}-${process.arch}. Name one by ` +
        'KEYSTEAD_DATABASE_URL, or start a Docker engine.',
    );
  }
  const data = dataFolder(options, user);
  if (!existsSync(join(data, 'PG_VERSION'))) await initialize(programs, data, password, user);
  checkVersion(data, programs);
  const child = new ChildServer(
    {
      label: 'PostgreSQL',
      program: join(programs.folder, 'bin', 'postgres'),
      args: [
        ...['-D', data, '-p', String(port), '-h', '127.0.0.1', '-k', ''],
        ...asArguments(settings(durable)),
      ],
      port,
      logFile: join(stateDir, 'postgresql.log'),
      cwd: data,
      env: postgresEnvironment(programs),
      ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
      // A fast shutdown: open transactions are rolled back, what is committed is written.
      stopSignal: 'SIGINT',
      isReady,
    },
    options.onUnexpectedExit,
  );
  await startPatiently(child);
  return {
    label: 'PostgreSQL',
    provider: 'npm',
    description:
      `embedded ${programs.version} on 127.0.0.1:${port}, data in ${data}` +
      (user === undefined ? '' : `, as the user ${user.name}`) +
      (programs.copiedTo === undefined ? '' : `, programs in ${programs.copiedTo}`),
    host: '127.0.0.1',
    port,
    pid: () => child.pid,
    prepareStop: () => checkpoint(port, password),
    stop: async (withinMs = 2_000) => {
      await child.stop(withinMs);
      if (temporary) rmSync(data, { recursive: true, force: true });
    },
    kill: () => child.kill(),
    restart: () => startPatiently(child),
    wipe: async () => {
      throw new Error('PostgreSQL holds the truth: it is never wiped under a running installation');
    },
    freeze: () => child.signal('SIGSTOP'),
    thaw: () => child.signal('SIGCONT'),
  };
}

/** After a SIGKILL its workers need a moment to see that they are alone; until then a start fails. */
async function startPatiently(child: ChildServer): Promise<void> {
  const deadline = Date.now() + 15_000;
  for (;;) {
    try {
      return await child.start();
    } catch (error) {
      const isHeld = /lock file|shared memory block/.test(String(error));
      if (!isHeld || Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

/**
 * Where the data lies. As root it cannot lie in the state folder, which nobody else may enter; then it
 * lies in a folder for all of this machine's installations and the state folder links to it.
 */
function dataFolder(
  { stateDir, temporary, report }: PostgresqlOptions,
  user: SystemUser | undefined,
): string {
  const place = join(stateDir, 'postgresql');
  if (user === undefined) {
    mkdirSync(place, { recursive: true, mode: 0o700 });
    return place;
  }
  if (temporary && canEnter(user, stateDir)) {
    mkdirSync(place, { recursive: true, mode: 0o700 });
    chownSync(place, user.uid, user.gid);
    return place;
  }
  const parent = sharedFolder(user);
  const link = lstatSync(place, { throwIfNoEntry: false });
  if (link?.isSymbolicLink() && existsSync(place)) {
    const data = realpathSync(place);
    chownSync(data, user.uid, user.gid);
    return data;
  }
  if (link !== undefined) rmSync(place, { recursive: true, force: true });
  const data = mkdtempSync(join(parent, temporary ? 'temporary-' : 'installation-'));
  chownSync(data, user.uid, user.gid);
  if (temporary) {
    guardFolder(data);
    return data;
  }
  for (const name of readdirSync(parent)) {
    const [folder, isNote] = [join(parent, name.replace(/\.of$/, '')), name.endsWith('.of')];
    if (isNote && readFileSync(join(parent, name), 'utf8') === stateDir && existsSync(folder)) {
      report(`An earlier installation of this clone left its data in ${folder}: remove it at will`);
    }
  }
  writeFileSync(`${data}.of`, stateDir, { mode: 0o600 });
  symlinkSync(data, place);
  return data;
}

async function initialize(
  programs: PostgresPrograms,
  data: string,
  password: string,
  user: SystemUser | undefined,
): Promise<void> {
  // What an initialization that was broken off has left is worth nothing.
  for (const name of readdirSync(data)) rmSync(join(data, name), { recursive: true, force: true });
  const passwordFile = `${data}.password`;
  writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 });
  if (user !== undefined) chownSync(passwordFile, user.uid, user.gid);
  try {
    await run(
      join(programs.folder, 'bin', 'initdb'),
      [
        ...['--pgdata', data, '--username', superuser, '--pwfile', passwordFile],
        ...['--auth', 'scram-sha-256', '--encoding', 'UTF8', '--locale', 'C'],
        ...['--locale-provider', 'builtin', '--builtin-locale', 'C.UTF-8', '--no-sync'],
      ],
      {
        cwd: data,
        env: postgresEnvironment(programs),
        ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
      },
    );
  } finally {
    rmSync(passwordFile, { force: true });
  }
}

function checkVersion(data: string, programs: PostgresPrograms): void {
  const major = readFileSync(join(data, 'PG_VERSION'), 'utf8').trim();
  if (major !== programs.version.split('.')[0]) {
    throw new Error(
      `The data in ${data} is of PostgreSQL ${major}, the programs are ${programs.version}. ` +
        'Dump it with the old version, or move the folder away to start afresh.',
    );
  }
}

/** Nothing of ours goes to the server: neither our secrets nor a PGDATA of somebody else's. */
function postgresEnvironment(programs: PostgresPrograms): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH ?? '/usr/bin:/bin',
    LC_ALL: 'C',
    TZ: 'UTC',
    LD_LIBRARY_PATH: join(programs.folder, 'lib'),
  };
}

const acceptsQueries = (port: number, password: string) => answers(port, password, 'select 1');

/** Writes what the shutdown would have to write: little is left for it. */
async function checkpoint(port: number, password: string): Promise<void> {
  await answers(port, password, 'checkpoint');
}

async function answers(port: number, password: string, query: string): Promise<boolean> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port,
    user: superuser,
    password,
    database: 'postgres',
    connectionTimeoutMillis: 2_000,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query(query);
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Makes the login that owns Keystead's databases, and its database; both may exist. */
export async function ensureOwner(options: {
  readonly port: number;
  readonly password: string;
  readonly owner: { readonly name: string; readonly password: string };
  readonly database: string;
}): Promise<void> {
  const { port, password, owner, database } = options;
  const client = new pg.Client({
    host: '127.0.0.1',
    port,
    user: superuser,
    password,
    database: 'postgres',
  });
  await client.connect();
  try {
    const name = client.escapeIdentifier(owner.name);
    const roles = await client.query('select from pg_roles where rolname = $1', [owner.name]);
    // Neither a superuser nor above row-level security: as an installation on a hosted
    // PostgreSQL would have it.
    await client.query(
      `${roles.rowCount ? 'alter' : 'create'} role ${name} login createdb createrole ` +
        `password ${client.escapeLiteral(owner.password)}`,
    );
    const databases = await client.query('select from pg_database where datname = $1', [database]);
    if (!databases.rowCount) {
      await client.query(`create database ${client.escapeIdentifier(database)} owner ${name}`);
    }
  } finally {
    await client.end();
  }
}
