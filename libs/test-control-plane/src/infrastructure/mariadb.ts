import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createConnection } from 'mysql2/promise';
import { guardFolder } from './child-guard.ts';
import { ChildServer } from './child-server.ts';
import { startContainer } from './docker.ts';
import { findProgram } from './programs.ts';
import type { RunningServer } from './running-server.ts';

const run = promisify(execFile);

export interface MariadbOptions {
  readonly stateDir: string;
  readonly port: number;
  /** Of `root`. */
  readonly password: string;
  readonly temporary: boolean;
  /** Whether a commit is on the disk when it is answered. Off is several times faster. */
  readonly durable: boolean;
  /** `mariadbd`, or undefined for a container. */
  readonly program: string | undefined;
  readonly onUnexpectedExit: (message: string) => void;
}

const settings = (durable: boolean): readonly string[] => [
  '--max-connections=300',
  '--innodb-buffer-pool-size=128M',
  '--innodb-log-file-size=64M',
  '--character-set-server=utf8mb4',
  '--collation-server=utf8mb4_bin',
  '--default-time-zone=+00:00',
  '--skip-log-bin',
  '--skip-name-resolve',
  '--performance-schema=off',
  ...(durable ? [] : ['--innodb-flush-log-at-trx-commit=0', '--innodb-doublewrite=0']),
];

export async function startMariadb(options: MariadbOptions): Promise<RunningServer> {
  const { stateDir, port, password, temporary, durable, program } = options;
  const isReady = () => acceptsQueries(port, password);
  if (program === undefined) {
    return startContainer({
      label: 'MariaDB',
      stateDir,
      port,
      containerPort: 3306,
      command: ['mariadbd', ...settings(durable)],
      environment: { MARIADB_ROOT_PASSWORD: password },
      dataPath: '/var/lib/mysql',
      isReady,
      temporary,
    });
  }
  const data = join(stateDir, 'mariadb');
  // Unlike PostgreSQL it runs as root when it is told so; its folder is closed to everybody else.
  const asUser = process.getuid?.() === 0 ? ['--user=root'] : [];
  if (!existsSync(join(data, 'mysql'))) await initialize(data, asUser);
  const firstStatements = join(stateDir, 'mariadb.sql');
  writeFileSync(
    firstStatements,
    `create or replace user root@'127.0.0.1' identified by '${password}';\n` +
      `grant all privileges on *.* to root@'127.0.0.1' with grant option;\n`,
    { mode: 0o600 },
  );
  // A path of a socket has at most 107 characters.
  const sockets = mkdtempSync(join(tmpdir(), 'keystead-mariadb-'));
  guardFolder(sockets);
  const child = new ChildServer(
    {
      label: 'MariaDB',
      program,
      args: [
        '--no-defaults',
        ...asUser,
        ...settings(durable),
        `--datadir=${data}`,
        '--bind-address=127.0.0.1',
        `--port=${port}`,
        `--socket=${join(sockets, 'mariadb.sock')}`,
        `--pid-file=${join(sockets, 'mariadb.pid')}`,
        `--init-file=${firstStatements}`,
      ],
      port,
      logFile: join(stateDir, 'mariadb.log'),
      stopSignal: 'SIGTERM',
      isReady,
    },
    options.onUnexpectedExit,
  );
  await child.start();
  return {
    label: 'MariaDB',
    provider: 'program',
    description: `${program} on 127.0.0.1:${port}`,
    host: '127.0.0.1',
    port,
    pid: () => child.pid,
    stop: async () => {
      await child.stop(5_000);
      if (!temporary) return;
      rmSync(data, { recursive: true, force: true });
      rmSync(sockets, { recursive: true, force: true });
    },
    kill: () => child.kill(),
    restart: () => child.start(),
    wipe: async () => {
      await child.kill();
      rmSync(data, { recursive: true, force: true });
      await initialize(data, asUser);
      await child.start();
    },
    freeze: () => child.signal('SIGSTOP'),
    thaw: () => child.signal('SIGCONT'),
  };
}

async function initialize(data: string, asUser: readonly string[]): Promise<void> {
  const installer = findProgram('mariadb-install-db');
  if (installer === undefined) {
    throw new Error(
      'There is a mariadbd but no mariadb-install-db beside it. Install the whole package ' +
        '(apt-get install mariadb-server), or name a server by KEYSTEAD_MYSQL_URL.',
    );
  }
  mkdirSync(data, { recursive: true, mode: 0o700 });
  await run(installer, [
    '--no-defaults',
    ...asUser,
    `--datadir=${data}`,
    '--auth-root-authentication-method=socket',
    '--skip-test-db',
    '--skip-name-resolve',
    '--innodb-log-file-size=64M',
  ]);
}

async function acceptsQueries(port: number, password: string): Promise<boolean> {
  try {
    const connection = await createConnection({
      host: '127.0.0.1',
      port,
      user: 'root',
      password,
      connectTimeout: 2_000,
    });
    connection.on('error', () => undefined);
    try {
      await connection.query('select 1');
      return true;
    } finally {
      connection.destroy();
    }
  } catch {
    return false;
  }
}
