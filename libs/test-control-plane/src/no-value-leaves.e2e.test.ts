/** No secret value leaves the agent: known values, in twelve encodings, are searched for everywhere else. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { Redis } from 'ioredis';
import pg from 'pg';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { Canary, CanarySearch, encodingNames, planted } from './canaries.fixture.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { createTenant } from './demonstration.fixture.ts';
import type { AgentProcess } from './installation/agent-process.ts';
import { repository } from './installation/service-process.ts';

let controlPlane: ControlPlane;
let agent: AgentProcess;
let observer: NatsConnection;
let send: (method: string, path: string, body?: unknown) => Promise<Response>;
const onTheBus: Buffer[] = [];

beforeAll(async () => {
  const { busRights } = await import(join(repository, 'libs/messaging/src/bus-rights.ts'));
  controlPlane = await startControlPlane({
    natsUsers: [...busRights(), { service: 'observer', publish: [], subscribe: ['>'] }],
  });
  observer = await connect(natsOptions(controlPlane.infrastructure.natsUrl('observer')));
  observer.subscribe('>', {
    callback: (_error, message) => {
      onTheBus.push(Buffer.from(`${message.subject} `), Buffer.from(message.data));
    },
  });
  const tenant = await createTenant(controlPlane, 15);
  agent = await controlPlane.startAgent(tenant.api, { name: 'payments-1', vault: 'payments' });
  const port = () => /^\s+port:\s*(\d+)/m.exec(readFileSync(agent.configFile, 'utf8'))?.[1];
  const address = `http://127.0.0.1:${port()}`;
  await vi.waitFor(async () => expect((await fetch(`${address}/readyz`)).status).toBe(200), {
    timeout: 60_000,
    interval: 200,
  });
  const program = join(repository, 'apps', 'vault-agent', 'bin', 'keystead-agent');
  const { stdout } = await promisify(execFile)(program, [
    'init',
    ...['--config', agent.configFile, '--json'],
  ]);
  const { key } = JSON.parse(stdout) as { key: string };
  send = (method, path, body) =>
    fetch(`${address}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${key}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
});
afterAll(async () => {
  await observer?.close();
  await controlPlane?.stop();
});

function natsOptions(url: string) {
  const { hostname, port, username, password } = new URL(url);
  return { servers: `${hostname}:${port}`, user: username, pass: password };
}

const canaries = [
  new Canary('created'),
  new Canary('updated'),
  new Canary('refused'),
  new Canary('malformed'),
];
const [created, updated, refused, malformed] = canaries as [Canary, Canary, Canary, Canary];
const secretPath = '/v1/namespaces/canaries/secrets/where%2Fit%2Fis';

test('values are kept, read, changed and refused, and heads and usage of it arrive', async () => {
  expect((await send('POST', '/v1/namespaces', { name: 'canaries' })).status).toBe(201);
  const made = await send('POST', '/v1/namespaces/canaries/secrets', {
    name: 'where/it/is',
    value: created.value,
  });
  expect(made.status).toBe(201);
  const again = await send('POST', '/v1/namespaces/canaries/secrets', {
    name: 'where/it/is',
    value: refused.value,
  });
  expect(again.status).toBe(409);
  const bad = await send('POST', '/v1/namespaces/canaries/secrets', {
    name: 'x',
    value: { [malformed.value]: malformed.value },
    unknown: malformed.value,
  });
  expect(bad.status).toBe(400);
  await send('GET', `/v1/namespaces/canaries/secrets/${encodeURIComponent(malformed.value)}/value`);
  await send('GET', `/v1/audit?secret=${encodeURIComponent(malformed.value)}`);
  const changed = await send('PUT', `${secretPath}/value`, { value: updated.value });
  expect(changed.status).toBeLessThan(300);
  const read = await send('GET', `${secretPath}/value`);
  expect(await read.text()).toContain(JSON.stringify(updated.value).slice(1, 20));
  const database = new pg.Client({ connectionString: controlPlane.databases.acrossUrl });
  await database.connect();
  try {
    await vi.waitFor(
      async () => {
        const { rows } = await database.query(
          'select count(*)::int as heads from monitoring.audit_head',
        );
        expect(rows[0].heads).toBeGreaterThan(0);
      },
      { timeout: 60_000, interval: 250 },
    );
  } finally {
    await database.end();
  }
  // The last words of a run: its usage and its last head.
  await agent.stop(5_000);
  agent.start();
});

test('none of them stands in the database, on the bus, in Redis, in a log, the audit, the queue or the metrics', async () => {
  const search = new CanarySearch(canaries);
  await searchDatabase(search, controlPlane.databases.acrossUrl);
  for (const bytes of onTheBus) search.bytes('bus', bytes);
  await searchRedis(search, controlPlane.infrastructure.redisUrl);
  await search.folder(join(controlPlane.folder, 'logs'), 'logs of the services');
  // Everything of the agent but the store; the store is where they are, and they are not readable there either.
  await search.folder(agent.data, 'files of the agent');
  await vi.waitFor(async () => expect((await send('GET', '/readyz')).status).toBe(200), {
    timeout: 60_000,
    interval: 200,
  });
  search.text('metrics', await (await send('GET', '/metrics')).text());
  search.text('audit over HTTP', await (await send('GET', '/v1/audit?limit=1000')).text());
  search.text('health', await (await send('GET', '/healthz')).text());
  expect(search.findings).toEqual([]);
  for (const place of [
    'database',
    'bus',
    'redis',
    'logs of the services',
    'files of the agent',
    'metrics',
    'audit over HTTP',
  ]) {
    expect(search.searched.get(place), place).toBeGreaterThan(500);
  }
});

test('the same searches find what is planted there', async () => {
  const control = new Canary('control');
  const search = new CanarySearch([control]);
  const redis = new Redis(controlPlane.infrastructure.redisUrl);
  const database = new pg.Client({ connectionString: controlPlane.databases.acrossUrl });
  await database.connect();
  try {
    for (const encoding of encodingNames) {
      await redis.set(`control:${encoding}`, planted(control, encoding));
    }
    await searchRedis(search, controlPlane.infrastructure.redisUrl);
    expect(new Set(search.findings.map(({ encoding }) => encoding))).toEqual(
      new Set(encodingNames),
    );
    await database.query('begin');
    await database.query(
      'create temporary table control (content text, bytes bytea) on commit drop',
    );
    await database.query('insert into control values ($1, $2)', [
      control.value,
      planted(control, 'UTF-16, little-endian'),
    ]);
    const inDatabase = new CanarySearch([control]);
    await searchTable(inDatabase, database, 'control');
    expect(inDatabase.findings.map(({ encoding }) => encoding)).toEqual(
      expect.arrayContaining(['UTF-16, little-endian', 'plain']),
    );
  } finally {
    await database.query('rollback');
    await database.end();
    redis.disconnect();
  }
});

async function searchDatabase(search: CanarySearch, url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<{ name: string }>(
      `select format('%I.%I', schemaname, tablename) as name from pg_tables
       where schemaname in ('auth','registry','monitoring','policy','analytics','notification','messaging')`,
    );
    for (const { name } of rows) await searchTable(search, client, name);
  } finally {
    await client.end();
  }
}

/** Texts as they are; bytes as they are, not as hexadecimal digits of an encoding. */
async function searchTable(search: CanarySearch, client: pg.Client, name: string): Promise<void> {
  const { rows } = await client
    .query<Record<string, unknown>>(`select * from ${name}`)
    .catch(() => ({ rows: [] }));
  for (const row of rows) {
    for (const value of Object.values(row)) {
      if (Buffer.isBuffer(value)) search.bytes('database', value);
      else if (typeof value === 'string') search.text('database', value);
      else search.text('database', JSON.stringify(value) ?? '');
    }
  }
}

async function searchRedis(search: CanarySearch, url: string): Promise<void> {
  const redis = new Redis(url);
  try {
    // Compressed values would hide what they hold.
    await redis.config('SET', 'rdbcompression', 'no');
    for (const key of await redis.keys('*')) {
      search.text('redis', key);
      search.bytes('redis', (await redis.dumpBuffer(key)) ?? Buffer.alloc(0));
    }
  } finally {
    redis.disconnect();
  }
}
