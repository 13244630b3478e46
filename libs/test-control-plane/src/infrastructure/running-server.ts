/** Where a server comes from, in the order they are tried. */
export type Provider = 'named' | 'docker' | 'npm' | 'program';

/**
 * One of the servers, and what a fault test can do to it. A server that the environment names
 * belongs to somebody else: it is only used, and every fault is refused.
 */
export interface RunningServer {
  readonly label: 'PostgreSQL' | 'Redis' | 'NATS' | 'MariaDB';
  readonly provider: Provider;
  /** For people: where it runs and where its data lies. */
  readonly description: string;
  readonly host: string;
  readonly port: number;
  /** The process to look for, when it is a child of ours. */
  readonly pid: () => number | undefined;
  /** In order; by force where that takes longer than the time given. */
  stop(withinMs?: number): Promise<void>;
  /** While its clients end: what `stop` would take longer for. Never rejects. */
  prepareStop?(): Promise<void>;
  /** As a crash: SIGKILL. */
  kill(): Promise<void>;
  /** Starts it again on the same port and data, after `kill` or `stop`. */
  restart(): Promise<void>;
  /** Forgets everything it held, running or not; it runs afterwards. */
  wipe(): Promise<void>;
  /** SIGSTOP: the connections stay, nothing answers. */
  freeze(): void;
  /** SIGCONT. */
  thaw(): void;
}

export function namedServer(
  label: RunningServer['label'],
  variable: string,
  url: string,
  defaultPort: number,
): RunningServer {
  const { hostname, port } = new URL(url);
  const refuse = (): never => {
    throw new Error(`${label} is named by ${variable}: it is not ours to stop or wipe`);
  };
  return {
    label,
    provider: 'named',
    description: `named by ${variable}: ${hostname}:${port || defaultPort}`,
    host: hostname,
    port: Number(port || defaultPort),
    pid: () => undefined,
    stop: async () => undefined,
    kill: async () => refuse(),
    restart: async () => refuse(),
    wipe: async () => refuse(),
    freeze: refuse,
    thaw: refuse,
  };
}
