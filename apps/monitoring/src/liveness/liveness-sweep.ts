/**
 * Finds the agents whose silence has become too long. It takes no input and finds by itself what
 * is due, so a lost wake-up costs one period. Rows that another sweeper or a heartbeat holds are
 * left to them.
 */

import { limits } from '@keystead/contracts/limits';
import type { AgentStatus } from '@keystead/contracts/registry';
import { Database } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { AlertDesk } from '../alerts/alert-desk.ts';
import { MONITORING_METRICS, type MonitoringMetrics } from '../metrics.ts';
import { GatewayTicks } from './gateway-ticks.ts';
import { nextLiveness } from './liveness.ts';
import { openOutages, setDue, setStatuses } from './status-changes.ts';

interface DueRow {
  organization_id: string;
  agent_id: string;
  vault_id: string;
  status: AgentStatus;
  status_since: Date;
  last_seen_at: Date | null;
  counts_from: Date | null;
  gateway_id: string | null;
  offline_after_ms: number;
  interval_ms: number;
  maintenance_until: Date | null;
  due_at: Date;
  now: number;
}

/** Transactions at once in a storm: the database works on one while another is being decided. */
const stormLanes = 3;

@Injectable()
export class LivenessSweep {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Bus,
    @Inject(AlertDesk) private readonly desk: AlertDesk,
    @Inject(GatewayTicks) private readonly ticks: GatewayTicks,
    @Inject(MONITORING_METRICS) private readonly metrics: MonitoringMetrics,
  ) {}

  /** Looks at everything that is due, a batch for each transaction; a storm takes several at once. */
  async run(): Promise<void> {
    if ((await this.#batch()) < limits.sweepBatch) return;
    await Promise.all(Array.from({ length: stormLanes }, () => this.#untilCalm()));
  }

  async #untilCalm(): Promise<void> {
    while ((await this.#batch()) >= limits.sweepBatch);
  }

  async #batch(): Promise<number> {
    const outcome = await this.database.acrossTenants('sweep-liveness', async (transaction) => {
      const rows = await transaction.$queryRaw<DueRow[]>`
        with due as materialized (
          select organization_id, agent_id, due_at from monitoring.agent_due
          where due_at <= clock_timestamp()
          order by due_at limit ${limits.sweepBatch} for update skip locked
        )
        select l.organization_id, l.agent_id, l.vault_id, l.status, l.status_since, l.last_seen_at,
          l.counts_from, l.gateway_id, l.offline_after_ms, l.interval_ms, v.maintenance_until, d.due_at,
          (extract(epoch from clock_timestamp()) * 1000)::float8 as now
        from due d
        join monitoring.agent_liveness l
          on l.organization_id = d.organization_id and l.agent_id = d.agent_id
        join registry.vault v on v.organization_id = l.organization_id and v.id = l.vault_id
        for update of l skip locked`;
      const [first] = rows;
      if (!first) return { looked: 0, offline: [], changed: [], told: new Set<string>() };
      const now = first.now;
      const at = new Date(now);
      const hearing = await this.ticks.hearing(transaction, now);
      const verdicts = rows.map((row) => ({
        organizationId: row.organization_id,
        agentId: row.agent_id,
        vaultId: row.vault_id,
        before: row.status,
        lastSeenAt: row.last_seen_at,
        lateMs: now - row.due_at.getTime(),
        ...nextLiveness(
          {
            status: row.status,
            lastSeenAt: row.last_seen_at?.getTime() ?? null,
            statusSince: row.status_since.getTime(),
            countsFrom: row.counts_from?.getTime() ?? null,
            gatewayId: row.gateway_id,
            offlineAfterMs: row.offline_after_ms,
            intervalMs: row.interval_ms,
            maintenanceUntil: row.maintenance_until?.getTime() ?? null,
          },
          now,
          hearing,
        ),
      }));
      const changed = verdicts.filter((verdict) => verdict.status !== verdict.before);
      const offline = changed.filter((verdict) => verdict.status === 'offline');
      await setDue(transaction, verdicts);
      await setStatuses(transaction, at, changed);
      await openOutages(
        transaction,
        at,
        offline.map((verdict) => ({ ...verdict, silentSince: verdict.lastSeenAt ?? at })),
      );
      const told = await this.desk.settle(transaction, now, offline);
      return { looked: rows.length, offline, changed, told };
    });
    for (const { lateMs } of outcome.offline) this.metrics.sweepLateness.observe(lateMs / 1_000);
    this.metrics.outagesOpened.inc(outcome.offline.length);
    if (outcome.told.size > 0) this.bus.nudge('notification');
    for (const organization of new Set(outcome.changed.map((row) => row.organizationId))) {
      this.bus.nudge('liveEvents', organization);
    }
    return outcome.looked;
  }
}
