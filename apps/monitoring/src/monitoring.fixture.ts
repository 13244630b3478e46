/** A monitoring service without its bus, over a real database, and rows to watch. */

import { newUuid } from '@keystead/contracts/ids';
import { Database } from '@keystead/database/database';
import type { Bus } from '@keystead/messaging/bus';
import { createTestDatabase, type TestDatabase } from '@keystead/test-control-plane/test-database';
import pg from 'pg';
import { Registry } from 'prom-client';
import { AlertDesk } from './alerts/alert-desk.ts';
import type { Config } from './config.ts';
import { AgentSignals } from './liveness/agent-signals.ts';
import { BeatRecorder } from './liveness/beat-recorder.ts';
import { CloneWatch } from './liveness/clone-watch.ts';
import { GatewayTicks } from './liveness/gateway-ticks.ts';
import { LivenessSweep } from './liveness/liveness-sweep.ts';
import { createMetrics } from './metrics.ts';
import { ThresholdKeeper } from './thresholds/threshold-keeper.ts';

export interface WatchedAgent {
  organizationId: string;
  vaultId: string;
  agentId: string;
  bootId: string;
  sequence: number;
}

export class Watch {
  readonly databaseUrls: TestDatabase;
  readonly database: Database;
  readonly client: pg.Client;
  readonly gatewayId = newUuid();
  readonly desk = new AlertDesk();
  readonly ticks: GatewayTicks;
  readonly recorder: BeatRecorder;
  readonly sweep: LivenessSweep;
  readonly keeper: ThresholdKeeper;
  readonly signals: AgentSignals;
  #batch = 0;

  private constructor(urls: TestDatabase, client: pg.Client) {
    this.databaseUrls = urls;
    this.client = client;
    this.database = new Database({ serviceUrl: urls.serviceUrl, acrossUrl: urls.acrossUrl });
    // Every nudge is lost: what is tested must not depend on one.
    const bus = { nudge: () => {} } as unknown as Bus;
    const config = { KEYSTEAD_OFFLINE_AFTER_SECONDS: 270 } as Config;
    const metrics = createMetrics(new Registry());
    const clones = new CloneWatch(this.desk);
    this.ticks = new GatewayTicks(this.database, bus);
    this.recorder = new BeatRecorder(
      this.database,
      bus,
      this.desk,
      this.ticks,
      clones,
      metrics,
      config,
    );
    this.sweep = new LivenessSweep(this.database, bus, this.desk, this.ticks, metrics);
    this.keeper = new ThresholdKeeper(this.database, bus, this.desk, config);
    this.signals = new AgentSignals(this.database, bus, this.desk, clones);
  }

  static async open(): Promise<Watch> {
    const urls = await createTestDatabase();
    const client = new pg.Client({ connectionString: urls.acrossUrl });
    await client.connect();
    return new Watch(urls, client);
  }

  async close(): Promise<void> {
    await this.database.close();
    await this.client.end();
    await this.databaseUrls.drop();
  }

  /** A second process of the same duties. */
  another(): LivenessSweep {
    const bus = { nudge: () => {} } as unknown as Bus;
    return new LivenessSweep(
      this.database,
      bus,
      this.desk,
      this.ticks,
      createMetrics(new Registry()),
    );
  }

  async organization(offlineAfterSeconds: number | null = null): Promise<string> {
    const id = newUuid();
    await this.client.query(
      'insert into auth.organization (organization_id, name, offline_after_seconds) values ($1, $2, $3)',
      [id, 'test', offlineAfterSeconds],
    );
    return id;
  }

  async vault(
    organizationId: string,
    facts: { tags?: string[]; offlineAfterSeconds?: number } = {},
  ): Promise<string> {
    const id = newUuid();
    await this.client.query(
      'insert into registry.vault (organization_id, id, name, tags, offline_after_seconds) values ($1, $2, $3, $4, $5)',
      [
        organizationId,
        id,
        `vault-${id.slice(-12)}`,
        facts.tags ?? [],
        facts.offlineAfterSeconds ?? null,
      ],
    );
    return id;
  }

  async agent(organizationId: string, vaultId: string): Promise<WatchedAgent> {
    const agentId = newUuid();
    await this.client.query(
      `insert into registry.agent (organization_id, id, vault_id, name, serial_number, not_before, expires_at)
       values ($1, $2, $3, $4, $5, now(), now() + interval '7 days')`,
      [organizationId, agentId, vaultId, `agent-${agentId.slice(-12)}`, agentId],
    );
    return { organizationId, vaultId, agentId, bootId: newUuid(), sequence: 0 };
  }

  /** An organization with one vault of this many agents, all heard once. */
  async fleet(agents = 1): Promise<WatchedAgent[]> {
    const organizationId = await this.organization();
    const vaultId = await this.vault(organizationId);
    const fleet = [];
    for (let index = 0; index < agents; index += 1) {
      fleet.push(await this.agent(organizationId, vaultId));
    }
    await this.keeper.reconcile(organizationId);
    await this.beat(...fleet);
    return fleet;
  }

  async beat(...agents: WatchedAgent[]) {
    for (const agent of agents) agent.sequence += 1;
    return this.beatAgain(...agents);
  }

  async beatAgain(...agents: WatchedAgent[]) {
    this.#batch += 1;
    return this.recorder.record({
      gatewayId: this.gatewayId,
      number: this.#batch,
      beats: agents.map(({ organizationId, agentId, bootId, sequence }) => ({
        organizationId,
        agentId,
        bootId,
        sequence,
        health: 'healthy' as const,
        policySetVersion: null,
        facts: null,
      })),
    });
  }

  /** Lets time pass for these agents while their gateway hears, however slow this machine is. */
  async age(seconds: number, ...agents: WatchedAgent[]): Promise<void> {
    await this.ageUnheard(seconds, ...agents);
    await this.client.query('delete from monitoring.deafness where gateway_id = $1', [
      this.gatewayId,
    ]);
    await this.client.query(
      'update monitoring.gateway set last_tick_at = clock_timestamp() where id = $1',
      [this.gatewayId],
    );
  }

  /** What the database saw of these agents is that much older; what it knows of the gateway stays. */
  async ageUnheard(seconds: number, ...agents: WatchedAgent[]): Promise<void> {
    const ids = agents.map((agent) => agent.agentId);
    await this.client.query(
      `update monitoring.agent_liveness set last_seen_at = last_seen_at - make_interval(secs => $1),
         status_since = status_since - make_interval(secs => $1),
         counts_from = counts_from - make_interval(secs => $1) where agent_id = any($2)`,
      [seconds, ids],
    );
    await this.client.query(
      'update monitoring.agent_due set due_at = due_at - make_interval(secs => $1) where agent_id = any($2)',
      [seconds, ids],
    );
  }

  async status(agent: WatchedAgent): Promise<string> {
    return (
      await this.rows(
        `select status from monitoring.agent_liveness where agent_id = $1`,
        agent.agentId,
      )
    )[0]?.status;
  }

  async outages(agent: WatchedAgent) {
    return this.rows(
      'select * from monitoring.outage where agent_id = $1 order by opened_at',
      agent.agentId,
    );
  }

  async alerts(vaultId: string) {
    return this.rows(
      'select * from monitoring.alert where vault_id = $1 order by opened_at, id',
      vaultId,
    );
  }

  /** Kinds of the alerts that wait to be told, in order. */
  async told(vaultId: string): Promise<string[]> {
    const rows = await this.rows(
      `select a.kind from messaging.outbox o join monitoring.alert a on a.id = (o.payload->>'alertId')::uuid
       where a.vault_id = $1 order by o.id`,
      vaultId,
    );
    return rows.map((row) => row.kind);
  }

  // biome-ignore lint/suspicious/noExplicitAny: rows of any table
  async rows(text: string, ...values: unknown[]): Promise<any[]> {
    return (await this.client.query(text, values)).rows;
  }
}
