import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { InboxMessage } from '@keystead/test-control-plane/inbox/message';
import { afterAll, describe, expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const stateDir = mkdtempSync(join(tmpdir(), 'keystead-start-'));

/** `npm start` behind its bootstrap, with a state folder of its own. */
class Start {
  readonly #child: ChildProcess;
  readonly exited: Promise<number | null>;
  output = '';

  constructor(args: string[] = [], environment: Record<string, string> = {}) {
    const inherited = Object.entries(process.env).filter(
      ([name]) => !/^(KEYSTEAD|npm)_/.test(name),
    );
    this.#child = spawn(
      process.execPath,
      [join(root, 'tools', 'bootstrap.mjs'), 'start', ...args],
      {
        cwd: root,
        env: {
          ...Object.fromEntries(inherited),
          KEYSTEAD_STATE_DIR: stateDir,
          NO_COLOR: '1',
          ...environment,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    const collect = (bytes: Buffer) => {
      this.output += bytes.toString();
    };
    this.#child.stdout?.on('data', collect);
    this.#child.stderr?.on('data', collect);
    this.exited = new Promise((resolve) => this.#child.once('exit', (code) => resolve(code)));
  }

  async ready(timeoutMs: number): Promise<void> {
    const ended = this.exited.then((code) => {
      throw new Error(`it ended with ${code}:\n${this.output}`);
    });
    ended.catch(() => undefined);
    await Promise.race([
      ended,
      expect.poll(() => this.output, { timeout: timeoutMs }).toContain('Keystead is ready'),
    ]);
  }

  /** The first address that a line of the summary names. */
  address(label: string): string {
    const [, address] = new RegExp(`^ +${label} +(\\S+)`, 'm').exec(this.output) ?? [];
    if (address === undefined) throw new Error(`no ${label} in:\n${this.output}`);
    return address;
  }

  get agents(): number[] {
    return [...this.output.matchAll(/kill -9 (\d+)/g)].map(([, pid]) => Number(pid));
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async stop(): Promise<{ code: number | null; tookMs: number }> {
    const startedAt = Date.now();
    this.signal('SIGTERM');
    const code = await this.exited;
    return { code, tookMs: Date.now() - startedAt };
  }
}

const running: Start[] = [];
function start(args?: string[], environment?: Record<string, string>): Start {
  const started = new Start(args, environment);
  running.push(started);
  return started;
}

/** Those that are still there. */
function leftovers(pids: readonly number[]): number[] {
  return pids.filter((pid) => {
    try {
      process.kill(pid, 0);
      return true;
    } catch {
      return false;
    }
  });
}

const messages = async (inbox: string) =>
  ((await (await fetch(`${inbox}/messages.json`)).json()) as { items: InboxMessage[] }).items;

afterAll(async () => {
  await Promise.all(running.map((each) => each.stop()));
  const data = join(stateDir, 'postgresql');
  if (existsSync(data)) {
    const real = realpathSync(data);
    // The guard ends what the last test has left; until then the server writes into its folder.
    const deadline = Date.now() + 15_000;
    while (existsSync(join(real, 'postmaster.pid')) && Date.now() < deadline) await delay(100);
    rmSync(real, { recursive: true, force: true });
    rmSync(`${real}.of`, { force: true });
  }
  rmSync(stateDir, { recursive: true, force: true });
});

describe('npm start', () => {
  let first: Start;

  test('brings three real agents online, in one organization and not in the other', async () => {
    first = start();
    await first.ready(120_000);
    expect((await fetch(`${first.address('API')}/readyz`)).status).toBe(200);
    expect((await fetch(first.address('Docs'))).status).toBe(200);
    const { main, other } = JSON.parse(readFileSync(join(stateDir, 'demo.json'), 'utf8'));
    const agentsOf = async ({ owner }: { owner: { email: string; password: string } }) => {
      const api = first.address('API');
      const session = await fetch(`${api}/v1/sessions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ email: owner.email, password: owner.password }),
      });
      const { accessToken } = (await session.json()) as { accessToken: string };
      const answer = await fetch(`${api}/v1/agents`, {
        headers: { authorization: `Bearer ${accessToken}` },
      });
      const { items } = (await answer.json()) as { items: { name: string; status: string }[] };
      return items.map(({ name, status }) => `${name} ${status}`).sort();
    };
    expect(await agentsOf(main)).toEqual([
      'backups-1 online',
      'payments-1 online',
      'reporting-1 online',
    ]);
    expect(await agentsOf(other)).toEqual([]);
  });

  test('a second one from the same folder says that one runs, and leaves it alone', async () => {
    const second = start();
    expect(await second.exited).toBe(1);
    expect(second.output).toMatch(/already runs from this folder, as process \d+/);
    expect((await fetch(`${first.address('API')}/readyz`)).status).toBe(200);
  });

  test('an agent that is killed is told in a mailbox, in Slack and by a signed webhook', async () => {
    const inbox = first.address('Inbox');
    process.kill(first.agents[1] as number, 'SIGKILL');
    const told = async () =>
      (await messages(inbox))
        .filter(({ kind, subject }) =>
          kind === 'webhook' ? subject === 'vault.offline' : /reporting.*offline/.test(subject),
        )
        .map(({ kind, verdict }) => `${kind} ${verdict.result}`)
        .sort();
    await expect
      .poll(told, { timeout: 120_000, interval: 500 })
      .toEqual(['email unchecked', 'slack valid', 'webhook valid']);
  });

  test('SIGTERM stops everything within five seconds', async () => {
    const agents = first.agents;
    const { code, tookMs } = await first.stop();
    expect(code, first.output).toBe(0);
    expect(tookMs).toBeLessThan(5_000);
    expect(leftovers(agents)).toEqual([]);
    // Each part could say its last word: who is to hear it ends later.
    const said = readFileSync(join(stateDir, 'logs', 'gateway.log'), 'utf8');
    expect(said).toContain('stopping');
    expect(said).not.toContain('monitoring does not know');
    await expect(fetch(`${first.address('API')}/readyz`)).rejects.toThrow();
    await expect(fetch(first.address('Inbox'))).rejects.toThrow();
  });

  test('the next one keeps the data, enrols nobody again, and moves from ports that are taken', async () => {
    const taken: Server[] = [];
    const before = [first.address('API'), first.address('Inbox')].map((url) => new URL(url).port);
    for (const port of new Set([8080, 8025, ...before.map(Number)])) {
      const server = createServer();
      taken.push(server);
      // Where somebody else has taken it already, all the better.
      await new Promise<void>((resolve) => {
        server.once('error', () => resolve());
        server.listen(port, resolve);
      });
    }
    const second = start();
    try {
      await second.ready(120_000);
      expect(second.output).not.toMatch(/enrolled|applied|keys were made/);
      expect(second.output).toMatch(/is taken: the API is on \d+ instead/);
      expect(second.output).toMatch(/is taken: the inbox is on \d+ instead/);
      expect(second.agents).toHaveLength(3);
      // What was stopped in order is told now, by channels that followed the inbox to its new port.
      await expect
        .poll(async () => (await messages(second.address('Inbox'))).length, { timeout: 60_000 })
        .toBeGreaterThan(0);
    } finally {
      for (const server of taken) server.close();
      expect((await second.stop()).code).toBe(0);
    }
  });

  test('a port that is named and taken is an error that says so', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const refused = start([], { KEYSTEAD_HTTP_PORT: String(port) });
    expect(await refused.exited).toBe(1);
    expect(refused.output).toContain(`Port ${port} for the API is taken`);
    server.close();
  });

  test('a kill -9 of what npm runs stops the rest too', async () => {
    const killed = start(['--empty']);
    await killed.ready(120_000);
    const api = killed.address('API');
    killed.signal('SIGKILL');
    await expect
      .poll(
        () =>
          fetch(`${api}/readyz`).then(
            () => 'there',
            () => 'gone',
          ),
        { timeout: 15_000 },
      )
      .toBe('gone');
  });
});
