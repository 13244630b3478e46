/**
 * An installation on this machine: PostgreSQL, Redis, NATS, the keys, the schema, the seven services
 * and the inbox. What `npm start` and `npm run dev` have in common.
 */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { busRights } from '@keystead/messaging/bus-rights';
import { Inbox } from '@keystead/test-control-plane/inbox/inbox';
import {
  freePort,
  isPortFreeEverywhere,
} from '@keystead/test-control-plane/infrastructure/free-port';
import {
  type Infrastructure,
  type ServiceName,
  serviceNames,
  startInfrastructure,
} from '@keystead/test-control-plane/infrastructure/infrastructure';
import type { RunningServer } from '@keystead/test-control-plane/infrastructure/running-server';
import { Api } from '@keystead/test-control-plane/installation/api';
import { databaseUrls } from '@keystead/test-control-plane/installation/database-urls';
import { ensureInstallationKeys } from '@keystead/test-control-plane/installation/installation-keys';
import { migrate } from '@keystead/test-control-plane/installation/migrate';
import {
  type InstallationSettings,
  serviceEnvironment,
} from '@keystead/test-control-plane/installation/service-environment';
import {
  ServiceProcess,
  stopServices,
} from '@keystead/test-control-plane/installation/service-process';
import { choosePorts, type Ports, setting } from './settings.ts';
import { complain, dim, root, say, step, yellow } from './terminal.ts';

/** What a service reads beyond what is made up here, and people may want to try with `npm start`. */
const tunable = [
  'KEYSTEAD_AGENT_HOSTS',
  'KEYSTEAD_AGENT_LISTEN_HOST',
  'KEYSTEAD_CORS_ORIGINS',
  'KEYSTEAD_GATEWAY_HALVES',
  'KEYSTEAD_POOL_SIZE',
  'KEYSTEAD_REQUESTS_PER_MINUTE_PER_ADDRESS',
  'KEYSTEAD_REQUESTS_PER_MINUTE_PER_CALLER',
  'KEYSTEAD_SIGN_UPS_PER_ADDRESS_PER_HOUR',
  'KEYSTEAD_TRUSTED_PROXIES',
];

const passedOn = (): Record<string, string> =>
  Object.fromEntries(
    tunable.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])),
  );

const restartsAtMost = 5;
const restartsWithinMs = 5 * 60_000;
/** What is left of five seconds is for the ends of this process and of the one before it. */
const stopWithinMs = 4_400;

export class Installation {
  readonly stateDir = resolve(setting('KEYSTEAD_STATE_DIR', join(root, '.keystead')));
  readonly services = new Map<ServiceName, ServiceProcess>();
  #ports: Ports | undefined;
  #inbox: Inbox | undefined;
  #infrastructure: Promise<Infrastructure> | undefined;
  #isStopping = false;
  #isClaimed = false;
  readonly #beforeServices: (() => Promise<unknown>)[] = [];
  readonly #restarts = new Map<string, number[]>();

  get ports(): Ports {
    if (this.#ports === undefined) throw new Error('the ports are not chosen yet');
    return this.#ports;
  }

  get inbox(): Inbox {
    if (this.#inbox === undefined) throw new Error('the inbox is not open yet');
    return this.#inbox;
  }

  get isStopping(): boolean {
    return this.#isStopping;
  }

  get apiUrl(): string {
    return `http://localhost:${this.ports.http}`;
  }

  get api(): Api {
    return new Api(`http://127.0.0.1:${this.ports.http}`);
  }

  get agentEndpoint(): string {
    return setting('KEYSTEAD_AGENT_ENDPOINT', `localhost:${this.ports.agent}`);
  }

  get inboxUrl(): string {
    return `http://localhost:${this.ports.inbox}`;
  }

  /** What must end before the services do, as agents that want to say goodbye. */
  stopFirst(stop: () => Promise<unknown>): void {
    this.#beforeServices.push(stop);
  }

  /** Everything up to the first answer of /readyz. `build` runs beside the servers' start. */
  async start(build: () => Promise<void>): Promise<void> {
    mkdirSync(join(this.stateDir, 'logs'), { recursive: true, mode: 0o700 });
    chmodSync(this.stateDir, 0o700);
    if (this.#claim() === 'after a crash') await this.#untilLeftoversAreGone();
    this.#ports = await choosePorts(join(this.stateDir, 'ports.json'), (line) =>
      say(yellow(`! ${line}`)),
    );
    this.#infrastructure = startInfrastructure({
      stateDir: this.stateDir,
      purpose: 'start',
      natsUsers: busRights(),
      report: (line) => say(dim(`  ${line}`)),
      onServerDied: (message) => void this.#reviveServer(message),
    });
    const [infrastructure] = await Promise.all([
      step('PostgreSQL, Redis and NATS', () => this.#infrastructure as Promise<Infrastructure>),
      step('Building', build),
    ]);
    const keys = ensureInstallationKeys(join(this.stateDir, 'keys'));
    if (keys.created) say(dim(`  the installation's keys were made in ${keys.folder}`));
    const databases = databaseUrls(infrastructure.databaseUrl, keys.databasePasswords);
    await step('Migrating the database', async () => say(dim(`  ${await migrate(databases)}`)));

    this.#inbox = await Inbox.start({ httpPort: this.ports.inbox, smtpPort: this.ports.smtp });
    const settings: InstallationSettings = {
      databases,
      redisUrl: infrastructure.redisUrl,
      natsUrl: infrastructure.natsUrl,
      keys,
      healthPorts: Object.fromEntries(
        await Promise.all(serviceNames.map(async (name) => [name, await freePort()])),
      ),
      httpHost: setting('KEYSTEAD_HTTP_HOST', '127.0.0.1'),
      httpPort: this.ports.http,
      agentPort: this.ports.agent,
      agentEndpoint: this.agentEndpoint,
      publicUrl: setting('KEYSTEAD_PUBLIC_URL', this.apiUrl),
      smtpUrl: setting('KEYSTEAD_SMTP_URL', this.#inbox.smtpUrl),
      mailFrom: setting('KEYSTEAD_MAIL_FROM', 'Keystead <alerts@keystead.local>'),
      // The inbox listens on loopback; nothing else that is private may be reached.
      webhookAllow: setting('KEYSTEAD_WEBHOOK_ALLOW', '127.0.0.1/32'),
      operatorEmails: setting('KEYSTEAD_OPERATOR_EMAILS', 'operator@keystead.local'),
      signUp: setting('KEYSTEAD_SIGN_UP', 'open') === 'closed' ? 'closed' : 'open',
      offlineAfterSeconds: Number(setting('KEYSTEAD_OFFLINE_AFTER_SECONDS', '270')),
      logLevel: setting('KEYSTEAD_LOG_LEVEL', 'info'),
      trustDomain: setting('KEYSTEAD_TRUST_DOMAIN', 'keystead.local'),
    };
    if (this.#isStopping) return;
    await step('Starting the seven services', async () => {
      for (const service of serviceNames) {
        const process = new ServiceProcess({
          service,
          environment: { ...serviceEnvironment(service, settings), ...passedOn() },
          logFile: this.#freshLog(service),
          onUnexpectedExit: (how) => void this.#reviveService(service, how),
        });
        this.services.set(service, process);
        process.launch();
      }
      const waiting = [...this.services.values()].map(async (service) => {
        await service.untilReady(90_000);
        return service.service;
      });
      await Promise.all(waiting);
    });
  }

  /** Ends what was started, and only that, within five seconds. */
  async stop(): Promise<void> {
    if (this.#isStopping) return;
    this.#isStopping = true;
    const deadlineMs = performance.now() + stopWithinMs;
    void this.#infrastructure?.then(
      ({ postgresql }) => postgresql.prepareStop?.(),
      () => undefined,
    );
    await Promise.allSettled(this.#beforeServices.map((stop) => stop()));
    await stopServices(this.services.values(), 1_700);
    await Promise.allSettled([this.#inbox?.stop(), this.#stopInfrastructure(deadlineMs)]);
    this.#release();
  }

  async #stopInfrastructure(deadlineMs: number): Promise<void> {
    // A start that was interrupted may still be on its way.
    const infrastructure = await Promise.race([
      this.#infrastructure?.catch(() => undefined),
      delay(2_500, undefined),
    ]);
    await infrastructure?.stop(Math.max(500, deadlineMs - performance.now()));
  }

  async #reviveService(service: ServiceName, how: string): Promise<void> {
    if (this.#isStopping) return;
    const process = this.services.get(service);
    if (process === undefined) return;
    const pause = this.#pauseBeforeRestart(service);
    if (pause === undefined) {
      complain(`${service} ${how}, again and again: it is left alone now.`);
      say(process.lastLogLines());
      return;
    }
    say(yellow(`! ${service} ${how}; starting it again`));
    await delay(pause);
    if (this.#isStopping || process.pid !== undefined) return;
    try {
      process.launch();
      await process.untilReady();
      say(yellow(`! ${service} is back`));
    } catch (error) {
      if (!this.#isStopping) complain(String(error instanceof Error ? error.message : error));
    }
  }

  async #reviveServer(message: string): Promise<void> {
    if (this.#isStopping) return;
    complain(message);
    const infrastructure = await this.#infrastructure;
    const label = message.split(' ')[0];
    const server = [infrastructure?.postgresql, infrastructure?.redis, infrastructure?.nats].find(
      (each): each is RunningServer => each?.label === label,
    );
    if (server === undefined) return;
    const pause = this.#pauseBeforeRestart(server.label);
    if (pause === undefined) {
      complain(`${server.label} died again and again: it is left alone now.`);
      return;
    }
    await delay(pause);
    if (this.#isStopping) return;
    await server.restart().then(
      () => say(yellow(`! ${server.label} runs again`)),
      (error: unknown) => complain(String(error)),
    );
  }

  #pauseBeforeRestart(name: string): number | undefined {
    const now = Date.now();
    const recent = (this.#restarts.get(name) ?? []).filter((at) => now - at < restartsWithinMs);
    if (recent.length >= restartsAtMost) return undefined;
    this.#restarts.set(name, [...recent, now]);
    return 200 * 2 ** recent.length;
  }

  /** The log of this run; that of the run before is kept beside it. */
  #freshLog(name: string): string {
    const file = join(this.stateDir, 'logs', `${name}.log`);
    if (existsSync(file) && statSync(file).size > 0) renameSync(file, `${file}.1`);
    return file;
  }

  // One installation at a time: two over the same data would each believe to be alone.

  get #claimFile(): string {
    return join(this.stateDir, 'running.json');
  }

  #claim(): 'clean' | 'after a crash' {
    const isStale = existsSync(this.#claimFile);
    if (existsSync(this.#claimFile)) {
      const { pid, startedAt } = JSON.parse(readFileSync(this.#claimFile, 'utf8') || '{}');
      if (pid !== process.pid && startedAt !== undefined && startedAt === startOf(pid)) {
        throw new Error(
          `Keystead already runs from this folder, as process ${pid}. Stop it with Ctrl-C where it ` +
            `runs, or with: kill ${pid}`,
        );
      }
    }
    const claim = { pid: process.pid, startedAt: startOf(process.pid) };
    writeFileSync(this.#claimFile, JSON.stringify(claim), { mode: 0o600 });
    this.#isClaimed = true;
    return isStale ? 'after a crash' : 'clean';
  }

  /** The guard ends what a killed start has left, which takes seconds: its ports are still taken. */
  async #untilLeftoversAreGone(): Promise<void> {
    const file = join(this.stateDir, 'ports.json');
    if (!existsSync(file)) return;
    const ports: number[] = Object.values(JSON.parse(readFileSync(file, 'utf8')));
    const deadline = Date.now() + 5_000;
    for (const port of ports) {
      while (Date.now() < deadline && !(await isPortFreeEverywhere(port))) await delay(100);
    }
  }

  #release(): void {
    if (this.#isClaimed) rmSync(this.#claimFile, { force: true });
  }
}

/** What tells a process from a later one with the same id; undefined when there is none. */
function startOf(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ');
    return fields?.[19];
  } catch {
    if (existsSync('/proc/self')) return undefined;
  }
  try {
    process.kill(pid, 0);
    return 'alive';
  } catch {
    return undefined;
  }
}

/**
 * Ends in order on Ctrl-C, SIGTERM, a closed terminal, and when the process that started this one is
 * gone. More of them while it ends change nothing: it is bounded anyway.
 */
export function endWith(installation: Installation, what = 'Stopping'): void {
  let isEnding = false;
  const end = async () => {
    if (isEnding) return;
    isEnding = true;
    const startedAt = Date.now();
    say(`\n${what} …`);
    const bound = setTimeout(() => process.exit(1), 4_900);
    bound.unref();
    await installation.stop();
    say(`Stopped in ${((Date.now() - startedAt) / 1_000).toFixed(1)} s. The data is kept.`);
    process.exit(0);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => void end());
  // A terminal that is gone must not end us before the children are.
  process.stdout.on('error', () => undefined);
  process.stderr.on('error', () => undefined);
  watchParent(() => void end());
}

/** tools/bootstrap.mjs holds the other end of this pipe as long as it lives. */
function watchParent(onGone: () => void): void {
  if (process.env.KEYSTEAD_PARENT_PIPE !== '3') return;
  import('node:net').then(({ Socket }) => {
    const pipe = new Socket({ fd: 3, readable: true, writable: false });
    pipe.on('error', () => undefined);
    pipe.on('close', onGone);
    pipe.resume();
    pipe.unref();
  });
}
