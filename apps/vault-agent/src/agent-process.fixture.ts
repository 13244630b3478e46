/** An agent as its owner has it: made by `init`, run as a process of its own, spoken to over HTTP. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

export const nodeArguments = [
  '--conditions=keystead-source',
  '--disable-warning=ExperimentalWarning',
  new URL('./main.ts', import.meta.url).pathname,
];

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: what an answer holds is what its test looks at
  body: any;
}

export interface Sending {
  key?: string | undefined;
  body?: unknown;
  bytes?: Buffer;
  headers?: Record<string, string>;
}

/** A command of the agent, to its end. */
export async function command(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<{ code: number; output: string; errors: string }> {
  const run = promisify(execFile);
  try {
    const { stdout, stderr } = await run(process.execPath, [...nodeArguments, ...args], {
      env: { ...process.env, ...env },
    });
    return { code: 0, output: stdout, errors: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, output: stdout, errors: stderr };
  }
}

export class TestAgent {
  readonly folder: string;
  readonly configuration: string;
  /** The first key, with the role admin. */
  readonly adminKey: string;
  port = 0;
  #process: ChildProcess | undefined;
  #output = '';
  #exited: Promise<number | null> = Promise.resolve(null);
  #tls: HttpsAgent | undefined;

  private constructor(folder: string, adminKey: string) {
    this.folder = folder;
    this.configuration = join(folder, 'vault.yaml');
    this.adminKey = adminKey;
  }

  /** Initialized and not running. */
  static async make(change: (yaml: string) => string = (yaml) => yaml): Promise<TestAgent> {
    const folder = mkdtempSync(join(tmpdir(), 'keystead-agent-'));
    const { code, output, errors } = await command([
      'init',
      ...['--data', folder, '--port', '0', '--json'],
    ]);
    if (code !== 0) throw new Error(errors);
    const agent = new TestAgent(folder, (JSON.parse(output) as { key: string }).key);
    agent.configure(change);
    return agent;
  }

  /** For a vault.yaml that is there, with the key that `init` makes, if it makes one. */
  static async initialize(folder: string): Promise<TestAgent> {
    const file = join(folder, 'vault.yaml');
    const { code, output, errors } = await command(['init', '--config', file, '--json']);
    if (code !== 0) throw new Error(errors);
    return new TestAgent(folder, (JSON.parse(output) as { key: string | null }).key ?? '');
  }

  static async start(change?: (yaml: string) => string): Promise<TestAgent> {
    const agent = await TestAgent.make(change);
    await agent.run();
    return agent;
  }

  configure(change: (yaml: string) => string): void {
    writeFileSync(this.configuration, change(readFileSync(this.configuration, 'utf8')));
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  get output(): string {
    return this.#output;
  }

  get exited(): Promise<number | null> {
    return this.#exited;
  }

  async run(env: Record<string, string> = {}): Promise<void> {
    this.#output = '';
    const child = spawn(
      process.execPath,
      [...nodeArguments, 'run', '--config', this.configuration],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, ...env },
      },
    );
    this.#process = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data: Buffer) => {
        this.#output += data;
      });
    }
    this.#exited = new Promise((resolve) => child.once('close', resolve));
    await this.until(() => /"msg":"serving"/.test(this.#output) || child.exitCode !== null, 60_000);
    const port = /"port":(\d+)/.exec(this.#output)?.[1];
    if (port === undefined) throw new Error(`it did not start: ${this.#output}`);
    this.port = Number(port);
  }

  kill(signal: NodeJS.Signals): void {
    this.#process?.kill(signal);
  }

  async stop(): Promise<void> {
    if (this.#process?.exitCode === null && this.#process.signalCode === null) {
      this.#process.kill('SIGTERM');
      await once(this.#process, 'close');
    }
    this.#tls?.destroy();
  }

  async remove(): Promise<void> {
    await this.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Trusts whatever certificate the agent has; `more` may give one of the client. */
  useTls(more: { cert?: string; key?: string } = {}): void {
    this.#tls = new HttpsAgent({ keepAlive: true, rejectUnauthorized: false, ...more });
  }

  send(method: string, path: string, sending: Sending = {}): Promise<Answer> {
    const { key = this.adminKey, body, headers = {} } = sending;
    const bytes =
      sending.bytes ?? (body === undefined ? undefined : Buffer.from(JSON.stringify(body)));
    return new Promise((resolve, reject) => {
      const options = {
        host: '127.0.0.1',
        port: this.port,
        method,
        path,
        ...(this.#tls === undefined ? {} : { agent: this.#tls }),
        headers: {
          ...(key === '' ? {} : { authorization: `Bearer ${key}` }),
          ...(bytes === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
      };
      const sent = (this.#tls === undefined ? httpRequest : httpsRequest)(options);
      sent.on('error', reject);
      sent.on('response', async (response) => {
        const chunks: Buffer[] = [];
        try {
          for await (const chunk of response) chunks.push(chunk as Buffer);
        } catch (error) {
          return reject(error);
        }
        const text = Buffer.concat(chunks).toString();
        const isJson = /[/+]json/.test(response.headers['content-type'] ?? '');
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text,
          body: isJson && text !== '' ? JSON.parse(text) : undefined,
        });
      });
      sent.end(bytes);
    });
  }

  /** A key made over HTTP. */
  async keyFor(roles: string[], more: Record<string, unknown> = {}): Promise<string> {
    const made = await this.send('POST', '/v1/api-keys', {
      body: { name: roles.join(' '), roles, ...more },
    });
    if (made.status !== 201) throw new Error(made.text);
    return made.body.key;
  }

  /** What the audit holds, an entry a line. */
  audit(file = 'audit.log'): Record<string, unknown>[] {
    return readFileSync(join(this.folder, file), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  async until(holds: () => boolean | Promise<boolean>, withinMs = 20_000): Promise<void> {
    const deadlineMs = performance.now() + withinMs;
    while (!(await holds())) {
      if (performance.now() > deadlineMs) throw new Error(`it did not come: ${this.#output}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
