import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { answers, ChildServer } from './child-server.ts';
import { startContainer } from './docker.ts';
import type { RunningServer } from './running-server.ts';

export interface RedisOptions {
  readonly stateDir: string;
  readonly port: number;
  readonly password: string;
  readonly temporary: boolean;
  /** The program, or undefined for a container. */
  readonly program: string | undefined;
  readonly onUnexpectedExit: (message: string) => void;
}

/** Queues must never lose a key to make room, so a full Redis refuses instead. */
const settings = (password: string): Record<string, string> => ({
  'maxmemory-policy': 'noeviction',
  requirepass: password,
  appendonly: 'yes',
  appendfsync: 'everysec',
  save: '""',
});

export async function startRedis(options: RedisOptions): Promise<RunningServer> {
  const { stateDir, port, password, temporary, program } = options;
  const isReady = () => answers(port, `AUTH ${password}\r\nPING\r\n`, '+PONG');
  const flush = async () => {
    await answers(port, `AUTH ${password}\r\nFLUSHALL\r\nPING\r\n`, '+PONG', 10_000);
  };
  if (program === undefined) {
    const server = await startContainer({
      label: 'Redis',
      stateDir,
      port,
      containerPort: 6379,
      command: [
        'redis-server',
        ...Object.entries(settings(password)).flatMap(([name, value]) => [
          `--${name}`,
          value.replace(/^""$/, ''),
        ]),
      ],
      dataPath: '/data',
      isReady,
      temporary,
    });
    return { ...server, wipe: flush };
  }
  const folder = join(stateDir, 'redis');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = join(stateDir, 'redis.conf');
  const lines = Object.entries({
    ...settings(password),
    bind: '127.0.0.1',
    port: String(port),
    dir: JSON.stringify(folder),
    daemonize: 'no',
  }).map(([name, value]) => `${name} ${value}`);
  writeFileSync(file, `${lines.join('\n')}\n`, { mode: 0o600 });
  const child = new ChildServer(
    {
      label: 'Redis',
      program,
      args: [file],
      port,
      logFile: join(stateDir, 'redis.log'),
      stopSignal: 'SIGTERM',
      isReady,
    },
    options.onUnexpectedExit,
  );
  await child.start();
  return {
    label: 'Redis',
    provider: 'program',
    description: `${program} on 127.0.0.1:${port}`,
    host: '127.0.0.1',
    port,
    pid: () => child.pid,
    stop: async (withinMs) => {
      await child.stop(withinMs);
      if (temporary) rmSync(folder, { recursive: true, force: true });
    },
    kill: () => child.kill(),
    restart: () => child.start(),
    wipe: async () => {
      if (child.pid !== undefined) return flush();
      rmSync(folder, { recursive: true, force: true });
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      await child.start();
    },
    freeze: () => child.signal('SIGSTOP'),
    thaw: () => child.signal('SIGCONT'),
  };
}
