import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { guardChild } from '../infrastructure/child-guard.ts';
import type { ServiceName } from '../infrastructure/infrastructure.ts';

/** The top of the repository. */
export const repository = resolve(import.meta.dirname, '..', '..', '..', '..');

/** What the services have in common is compiled once, not seven times at every start. */
const compileCache = { NODE_COMPILE_CACHE: join(repository, 'node_modules/.cache/keystead') };

export interface ServiceProcessOptions {
  readonly service: ServiceName;
  /** What it reads; nothing else of ours goes with it. */
  readonly environment: Readonly<Record<string, string>>;
  readonly logFile: string;
  readonly onUnexpectedExit?: (how: string) => void;
}

/** One built service as a process: `node apps/NAME/dist/main.js`. */
export class ServiceProcess {
  readonly service: ServiceName;
  readonly logFile: string;
  environment: Readonly<Record<string, string>>;
  readonly #onUnexpectedExit: (how: string) => void;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #end: string | undefined;
  #endIsExpected = true;

  constructor(options: ServiceProcessOptions) {
    this.service = options.service;
    this.environment = options.environment;
    this.logFile = options.logFile;
    this.#onUnexpectedExit = options.onUnexpectedExit ?? (() => undefined);
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Where its /healthz, /readyz and /metrics are. */
  get healthUrl(): string {
    return `http://127.0.0.1:${this.environment.KEYSTEAD_HEALTH_PORT}`;
  }

  /** Starts it without waiting for it. */
  launch(): void {
    if (this.#child !== undefined) throw new Error(`${this.service} runs already`);
    const log = openSync(this.logFile, 'a', 0o600);
    const child = spawn(
      process.execPath,
      ['--enable-source-maps', join(repository, 'apps', this.service, 'dist', 'main.js')],
      {
        cwd: repository,
        env: { ...withoutOurs(process.env), ...compileCache, ...this.environment },
        stdio: ['ignore', log, log],
        // A session of its own: a Ctrl-C at the terminal is for the process that orders the stop.
        detached: true,
      },
    );
    closeSync(log);
    this.#child = child;
    this.#end = undefined;
    this.#endIsExpected = false;
    this.#exited = new Promise((settle) => {
      const ended = (how: string) => {
        if (this.#child === child) this.#child = undefined;
        this.#end = how;
        settle();
        if (!this.#endIsExpected) this.#onUnexpectedExit(how);
      };
      child.once('error', (error) => ended(`could not be started: ${error.message}`));
      child.once('exit', (code, signal) =>
        ended(signal ? `ended by ${signal}` : `ended with code ${code}`),
      );
    });
    guardChild(child);
  }

  async untilReady(timeoutMs = 60_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    let lastAnswer = 'nothing listens';
    for (;;) {
      if (this.#end !== undefined) {
        throw new Error(`${this.service} ${this.#end}.\n${this.lastLogLines()}`);
      }
      try {
        const answer = await fetch(`${this.healthUrl}/readyz`, {
          signal: AbortSignal.timeout(2_000),
        });
        if (answer.ok) return;
        lastAnswer = `${answer.status} ${(await answer.text()).slice(0, 300)}`;
      } catch {
        // Not listening yet.
      }
      if (Date.now() > deadline) {
        throw new Error(
          `${this.service} was not ready within ${timeoutMs / 1_000} s (/readyz: ${lastAnswer}).\n` +
            this.lastLogLines(),
        );
      }
      await delay(40);
    }
  }

  async start(timeoutMs?: number): Promise<void> {
    this.launch();
    await this.untilReady(timeoutMs);
  }

  /** SIGTERM, and SIGKILL when that takes longer than the time given. */
  async stop(timeoutMs = 3_000): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#endIsExpected = true;
    child.kill('SIGCONT');
    child.kill('SIGTERM');
    const force = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    await this.#exited;
    clearTimeout(force);
  }

  /** Ends it by a signal, by default as a crash would, and waits for the end. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#endIsExpected = true;
    child.kill(signal);
    await this.#exited;
  }

  /** SIGSTOP: its connections stay, it answers nothing. */
  freeze(): void {
    this.#child?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#child?.kill('SIGCONT');
  }

  async restart(timeoutMs?: number): Promise<void> {
    await this.stop();
    await this.start(timeoutMs);
  }

  lastLogLines(count = 15): string {
    try {
      const lines = readFileSync(this.logFile, 'utf8').trimEnd().split('\n').slice(-count);
      return `The end of ${this.logFile}:\n  ${lines.join('\n  ')}`;
    } catch {
      return `It wrote nothing to ${this.logFile}.`;
    }
  }
}

/**
 * Ends them all within the time given. A gateway tells monitoring that the silence to come is its own, and
 * would wait for an answer in vain where that is gone: monitoring ends after it.
 */
export async function stopServices(
  services: Iterable<ServiceProcess>,
  withinMs = 3_000,
): Promise<void> {
  const all = [...services];
  const deadlineMs = performance.now() + withinMs;
  const stop = (each: ServiceProcess, share = 1) =>
    each.stop(Math.max(0, deadlineMs - performance.now()) * share);
  const named = (name: ServiceName) => all.filter(({ service }) => service === name);
  const others = all.filter(({ service }) => service !== 'gateway' && service !== 'monitoring');
  const told = Promise.all(named('gateway').map((each) => stop(each, 2 / 3)));
  await Promise.all([
    told.then(() => Promise.all(named('monitoring').map((each) => stop(each)))),
    ...others.map((each) => stop(each)),
  ]);
}

/** A setting of the developer's shell must not change what a service does here. */
export function withoutOurs(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const foreign = ([name]: [string, unknown]) =>
    !/^(KEYSTEAD_|npm_|PG|NODE_OPTIONS$|NODE_PATH$|VITEST|NODE_ENV$|TEST$)/.test(name);
  return {
    ...Object.fromEntries(Object.entries(environment).filter(foreign)),
    NODE_ENV: 'production',
  };
}
