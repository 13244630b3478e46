/** The main job, with built processes and real agents: silence is told, once, to the right people. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { operations } from '@keystead/contracts/operations';
import { Redis } from 'ioredis';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { agentsOf, createTenant, statuses, type Tenant } from './demonstration.fixture.ts';
import type { AgentProcess } from './installation/agent-process.ts';

let controlPlane: ControlPlane;
let north: Tenant;
let south: Tenant;
let payments: AgentProcess;
let reports: AgentProcess;

beforeAll(async () => {
  controlPlane = await startControlPlane();
  north = await createTenant(controlPlane, 15);
  south = await createTenant(controlPlane, 15);
  payments = await controlPlane.startAgent(north.api, { name: 'payments-1', vault: 'payments' });
  reports = await controlPlane.startAgent(north.api, { name: 'reports-1', vault: 'reports' });
  await controlPlane.startAgent(south.api, { name: 'south-1', vault: 'south' });
  await vi.waitFor(
    async () => {
      const all = [...(await statuses(north.api)), ...(await statuses(south.api))];
      expect(all).toEqual(['payments-1 online', 'reports-1 online', 'south-1 online']);
    },
    { timeout: 60_000, interval: 250 },
  );
});
afterAll(() => controlPlane?.stop());

describe('an agent that goes silent', () => {
  test('is told to its own organization by mail, Slack and a signed webhook, and to nobody else', async () => {
    await payments.kill();
    const killedAt = Date.now();
    for (const kind of ['email', 'slack', 'webhook'] as const) {
      const message = await controlPlane.inbox.waitFor(
        (each) => each.kind === kind && north.received().includes(each),
        90_000,
      );
      expect(message.verdict.result, `${kind}: ${message.verdict.reason}`).not.toBe('invalid');
      const took = Date.parse(message.receivedAt) - killedAt;
      // The threshold of 15 s, one heartbeat, the group wait of 10 s, and a busy machine.
      expect(took).toBeLessThan(60_000);
      expect(took).toBeGreaterThan(13_000);
    }
    expect(north.kinds()).toEqual(['vault.offline']);
    expect(south.received()).toEqual([]);
    const outages = await north.api.get<{ items: { status: string; agent: { name: string } }[] }>(
      '/v1/outages?status=open',
    );
    expect(outages.items.map(({ agent }) => agent.name)).toEqual(['payments-1']);
    for (const path of ['/v1/outages', '/v1/alerts', '/v1/deliveries']) {
      expect(await south.api.get<{ items: unknown[] }>(path)).toMatchObject({ items: [] });
    }
  });

  test('is the same agent when it comes back after a kill, and its recovery is told once', async () => {
    const before = await agentsOf(north.api);
    payments.start();
    await expect
      .poll(() => north.kinds(), { timeout: 60_000 })
      .toEqual(['vault.offline', 'vault.recovered']);
    const after = await agentsOf(north.api);
    expect(after.map(({ id }) => id).sort()).toEqual(before.map(({ id }) => id).sort());
    const { items } = await north.api.get<{
      items: { status: string; closedBy: string; lengthSeconds: number }[];
    }>('/v1/outages');
    expect(items).toHaveLength(1);
    expect(items[0]).toMatchObject({ status: 'closed', closedBy: 'heartbeat' });
    expect(items[0]?.lengthSeconds).toBeGreaterThan(15);
  });

  test('follows a threshold that is changed while it runs', async () => {
    const [agent] = (await agentsOf(north.api)).filter(({ name }) => name === 'reports-1');
    expect(agent?.heartbeatIntervalMs).toBe(1_666);
    await north.api.patch(`/v1/vaults/${agent?.vault.id}`, { offlineAfterSeconds: 90 });
    const interval = async () =>
      (await agentsOf(north.api)).find(({ name }) => name === 'reports-1')?.heartbeatIntervalMs;
    await expect.poll(interval, { timeout: 20_000 }).toBe(10_000);
    await north.api.patch(`/v1/vaults/${agent?.vault.id}`, { offlineAfterSeconds: null });
    await expect.poll(interval, { timeout: 20_000 }).toBe(1_666);
  });

  test('that says goodbye is stopped, quietly, and not offline', async () => {
    await reports.stop();
    await expect
      .poll(() => statuses(north.api), { timeout: 20_000 })
      .toEqual(['payments-1 online', 'reports-1 stopped']);
    await expect.poll(() => north.kinds().at(-1), { timeout: 30_000 }).toBe('vault.stopped');
    reports.start();
    await expect
      .poll(() => statuses(north.api), { timeout: 30_000 })
      .toEqual(['payments-1 online', 'reports-1 online']);
  });
});

describe('what happens to us', () => {
  test('is not held against agents: the gateway is gone for longer than the threshold', async () => {
    const told = north.received().length;
    await controlPlane.services.gateway.kill();
    await new Promise((resolve) => setTimeout(resolve, 25_000));
    await controlPlane.services.gateway.start();
    await expect
      .poll(() => statuses(north.api), { timeout: 60_000 })
      .toEqual(['payments-1 online', 'reports-1 online']);
    expect(north.received().length).toBe(told);
    const { items } = await north.api.get<{ items: unknown[] }>('/v1/outages');
    expect(items).toHaveLength(1);
  });

  test('keeps no agent out: the registry is gone while one connects again', async () => {
    const told = north.received().length;
    await controlPlane.services['vault-registry'].kill();
    await payments.kill();
    payments.start();
    const seen = async () => {
      const { rows } = await database.query<{ name: string; status: string }>(
        `select a.name, l.status from registry.agent a
         join monitoring.agent_liveness l on l.agent_id = a.id
         where a.name in ('payments-1', 'reports-1') and l.last_seen_at > $1 order by 1`,
        [since],
      );
      return rows.map(({ name, status }) => `${name} ${status}`);
    };
    const database = new pg.Client({ connectionString: controlPlane.databases.acrossUrl });
    await database.connect();
    const since = new Date();
    try {
      await expect
        .poll(seen, { timeout: 60_000 })
        .toEqual(['payments-1 online', 'reports-1 online']);
    } finally {
      await database.end();
      await controlPlane.services['vault-registry'].start();
    }
    expect(north.received().length).toBe(told);
  });

  test('NATS stopped does not keep a revoked certificate on its stream', async () => {
    const own = await controlPlane.startAgent(south.api, { name: 'south-2', vault: 'south' });
    await expect
      .poll(() => statuses(south.api), { timeout: 30_000 })
      .toEqual(['south-1 online', 'south-2 online']);
    const across = new pg.Client({ connectionString: controlPlane.databases.acrossUrl });
    await across.connect();
    try {
      await controlPlane.infrastructure.nats.stop();
      await across.query(
        `with gone as (update registry.agent set revoked_at = clock_timestamp() where name = 'south-2' returning id)
         update registry.certificate set revoked_at = clock_timestamp() where agent_id in (select id from gone)`,
      );
      await expect
        .poll(() => readFileSync(own.logFile, 'utf8'), { timeout: 6_000, interval: 100 })
        .toMatch(/revoked/);
    } finally {
      await across.end();
      await controlPlane.infrastructure.nats.restart();
    }
    await expect
      .poll(() => statuses(south.api).catch(() => []), { timeout: 60_000 })
      .toContain('south-1 online');
  });
});

describe('lists', () => {
  test('can be walked page by page in every order they declare, and show the same rows', async () => {
    const lists = operations.filter(
      ({ method, sorts, path }) => method === 'GET' && sorts.length > 0 && !path.includes('{'),
    );
    expect(lists.length).toBeGreaterThan(10);
    type Page = { items: { id: string }[]; nextCursor: string | null };
    const walk = async (path: string, sort: string) => {
      const walked: string[] = [];
      let cursor: string | null = '';
      while (cursor !== null && walked.length < 12) {
        const next: Page = await north.api.get<Page>(
          `${path}?limit=1&sort=${sort}${cursor === '' ? '' : `&cursor=${cursor}`}`,
        );
        walked.push(...next.items.map(({ id }) => id));
        cursor = next.nextCursor;
      }
      return walked;
    };
    // NATS has just been away: every service that answers a list is back first.
    for (const { path } of lists) {
      await expect
        .poll(() => north.api.get(path).then(() => 'there', String), { timeout: 30_000 })
        .toBe('there');
    }
    for (const { path, sorts } of lists) {
      for (const sort of new Set(sorts.flatMap((each) => [each, `-${each}`.replace('--', '')]))) {
        // Agents go on beating, and a beat between two readings moves a row: then both are read anew.
        await expect
          .poll(
            async () => {
              const whole = await north.api.get<Page>(`${path}?limit=200&sort=${sort}`);
              const ids = whole.items.slice(0, 12).map(({ id }) => id);
              const walked = await walk(path, sort);
              return walked.join() === ids.join() ? 'the same' : { walked, ids };
            },
            { timeout: 15_000, message: `${path} by ${sort}` },
          )
          .toBe('the same');
      }
    }
  });
});

describe('credentials', () => {
  test('stand nowhere in the clear: not in the database, Redis, or a log', async () => {
    const key = await north.api.post<{ key: string }>('/v1/api-keys', { name: 'canary' });
    const token = await north.api.post<{ token: string }>('/v1/enrollment-tokens', {
      name: 'canary',
    });
    const hook = await north.api.post<{ secret: string }>('/v1/channels', {
      kind: 'webhook',
      name: 'canary',
      config: { url: controlPlane.inbox.webhookUrl('canary') },
    });
    const slackPath = 'T0CANARY/B0CANARY/abcdefghijklmnop';
    await north.api.post('/v1/channels', {
      kind: 'slack',
      name: 'canary',
      config: { url: `${controlPlane.inbox.url}/slack/${slackPath}` },
    });
    const canaries = [
      key.key,
      token.token,
      hook.secret,
      hook.secret.slice('whsec_'.length),
      slackPath,
      north.password,
      north.accessToken,
      readFileSync(controlPlane.keys.signingKeyFile('auth'), 'utf8').split('\n')[1] as string,
    ];
    const spellings = canaries.flatMap((canary) => [
      canary,
      Buffer.from(canary).toString('base64').replace(/=+$/, ''),
      Buffer.from(canary).toString('hex'),
      encodeURIComponent(canary),
    ]);
    const everywhere = {
      database: await dumpDatabase(controlPlane.databases.acrossUrl),
      redis: await dumpRedis(controlPlane.infrastructure.redisUrl),
      logs: readFolder(join(controlPlane.folder, 'logs')),
      agents: readFolder(join(controlPlane.folder, 'agents'), /agent\.log$/),
    };
    // What is searched must be able to find: names that are meant to be there.
    expect(everywhere.database).toContain('payments-1');
    expect(everywhere.redis).toContain('liveness-sweep');
    expect(everywhere.logs).toContain('started');
    for (const [place, text] of Object.entries(everywhere)) {
      for (const spelling of spellings) {
        expect(text.includes(spelling), `${spelling.slice(0, 12)}… stands in ${place}`).toBe(false);
      }
    }
  });
});

async function dumpDatabase(url: string): Promise<string> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<{ name: string }>(
      `select format('%I.%I', schemaname, tablename) as name from pg_tables
       where schemaname in ('auth','registry','monitoring','policy','analytics','notification','messaging')`,
    );
    let text = '';
    for (const { name } of rows) {
      const content = await client
        .query(`select t::text as row from ${name} t`)
        .catch(() => ({ rows: [] }));
      for (const { row } of content.rows) {
        text += `${row}\n`;
        // Bytes are shown as hexadecimal: what they spell counts too.
        for (const [, hex] of String(row).matchAll(/\\\\x([0-9a-f]+)/g)) {
          text += `${Buffer.from(hex as string, 'hex').toString('latin1')}\n`;
        }
      }
    }
    return text;
  } finally {
    await client.end();
  }
}

function readFolder(folder: string, only = /./): string {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && only.test(entry.name))
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'latin1'))
    .join('\n');
}

async function dumpRedis(url: string): Promise<string> {
  const redis = new Redis(url);
  try {
    // Compressed values would hide what they hold.
    await redis.config('SET', 'rdbcompression', 'no');
    let text = '';
    for (const key of await redis.keys('*')) {
      text += `${key}\n${(await redis.dumpBuffer(key))?.toString('latin1')}\n`;
    }
    return text;
  } finally {
    redis.disconnect();
  }
}
