import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { guardChild } from './child-guard.ts';

export interface ChildServerCommand {
  /** What people call it, as in "PostgreSQL". */
  readonly label: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly port: number;
  readonly logFile: string;
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly uid?: number;
  readonly gid?: number;
  /** The signal that asks for an orderly end. */
  readonly stopSignal: NodeJS.Signals;
  /** Whether it takes requests; asked again and again until it does. */
  readonly isReady: () => Promise<boolean>;
  readonly readyTimeoutMs?: number;
}

/**
 * A server that runs as a child of this process: started, stopped, killed and started again on the
 * same port and data. It has a session of its own, so that a Ctrl-C at the terminal reaches only the
 * process that orders the stop, which ends its clients first.
 */
export class ChildServer {
  readonly #command: ChildServerCommand;
  readonly #onUnexpectedExit: (message: string) => void;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #endIsExpected = false;

  constructor(command: ChildServerCommand, onUnexpectedExit: (message: string) => void) {
    this.#command = command;
    this.#onUnexpectedExit = onUnexpectedExit;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  async start(): Promise<void> {
    const { label, program, args, logFile, cwd, env, uid, gid } = this.#command;
    const log = openSync(logFile, 'a', 0o600);
    const child = spawn(program, args, {
      stdio: ['ignore', log, log],
      detached: true,
      ...(cwd === undefined ? {} : { cwd }),
      ...(env === undefined ? {} : { env }),
      ...(uid === undefined ? {} : { uid }),
      ...(gid === undefined ? {} : { gid }),
    });
    closeSync(log);
    this.#child = child;
    this.#endIsExpected = false;
    let end: string | undefined;
    this.#exited = new Promise((resolve) => {
      child.once('error', (error) => {
        end = `could not be started: ${error.message}`;
        resolve();
      });
      child.once('exit', (code, signal) => {
        end ??= `ended ${signal ? `by ${signal}` : `with code ${code}`}`;
        if (this.#child === child) this.#child = undefined;
        resolve();
      });
    });
    guardChild(child);

    const deadline = Date.now() + (this.#command.readyTimeoutMs ?? 30_000);
    for (;;) {
      if (end !== undefined) throw new Error(`${label} ${end}.\n${this.#lastLogLines()}`);
      if (await this.#command.isReady().catch(() => false)) break;
      if (Date.now() > deadline) {
        await this.kill();
        throw new Error(`${label} took no requests in time.\n${this.#lastLogLines()}`);
      }
      await delay(20);
    }
    void this.#exited.then(() => {
      if (!this.#endIsExpected) {
        this.#onUnexpectedExit(`${label} ${end} and nobody asked it to.\n${this.#lastLogLines()}`);
      }
    });
  }

  /** Ends it in order; by force when that takes longer than the time given. */
  async stop(timeoutMs = 3_000): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#endIsExpected = true;
    child.kill('SIGCONT');
    child.kill(this.#command.stopSignal);
    const force = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    await this.#exited;
    clearTimeout(force);
  }

  /** Ends it as a crash would: no chance to write anything down. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#endIsExpected = true;
    child.kill('SIGKILL');
    await this.#exited;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  #lastLogLines(): string {
    try {
      const lines = readFileSync(this.#command.logFile, 'utf8').trimEnd().split('\n').slice(-12);
      return `The end of ${this.#command.logFile}:\n  ${lines.join('\n  ')}`;
    } catch {
      return `It wrote nothing to ${this.#command.logFile}.`;
    }
  }
}

/** Connects, sends, and says whether the answer came to contain the text. */
export function answers(
  port: number,
  send: string,
  expected: string,
  timeoutMs = 1_000,
): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ port, host: '127.0.0.1' });
    let answer = '';
    const end = (found: boolean) => {
      socket.destroy();
      resolve(found);
    };
    socket.setTimeout(timeoutMs, () => end(false));
    socket.once('error', () => end(false));
    socket.once('close', () => resolve(false));
    socket.once('connect', () => send !== '' && socket.write(send));
    socket.on('data', (bytes) => {
      answer += bytes.toString('latin1');
      if (answer.includes(expected)) end(true);
    });
  });
}
