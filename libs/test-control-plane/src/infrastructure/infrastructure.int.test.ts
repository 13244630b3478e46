import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { answers } from './child-server.ts';
import { dockerAnswers } from './docker.ts';
import { type Infrastructure, startInfrastructure } from './infrastructure.ts';

const temporaryFolder = () => mkdtempSync(join(tmpdir(), 'keystead-infrastructure-'));

async function until(holds: () => boolean | Promise<boolean>, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error('did not come true in time');
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe.runIf(!(await dockerAnswers()))('servers as child processes', () => {
  let infrastructure: Infrastructure;
  const died: string[] = [];
  const stateDir = temporaryFolder();

  beforeAll(async () => {
    infrastructure = await startInfrastructure({
      stateDir,
      purpose: 'test',
      useNamed: false,
      durable: true,
      natsUsers: [
        { service: 'auth', publish: ['auth.>'], subscribe: ['auth.>'] },
        { service: 'policy', publish: ['policy.>'], subscribe: ['policy.>'] },
      ],
      onServerDied: (message) => died.push(message),
    });
  });
  afterAll(() => infrastructure.stop());

  async function query(text: string): Promise<unknown[]> {
    const client = new pg.Client({ connectionString: infrastructure.databaseUrl });
    await client.connect();
    try {
      return (await client.query(text)).rows;
    } finally {
      await client.end();
    }
  }

  test('secrets lie where only their user can read them', () => {
    expect(statSync(stateDir).mode & 0o077).toBe(0);
    for (const name of ['infrastructure.json', 'redis.conf', 'nats.conf']) {
      expect(statSync(join(stateDir, name)).mode & 0o777).toBe(0o600);
    }
  });

  test('the owner of the database is no superuser and not above row-level security', async () => {
    expect(
      await query('select rolsuper, rolbypassrls from pg_roles where rolname = current_user'),
    ).toEqual([{ rolsuper: false, rolbypassrls: false }]);
  });

  test('what PostgreSQL committed is there after a SIGKILL and a restart', async () => {
    await query('create table if not exists kept (n int)');
    await query('insert into kept values (7)');
    const before = infrastructure.postgresql.pid();
    await infrastructure.postgresql.kill();
    await infrastructure.postgresql.restart();
    expect(infrastructure.postgresql.pid()).not.toBe(before);
    expect(await query('select n from kept')).toEqual([{ n: 7 }]);
  });

  test('Redis forgets everything when wiped, whether it runs or not', async () => {
    const { port } = infrastructure.redis;
    const { password } = new URL(infrastructure.redisUrl);
    const tell = (command: string, expected: string) =>
      answers(port, `AUTH ${password}\r\n${command}\r\n`, expected);
    expect(await tell('SET k v', '+OK\r\n+OK')).toBe(true);
    await infrastructure.redis.wipe();
    expect(await tell('EXISTS k', ':0')).toBe(true);
    expect(await tell('SET k v', '+OK\r\n+OK')).toBe(true);
    await infrastructure.redis.kill();
    await infrastructure.redis.wipe();
    expect(await tell('EXISTS k', ':0')).toBe(true);
    expect(await tell('CONFIG GET maxmemory-policy', 'noeviction')).toBe(true);
  });

  test('NATS lets a service say only what it may, and nobody without a password', async () => {
    const { port } = infrastructure.nats;
    const connect = (url: string) => {
      const { username, password } = new URL(url);
      return `CONNECT ${JSON.stringify({ user: username, pass: password, verbose: true, pedantic: false })}\r\n`;
    };
    const auth = connect(infrastructure.natsUrl('auth'));
    expect(await answers(port, `${auth}PUB auth.x 1\r\n1\r\nPING\r\n`, 'PONG')).toBe(true);
    expect(await answers(port, `${auth}PUB policy.x 1\r\n1\r\n`, 'Permissions Violation')).toBe(
      true,
    );
    expect(await answers(port, `${auth}SUB policy.> 1\r\n`, 'Permissions Violation')).toBe(true);
    expect(
      await answers(port, 'CONNECT {"verbose":false}\r\nPING\r\n', 'Authorization Violation'),
    ).toBe(true);
  });

  test('a server that dies though nobody asked is told about, with the end of its log', async () => {
    const pid = infrastructure.nats.pid() as number;
    process.kill(pid, 'SIGKILL');
    await until(() => died.length > 0, 5_000);
    expect(died[0]).toMatch(/^NATS ended by SIGKILL and nobody asked it to/);
    await infrastructure.nats.restart();
    expect(infrastructure.nats.pid()).not.toBe(pid);
  });

  test('a kill -9 of whoever started them leaves neither a process nor a file behind', async () => {
    const folder = temporaryFolder();
    const program = `
      import { startInfrastructure } from ${JSON.stringify(join(import.meta.dirname, 'infrastructure.ts'))};
      const it = await startInfrastructure({ stateDir: ${JSON.stringify(folder)}, purpose: 'test', useNamed: false });
      console.log(JSON.stringify([it.postgresql.pid(), it.redis.pid(), it.nats.pid()]));
      setInterval(() => undefined, 1000);
    `;
    const starter = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const pids: number[] = await new Promise((resolve, reject) => {
      createInterface(starter.stdout).once('line', (line) => resolve(JSON.parse(line)));
      starter.once('exit', () => reject(new Error('it ended early')));
    });
    expect(pids.every(isAlive)).toBe(true);
    starter.kill('SIGKILL');
    await until(() => !pids.some(isAlive) && !existsSync(folder), 10_000);
  });
});
