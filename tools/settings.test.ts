import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { choosePorts } from './settings.ts';

let folder: string;
const servers: Server[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keystead-ports-'));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await Promise.all(servers.splice(0).map((server) => new Promise((done) => server.close(done))));
  rmSync(folder, { recursive: true });
});

/** A port that somebody listens on, at an address that is not ours. */
async function takenPort(host: string): Promise<number> {
  const server = createServer();
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  return (server.address() as { port: number }).port;
}

const choose = (said: string[] = []) =>
  choosePorts(join(folder, 'ports.json'), (line) => said.push(line));

test('a port that the environment names is used', async () => {
  const port = await takenPort('127.0.0.1');
  await new Promise((done) => servers.splice(0)[0]?.close(done));
  vi.stubEnv('KEYSTEAD_HTTP_PORT', String(port));
  expect((await choose()).http).toBe(port);
});

test.each(['127.0.0.1', '0.0.0.0'])(
  'a port that the environment names and %s has taken is an error that says so',
  async (host) => {
    const port = await takenPort(host);
    vi.stubEnv('KEYSTEAD_AGENT_PORT', String(port));
    await expect(choose()).rejects.toThrow(`Port ${port} for the agent link is taken`);
  },
);

test.each(['http', '0', '70000', '80.5'])('%s is no port', async (text) => {
  vi.stubEnv('KEYSTEAD_INBOX_PORT', text);
  await expect(choose()).rejects.toThrow(/KEYSTEAD_INBOX_PORT is ".*"; it must be a port/);
});

test('ports are different, and one that moved is told', async () => {
  const said: string[] = [];
  const ports = await choose(said);
  expect(new Set(Object.values(ports)).size).toBe(4);
  const usual = { http: 8080, agent: 8443, inbox: 8025 } as const;
  for (const name of ['http', 'agent', 'inbox'] as const) {
    const isTold = said.some((line) => line.startsWith(`Port ${usual[name]} is taken`));
    expect(isTold).toBe(ports[name] !== usual[name]);
  }
});
