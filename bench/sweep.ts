/**
 * How late the sweep finds silence. Rows of many agents lie there, a storm of them falls silent at
 * one moment, and the sweep runs at its own pace. Lateness is from the moment an agent's threshold
 * was reached to the moment its outage was opened. The floor writes the same facts (a status and
 * an outage for each) in the same batches, without deciding or telling anything.
 *
 *   npm run bench -- sweep [--storm 50000] [--most 1000000]
 */
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { Database } from '@keystead/database/database';
import pg from 'pg';
import { Registry } from 'prom-client';
import { startDatabase } from './installation.ts';
import { argument, calibrate, finish, printTable, round, spread } from './report.ts';

const built = new URL('../apps/monitoring/dist/', import.meta.url);
const { AlertDesk } = await import(new URL('alerts/alert-desk.js', built).href);
const { GatewayTicks } = await import(new URL('liveness/gateway-ticks.js', built).href);
const { LivenessSweep } = await import(new URL('liveness/liveness-sweep.js', built).href);
const { createMetrics } = await import(new URL('metrics.js', built).href);

const storm = argument('storm', 50_000);
const most = argument('most', 1_000_000);
const sizes = [10_000, 100_000, 1_000_000].filter((size) => size <= most);
const organizations = 100;

const bench = await startDatabase();
const owner = new pg.Client({ connectionString: bench.urls.ownerUrl });
await owner.connect();
// Row-level security binds the owner too; only a member of keystead_across may fill the tables.
const across = new pg.Client({ connectionString: bench.urls.acrossUrl });
await across.connect();
const database = new Database({
  serviceUrl: bench.urls.serviceUrl,
  acrossUrl: bench.urls.acrossUrl,
});
const told = { nudge: () => {} };

async function clear(): Promise<void> {
  await owner.query(
    `truncate auth.organization, registry.vault, registry.agent, monitoring.agent_liveness,
      monitoring.agent_due, monitoring.outage, monitoring.alert, monitoring.live_event,
      monitoring.gateway, messaging.outbox cascade`,
  );
}

/** Agents that were all heard just now; the first `due` of them fall due in two seconds. */
async function seed(size: number, due: number): Promise<void> {
  await clear();
  await across.query(
    `insert into auth.organization (organization_id, name)
     select ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'organization ' || n
     from generate_series(0, $1 - 1) n`,
    [organizations],
  );
  const organization = `('01900000-0000-7000-8000-' || lpad(to_hex(n % ${organizations}), 12, '0'))::uuid`;
  const vault = `('01900000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid`;
  const agent = `('01900000-0000-7000-a000-' || lpad(to_hex(n), 12, '0'))::uuid`;
  await across.query(
    `insert into registry.vault (organization_id, id, name)
     select ${organization}, ${vault}, 'vault ' || n from generate_series(0, $1::int - 1) n`,
    [size],
  );
  await across.query(
    `insert into registry.agent (organization_id, id, vault_id, name, serial_number, not_before, expires_at)
     select ${organization}, ${agent}, ${vault}, 'agent ' || n, n::text, now(), now() + interval '7 days'
     from generate_series(0, $1::int - 1) n`,
    [size],
  );
  await across.query(
    `insert into monitoring.agent_liveness
       (organization_id, agent_id, vault_id, status, last_seen_at, gateway_id, offline_after_ms, interval_ms)
     select ${organization}, ${agent}, ${vault}, 'late', clock_timestamp(), $2, 270000, 30000
     from generate_series(0, $1::int - 1) n`,
    [size, gatewayId],
  );
  await across.query(
    `insert into monitoring.agent_due select organization_id, agent_id, last_seen_at + interval '270 s'
     from monitoring.agent_liveness`,
  );
  await owner.query('vacuum analyze');
  const { rows } = await across.query<{ at: Date }>(
    `select clock_timestamp() + interval '2 s' as at`,
  );
  const dueAt = rows[0]?.at as Date;
  const those = `agent_id in (select ${agent} from generate_series(0, $2::int - 1) n)`;
  await across.query(
    `update monitoring.agent_liveness set last_seen_at = $1::timestamptz - interval '270 s' where ${those}`,
    [dueAt, due],
  );
  await across.query(`update monitoring.agent_due set due_at = $1 where ${those}`, [dueAt, due]);
}

const gatewayId = newUuid();
const rows: Record<string, string | number>[] = [];
const ratios: { ours: number; floor: number }[] = [];
let last = { p50Ms: 0, p95Ms: 0, p99Ms: 0, maxMs: 0 };
let missed = 0;

/** The same facts without deciding: milliseconds for `count` agents. */
async function floorMs(count: number): Promise<number> {
  const start = performance.now();
  for (let done = 0; done < count; done += limits.sweepBatch) {
    await database.acrossTenants('measure', async (transaction) => {
      const batch = await transaction.$queryRaw<
        { organization_id: string; agent_id: string; vault_id: string; last_seen_at: Date }[]
      >`
        with due as (
          delete from monitoring.agent_due where (organization_id, agent_id) in (
            select organization_id, agent_id from monitoring.agent_due
            where due_at <= clock_timestamp() order by due_at limit ${limits.sweepBatch}
          ) returning organization_id, agent_id
        )
        update monitoring.agent_liveness l set status = 'offline', status_since = clock_timestamp()
        from due where l.organization_id = due.organization_id and l.agent_id = due.agent_id
        returning l.organization_id, l.agent_id, l.vault_id, l.last_seen_at`;
      await transaction.$executeRaw`
        insert into monitoring.outage (organization_id, id, agent_id, vault_id, silent_since, opened_at)
        select k.o, k.i, k.a, k.v, k.s, clock_timestamp() from unnest(
          ${batch.map((row) => row.organization_id)}::uuid[], ${batch.map(() => newUuid())}::uuid[],
          ${batch.map((row) => row.agent_id)}::uuid[], ${batch.map((row) => row.vault_id)}::uuid[],
          ${batch.map((row) => row.last_seen_at)}::timestamptz[]
        ) as k(o, i, a, v, s)`;
    });
  }
  return performance.now() - start;
}

for (const size of sizes) {
  const due = Math.min(storm, size);
  process.stderr.write(`seeding ${size.toLocaleString('en-US')} agents …\n`);
  await seed(size, due);
  const ticks = new GatewayTicks(database, told);
  const sweep = new LivenessSweep(
    database,
    told,
    new AlertDesk(),
    ticks,
    createMetrics(new Registry()),
  );
  await database.acrossTenants('measure', (transaction) => ticks.tick(transaction, gatewayId));
  const beating = setInterval(() => {
    void database.acrossTenants('measure', (transaction) => ticks.tick(transaction, gatewayId));
  }, 1_000);
  const deadline = performance.now() + 300_000;
  let opened = 0;
  let busyMs = 0;
  while (opened < due && performance.now() < deadline) {
    const start = performance.now();
    await sweep.run();
    const took = performance.now() - start;
    const { rows: counted } = await across.query(
      'select count(*)::int as n from monitoring.outage',
    );
    if (counted[0].n > opened) busyMs += took;
    opened = counted[0].n;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, limits.sweepPeriodMs - took)));
  }
  clearInterval(beating);
  const { rows: lateness } = await across.query<{ ms: number }>(
    `select (extract(epoch from opened_at - silent_since) * 1000 - 270000)::float8 as ms from monitoring.outage`,
  );
  const { rows: alerts } = await across.query('select count(*)::int as n from monitoring.alert');
  missed += due - opened + (due - alerts[0].n);
  last = spread(lateness.map((row) => row.ms));
  await seed(size, due);
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  const floor = await floorMs(due);
  ratios.push({ ours: busyMs, floor });
  rows.push({
    agents: size,
    'silent at once': due,
    'lateness p50 ms': last.p50Ms,
    'p99 ms': last.p99Ms,
    'max ms': last.maxMs,
    'sweep ms': round(busyMs),
    'floor ms': round(floor),
    ratio: round(busyMs / floor),
    outages: opened,
    alerts: alerts[0].n,
  });
}

printTable(rows);
const ours = ratios.at(-1)?.ours ?? 0;
const floor = ratios.at(-1)?.floor ?? 1;
finish({
  bench: 'sweep',
  ratio: ours / floor,
  better: 'lower',
  floor,
  ours,
  unit: 'ms',
  ...last,
  missed,
  peakRssBytes: process.resourceUsage().maxRSS * 1_024,
  rounds: sizes.length,
  calibrationMs: calibrate(),
});
await database.close();
await across.end();
await owner.end();
await bench.stop();
process.exit(0);
