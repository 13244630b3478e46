/**
 * Servers by Docker Compose, where an engine answers. Each is a project of its own with one service, so
 * that it can be stopped, killed and wiped alone; data lies in a named volume of the project.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findProgram } from './programs.ts';
import type { RunningServer } from './running-server.ts';

const run = promisify(execFile);

export const images = {
  PostgreSQL: 'postgres:18.4-alpine',
  Redis: 'redis:8.4.0-alpine',
  NATS: 'nats:2.12.2-alpine',
  MariaDB: 'mariadb:11.8.3',
} as const;

let answer: Promise<boolean> | undefined;

/** Whether `docker compose` is there and an engine answers it. Asked once. */
export function dockerAnswers(): Promise<boolean> {
  answer ??= (async () => {
    if (process.env.KEYSTEAD_DOCKER === 'off' || findProgram('docker') === undefined) return false;
    const quick = { timeout: 5_000 };
    try {
      await run('docker', ['compose', 'version'], quick);
      await run('docker', ['info', '--format', '{{.ServerVersion}}'], quick);
      return true;
    } catch {
      return false;
    }
  })();
  return answer;
}

export interface ContainerOptions {
  readonly label: RunningServer['label'];
  readonly stateDir: string;
  readonly port: number;
  readonly containerPort: number;
  readonly command: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** Where the image keeps its data. */
  readonly dataPath?: string;
  /** A file of the state folder that the container reads, and where. */
  readonly mount?: { readonly file: string; readonly path: string };
  readonly isReady: () => Promise<boolean>;
  /** Whether the data goes with the container when it is stopped. */
  readonly temporary: boolean;
}

export async function startContainer(options: ContainerOptions): Promise<RunningServer> {
  const { label, stateDir, port, containerPort, temporary } = options;
  const name = label.toLowerCase();
  const suffix = createHash('sha256').update(`${stateDir} ${name}`).digest('hex').slice(0, 8);
  const project = `keystead-${name}-${suffix}`;
  const file = join(stateDir, `${name}.compose.json`);
  const volumes = [
    ...(options.dataPath === undefined ? [] : [`data:${options.dataPath}`]),
    ...(options.mount === undefined ? [] : [`${options.mount.file}:${options.mount.path}:ro`]),
  ];
  const definition = {
    name: project,
    services: {
      [name]: {
        image: images[label],
        command: options.command,
        environment: options.environment ?? {},
        ports: [`127.0.0.1:${port}:${containerPort}`],
        volumes,
      },
    },
    ...(options.dataPath === undefined ? {} : { volumes: { data: {} } }),
  };
  writeFileSync(file, JSON.stringify(definition, null, 2), { mode: 0o600 });
  const compose = (...args: string[]) =>
    run('docker', ['compose', '--file', file, ...args], { timeout: 300_000 });
  const up = async () => {
    await compose('up', '--detach', '--quiet-pull');
    const deadline = Date.now() + 60_000;
    while (!(await options.isReady().catch(() => false))) {
      if (Date.now() > deadline) {
        const { stdout } = await compose('logs', '--tail', '12');
        throw new Error(`${label} in Docker took no requests in time.\n${stdout}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  await up();
  return {
    label,
    provider: 'docker',
    description: `Docker Compose project ${project} on 127.0.0.1:${port}`,
    host: '127.0.0.1',
    port,
    pid: () => undefined,
    stop: async () => {
      await (temporary
        ? compose('down', '--volumes', '--timeout', '2')
        : compose('stop', '--timeout', '3'));
    },
    kill: async () => {
      await compose('kill', '--signal', 'SIGKILL');
    },
    restart: up,
    wipe: async () => {
      await compose('down', '--volumes', '--timeout', '2');
      await up();
    },
    freeze: () => void compose('pause').catch(() => undefined),
    thaw: () => void compose('unpause').catch(() => undefined),
  };
}
