import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { answers, ChildServer } from './child-server.ts';
import { startContainer } from './docker.ts';
import type { RunningServer } from './running-server.ts';

/** What one service may say and hear on the bus. */
export interface NatsUser {
  readonly service: string;
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
  /** Whether it may answer on a reply subject it was given, beyond `publish`. */
  readonly allowResponses?: boolean;
}

export interface NatsOptions {
  readonly stateDir: string;
  readonly port: number;
  readonly users: readonly NatsUser[];
  readonly passwordOf: (service: string) => string;
  readonly temporary: boolean;
  /** The program, or undefined for a container. */
  readonly program: string | undefined;
  readonly onUnexpectedExit: (message: string) => void;
}

/** The configuration file: one user per service; who is not listed cannot connect. */
export function natsConfiguration(options: Pick<NatsOptions, 'users' | 'passwordOf'>): object {
  return {
    max_payload: 1_048_576,
    // A client that stops reading is let go rather than remembered.
    write_deadline: '5s',
    ping_interval: '5s',
    authorization: {
      users: options.users.map(({ service, publish, subscribe, allowResponses }) => ({
        user: service,
        password: options.passwordOf(service),
        permissions: {
          publish: { allow: publish },
          subscribe: { allow: subscribe },
          ...(allowResponses ? { allow_responses: true } : {}),
        },
      })),
    },
  };
}

export async function startNats(options: NatsOptions): Promise<RunningServer> {
  const { stateDir, port, program, temporary } = options;
  const isReady = () => answers(port, '', 'INFO ');
  // JSON is a subset of the format NATS reads.
  const file = join(stateDir, 'nats.conf');
  writeFileSync(file, JSON.stringify(natsConfiguration(options), null, 2), { mode: 0o600 });
  if (program === undefined) {
    return startContainer({
      label: 'NATS',
      stateDir,
      port,
      containerPort: 4222,
      command: ['--config', '/etc/keystead-nats.conf', '--addr', '0.0.0.0', '--port', '4222'],
      mount: { file, path: '/etc/keystead-nats.conf' },
      isReady,
      temporary,
    });
  }
  const child = new ChildServer(
    {
      label: 'NATS',
      program,
      args: ['--config', file, '--addr', '127.0.0.1', '--port', String(port)],
      port,
      logFile: join(stateDir, 'nats.log'),
      stopSignal: 'SIGTERM',
      isReady,
    },
    options.onUnexpectedExit,
  );
  await child.start();
  return {
    label: 'NATS',
    provider: 'program',
    description: `${program} on 127.0.0.1:${port}`,
    host: '127.0.0.1',
    port,
    pid: () => child.pid,
    stop: (withinMs) => child.stop(withinMs),
    kill: () => child.kill(),
    restart: () => child.start(),
    // It keeps nothing on disk: a new process has forgotten everything.
    wipe: async () => {
      await child.stop();
      await child.start();
    },
    freeze: () => child.signal('SIGSTOP'),
    thaw: () => child.signal('SIGCONT'),
  };
}
