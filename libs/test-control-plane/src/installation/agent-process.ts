import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { guardChild } from '../infrastructure/child-guard.ts';
import { freePort, isPortFree } from '../infrastructure/free-port.ts';
import type { EnrollmentToken } from './api.ts';
import { repository, withoutOurs } from './service-process.ts';

const program = join(repository, 'apps', 'vault-agent', 'bin', 'keystead-agent');

const environment = () => ({
  ...withoutOurs(process.env),
  // The command finds its Node on the PATH; it must be the pinned one.
  PATH: `${join(repository, 'node_modules', '.bin')}${delimiter}${process.env.PATH}`,
});

const usualPort = 8200;

export interface EnrollOptions {
  readonly enrollment: Pick<EnrollmentToken, 'token' | 'caFingerprint' | 'agentEndpoint'>;
  /** Where the agent keeps its key, its configuration and its queue. */
  readonly data: string;
  /** What the agent is called; its machine's name when left out. */
  readonly agentName?: string;
  /** The vault's name, where the token does not give one. */
  readonly vaultName?: string;
}

/** A real agent: the same program customers run. */
export class AgentProcess {
  readonly data: string;
  readonly logFile: string;
  readonly #onUnexpectedExit: (how: string) => void;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #endIsExpected = true;

  constructor(data: string, onUnexpectedExit: (how: string) => void = () => undefined) {
    this.data = data;
    this.logFile = join(data, 'agent.log');
    this.#onUnexpectedExit = onUnexpectedExit;
  }

  static isEnrolled(data: string): boolean {
    return existsSync(join(data, 'vault.yaml'));
  }

  /** @throws Error with the agent's own words when it is refused. */
  static async enroll(options: EnrollOptions): Promise<void> {
    const { enrollment, data, agentName, vaultName } = options;
    mkdirSync(data, { recursive: true, mode: 0o700 });
    const args = [
      'enroll',
      ...['--endpoint', enrollment.agentEndpoint],
      ...['--token', enrollment.token],
      ...['--ca-fingerprint', enrollment.caFingerprint],
      ...['--data', data],
      ...(agentName === undefined ? [] : ['--agent-name', agentName]),
      ...(vaultName === undefined ? [] : ['--name', vaultName]),
    ];
    await promisify(execFile)(program, args, {
      cwd: repository,
      env: environment(),
      timeout: 60_000,
    }).catch((error: { stdout?: string; stderr?: string; message: string }) => {
      const said = `${error.stdout ?? ''}${error.stderr ?? ''}`.trim();
      throw new Error(`keystead-agent enroll failed: ${said || error.message}`);
    });
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get configFile(): string {
    return join(this.data, 'vault.yaml');
  }

  /** Fits its file to this machine: where it dials, and a port of its own for its HTTP server. */
  async adjust(agentEndpoint: string): Promise<void> {
    const text = readFileSync(this.configFile, 'utf8');
    const port = Number(/^\s+port:\s*(\d+)\s*$/m.exec(text)?.[1]);
    // The usual port is left to whoever tries an agent by hand beside these.
    const ownPort = port !== usualPort && (await isPortFree(port)) ? port : await freePort();
    const changed = text
      .replace(/^(\s+endpoint:\s*).*$/m, (_line, key: string) => `${key}"${agentEndpoint}"`)
      .replace(/^(\s+port:\s*)\d+\s*$/m, (_line, key: string) => `${key}${ownPort}`);
    if (changed !== text) writeFileSync(this.configFile, changed);
  }

  start(): void {
    if (this.#child !== undefined) throw new Error(`the agent in ${this.data} runs already`);
    const log = openSync(this.logFile, 'a', 0o600);
    const child = spawn(program, ['run', '--config', this.configFile], {
      cwd: this.data,
      env: environment(),
      stdio: ['ignore', log, log],
      detached: true,
    });
    closeSync(log);
    this.#child = child;
    this.#endIsExpected = false;
    this.#exited = new Promise((settle) => {
      const ended = (how: string) => {
        if (this.#child === child) this.#child = undefined;
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

  /** In order: it says goodbye. */
  async stop(timeoutMs = 2_000): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#endIsExpected = true;
    child.kill('SIGCONT');
    child.kill('SIGTERM');
    const force = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    await this.#exited;
    clearTimeout(force);
  }

  /** As a crash: it says nothing to anybody. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#endIsExpected = true;
    child.kill('SIGKILL');
    await this.#exited;
  }

  freeze(): void {
    this.#child?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#child?.kill('SIGCONT');
  }
}
