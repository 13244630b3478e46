/**
 * Faults under load, with a ledger: what was acknowledged is there afterwards, once; what was
 * never acknowledged may be either. Agents that live through all of it are never called offline,
 * and one that dies while things break is told once.
 */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { createTenant, statuses, type Tenant } from './demonstration.fixture.ts';
import { serviceNames } from './infrastructure/infrastructure.ts';
import type { AgentProcess } from './installation/agent-process.ts';

const rounds = process.env.KEYSTEAD_PROVE === 'full' ? 5 : 1;

let controlPlane: ControlPlane;
let tenant: Tenant;
const agents: AgentProcess[] = [];

beforeAll(async () => {
  controlPlane = await startControlPlane({ ownPostgresql: true });
  tenant = await createTenant(controlPlane, 20);
  for (const name of ['one', 'two', 'three']) {
    agents.push(await controlPlane.startAgent(tenant.api, { name, vault: name }));
  }
  await vi.waitFor(
    async () =>
      expect(await statuses(tenant.api)).toEqual(['one online', 'three online', 'two online']),
    { timeout: 60_000, interval: 250 },
  );
});
afterAll(() => controlPlane?.stop());

interface Written {
  name: string;
  outcome: 'acknowledged' | 'unknown';
  id?: string;
}

/** Creates vaults, each tried with one idempotency key until it is answered or time is up. */
class Ledger {
  readonly entries: Written[] = [];
  #stopped = false;
  readonly #running: Promise<void>[] = [];

  start(writers: number): void {
    for (let writer = 0; writer < writers; writer += 1) this.#running.push(this.#write(writer));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#running);
  }

  async #write(writer: number): Promise<void> {
    for (let number = 0; !this.#stopped; number += 1) {
      const entry: Written = { name: `ledger-${writer}-${number}`, outcome: 'unknown' };
      this.entries.push(entry);
      const key = randomUUID();
      const deadline = Date.now() + 20_000;
      while (entry.outcome === 'unknown' && Date.now() < deadline) {
        const answer = await tenant.api
          .send<{ id: string }>(
            'POST',
            '/v1/vaults',
            { name: entry.name },
            { 'idempotency-key': key },
          )
          .catch(() => undefined);
        if (answer?.status === 201) {
          entry.outcome = 'acknowledged';
          entry.id = answer.body.id;
        } else {
          // A conflict would mean that a repeated key did its work twice.
          expect(answer?.status ?? 503, JSON.stringify(answer?.body)).toBeGreaterThanOrEqual(429);
          await new Promise((resolve) => setTimeout(resolve, 150));
        }
      }
    }
  }
}

test(`kill −9 of every service and of PostgreSQL, NATS and Redis under load loses nothing (${rounds} rounds)`, {
  timeout: 900_000,
}, async () => {
  const ledger = new Ledger();
  ledger.start(3);
  const { postgresql, nats, redis } = controlPlane.infrastructure;
  for (let round = 0; round < rounds; round += 1) {
    for (const name of serviceNames) {
      await controlPlane.services[name].kill();
      await controlPlane.services[name].start();
    }
    for (const server of [nats, redis, postgresql]) {
      await server.kill();
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      await server.restart();
      await new Promise((resolve) => setTimeout(resolve, 2_000));
    }
    await nats.wipe();
    await redis.wipe();
  }
  await vi.waitFor(
    async () =>
      expect(await statuses(tenant.api)).toEqual(['one online', 'three online', 'two online']),
    { timeout: 60_000, interval: 500 },
  );
  await ledger.stop();

  const acknowledged = ledger.entries.filter(({ outcome }) => outcome === 'acknowledged');
  expect(acknowledged.length).toBeGreaterThan(20);
  const across = new pg.Client({ connectionString: controlPlane.databases.acrossUrl });
  await across.connect();
  try {
    const { rows } = await across.query<{ name: string; n: number; audits: number }>(
      `select v.name, count(distinct v.id)::int as n, count(a.id)::int as audits
       from registry.vault v left join auth.audit_event a
         on a.organization_id = v.organization_id and a.action = 'vaults.create' and a.target_name = v.name
       where v.name like 'ledger-%' group by v.name`,
    );
    const there = new Map(rows.map((row) => [row.name, row]));
    expect(acknowledged.filter(({ name }) => !there.has(name))).toEqual([]);
    expect(rows.filter(({ n, audits }) => n !== 1 || audits !== 1)).toEqual([]);
    const { rows: events } = await across.query(
      `select agent_id, boot_id, sequence, count(*)::int as n from monitoring.agent_event
       group by 1, 2, 3 having count(*) > 1`,
    );
    expect(events).toEqual([]);
    const { rows: outages } = await across.query('select * from monitoring.outage');
    expect(outages, 'agents that lived were called offline').toEqual([]);
  } finally {
    await across.end();
  }
  console.log(
    `  ledger: ${acknowledged.length} acknowledged, ${ledger.entries.length - acknowledged.length} unknown, 0 lost, 0 doubled`,
  );
});

test('a death while Redis is wiped and notification and NATS are gone is told, once', {
  timeout: 240_000,
}, async () => {
  const { nats, redis } = controlPlane.infrastructure;
  expect(tenant.kinds()).toEqual([]);
  await agents[0]?.kill();
  await controlPlane.services.notification.kill();
  await redis.wipe();
  await new Promise((resolve) => setTimeout(resolve, 22_000));
  await nats.kill();
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  await nats.restart();
  await redis.wipe();
  await controlPlane.services.notification.start();
  const second = await controlPlane.launchAnother('notification');
  await expect.poll(() => tenant.kinds(), { timeout: 150_000 }).toEqual(['vault.offline']);
  await redis.wipe();
  await new Promise((resolve) => setTimeout(resolve, 12_000));
  const messages = tenant.received();
  expect(messages.map(({ kind }) => kind).sort()).toEqual(['email', 'slack', 'webhook']);
  await second.stop();
});
