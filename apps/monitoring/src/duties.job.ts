/** The unattended duties of monitoring, by name. */
import { limits } from '@keystead/contracts/limits';
import { Database } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Jobs } from '@keystead/messaging/jobs';
import { Inject, Injectable, type OnApplicationBootstrap } from '@nestjs/common';
import { AlertDesk } from './alerts/alert-desk.ts';
import { VaultReports } from './alerts/vault-reports.ts';
import { GatewayTicks } from './liveness/gateway-ticks.ts';
import { LivenessSweep } from './liveness/liveness-sweep.ts';
import { ThresholdKeeper } from './thresholds/threshold-keeper.ts';

@Injectable()
export class Duties implements OnApplicationBootstrap {
  #takeReportsNow: () => void = () => undefined;

  constructor(
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Bus,
    @Inject(LivenessSweep) private readonly sweep: LivenessSweep,
    @Inject(GatewayTicks) private readonly ticks: GatewayTicks,
    @Inject(ThresholdKeeper) private readonly thresholds: ThresholdKeeper,
    @Inject(AlertDesk) private readonly desk: AlertDesk,
    @Inject(VaultReports) private readonly reports: VaultReports,
  ) {}

  /** Looks at once at what other services reported. */
  takeReports(): void {
    this.#takeReportsNow();
  }

  onApplicationBootstrap(): void {
    this.jobs.every({
      name: 'liveness-sweep',
      periodMs: limits.sweepPeriodMs,
      work: () => this.sweep.run(),
    });
    this.jobs.every({ name: 'hearing', periodMs: 2_000, work: () => this.ticks.settle() });
    this.jobs.every({
      name: 'threshold-reconcile',
      periodMs: 15_000,
      work: () => this.thresholds.reconcile(),
    });
    this.#takeReportsNow = this.jobs.every({
      name: 'vault-reports',
      periodMs: 5_000,
      work: () => this.reports.take(),
    }).runNow;
    this.jobs.every({ name: 'alert-calm', periodMs: 2_000, work: () => this.#endCalm() });
    this.jobs.every({
      name: 'remove-expired',
      periodMs: 600_000,
      work: () => this.#removeExpired(),
    });
  }

  async #endCalm(): Promise<void> {
    const told = await this.database.acrossTenants('calm-alerts', async (transaction) => {
      const [clock] = await transaction.$queryRaw<{ now: number }[]>`
        select (extract(epoch from clock_timestamp()) * 1000)::float8 as now`;
      return this.desk.endCalm(transaction, clock?.now ?? 0, limits.sweepBatch);
    });
    if (told.size > 0) this.bus.nudge('notification');
  }

  /** Bounded, so that a long absence does not turn into one long transaction. */
  async #removeExpired(): Promise<void> {
    await this.database.acrossTenants('remove-expired', async (transaction) => {
      await transaction.$executeRaw`
        delete from monitoring.live_event where (organization_id, id) in (
          select organization_id, id from monitoring.live_event
          where at < clock_timestamp() - make_interval(hours => ${limits.liveEventKeepHours}::int) limit 50000)`;
      await transaction.$executeRaw`
        delete from monitoring.agent_event where (organization_id, id) in (
          select organization_id, id from monitoring.agent_event
          where received_at < clock_timestamp() - make_interval(days => ${limits.agentEventKeepDays}::int) limit 50000)`;
      await transaction.$executeRaw`
        delete from monitoring.audit_head where (organization_id, id) in (
          select organization_id, id from monitoring.audit_head
          where received_at < clock_timestamp() - make_interval(days => ${limits.auditHeadKeepDays}::int) limit 50000)`;
      // Analytics has them for good; a few days stay for a recount.
      await transaction.$executeRaw`
        delete from monitoring.agent_hour h using (
          select organization_id, agent_id, hour from monitoring.agent_hour
          where hour < clock_timestamp() - interval '3 days'
            and hour in (select hour from analytics.rolled_up_hour) limit 50000
        ) old
        where h.organization_id = old.organization_id and h.agent_id = old.agent_id and h.hour = old.hour`;
      await transaction.$executeRaw`
        delete from monitoring.agent_boot where last_seen_at < clock_timestamp() - interval '1 day'`;
    });
  }
}
