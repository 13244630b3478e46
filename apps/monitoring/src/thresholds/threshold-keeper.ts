/**
 * Keeps liveness rows in line with what other services decide: thresholds by vault, tag,
 * organization and installation, new agents, and agents that were revoked or deleted. It takes no
 * input beyond a hint where to look, and the periodic run looks everywhere.
 */
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { AlertDesk } from '../alerts/alert-desk.ts';
import type { Config } from '../config.ts';
import { closeOutages, setDue, setStatuses } from '../liveness/status-changes.ts';
import { CONFIG } from '../tokens.ts';

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

@Injectable()
export class ThresholdKeeper {
  readonly #defaultSeconds: number;

  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Bus,
    @Inject(AlertDesk) private readonly desk: AlertDesk,
    @Inject(CONFIG) config: Config,
  ) {
    this.#defaultSeconds = config.KEYSTEAD_OFFLINE_AFTER_SECONDS;
  }

  /** @param hint an organization's uuid; anything else means everywhere */
  async reconcile(hint?: unknown): Promise<void> {
    const organizationId = typeof hint === 'string' && uuid.test(hint) ? hint : null;
    const touched = await this.database.acrossTenants(
      'reconcile-thresholds',
      async (transaction) => {
        await this.#align(transaction, organizationId);
        return this.#retire(transaction, organizationId);
      },
    );
    if (touched.told.size > 0) this.bus.nudge('notification');
    for (const id of touched.organizations) this.bus.nudge('liveEvents', id);
  }

  /** Inserts rows for new agents and corrects thresholds; what changed is looked at right away. */
  async #align(transaction: Transaction, organizationId: string | null): Promise<void> {
    await transaction.$executeRaw`
      with wanted as (
        select a.organization_id, a.id as agent_id, a.vault_id,
          coalesce(
            v.offline_after_seconds,
            (select min(r.offline_after_seconds) from monitoring.threshold_rule r
              where r.organization_id = v.organization_id and r.tag = any(v.tags)),
            o.offline_after_seconds,
            ${this.#defaultSeconds}::int
          ) * 1000 as offline_after_ms
        from registry.agent a
        join registry.vault v on v.organization_id = a.organization_id and v.id = a.vault_id
        join auth.organization o on o.organization_id = a.organization_id
        where a.deleted_at is null and a.revoked_at is null
          and (${organizationId}::uuid is null or a.organization_id = ${organizationId}::uuid)
      ), paced as (
        select *, least(greatest(offline_after_ms / ${limits.heartbeatsPerThreshold}, ${limits.heartbeatIntervalMinMs}), ${limits.heartbeatIntervalMaxMs}) as interval_ms
        from wanted
      ), changed as (
        update monitoring.agent_liveness l set
          offline_after_ms = p.offline_after_ms,
          interval_ms = p.interval_ms,
          -- Until its next beat the agent keeps the longer pace it was told.
          counts_from = case when p.interval_ms < l.interval_ms
            then clock_timestamp() + make_interval(secs => l.interval_ms * 1.1 / 1000.0)
            else l.counts_from end
        from paced p
        where l.organization_id = p.organization_id and l.agent_id = p.agent_id
          and (l.offline_after_ms <> p.offline_after_ms or l.interval_ms <> p.interval_ms)
        returning l.organization_id, l.agent_id, l.status
      ), woken as (
        update monitoring.agent_due d set due_at = clock_timestamp()
        from changed c
        where d.organization_id = c.organization_id and d.agent_id = c.agent_id
          and c.status in ('online', 'late')
      )
      insert into monitoring.agent_liveness (organization_id, agent_id, vault_id, offline_after_ms, interval_ms)
      select p.organization_id, p.agent_id, p.vault_id, p.offline_after_ms, p.interval_ms
      from paced p
      where not exists (
        select from monitoring.agent_liveness l
        where l.organization_id = p.organization_id and l.agent_id = p.agent_id
      )
      on conflict do nothing`;
  }

  async #retire(
    transaction: Transaction,
    organizationId: string | null,
  ): Promise<{ told: Set<string>; organizations: Set<string> }> {
    const rows = await transaction.$queryRaw<
      {
        organization_id: string;
        agent_id: string;
        vault_id: string;
        status: string;
        deleted: boolean;
        now: number;
      }[]
    >`
      select l.organization_id, l.agent_id, l.vault_id, l.status, a.deleted_at is not null as deleted,
        (extract(epoch from clock_timestamp()) * 1000)::float8 as now
      from monitoring.agent_liveness l
      join registry.agent a on a.organization_id = l.organization_id and a.id = l.agent_id
      where (a.deleted_at is not null or a.revoked_at is not null) and l.status <> 'revoked'
        and (${organizationId}::uuid is null or l.organization_id = ${organizationId}::uuid)
      order by l.agent_id limit ${limits.sweepBatch} for update of l`;
    const [first] = rows;
    if (!first) return { told: new Set(), organizations: new Set() };
    const at = new Date(first.now);
    const keys = rows.map((row) => ({
      organizationId: row.organization_id,
      agentId: row.agent_id,
      vaultId: row.vault_id,
      status: 'revoked' as const,
      dueAt: null,
      deleted: row.deleted,
    }));
    await setStatuses(transaction, at, keys);
    await setDue(transaction, keys);
    await closeOutages(
      transaction,
      at,
      keys.filter((key) => key.deleted),
      'deletion',
    );
    await closeOutages(
      transaction,
      at,
      keys.filter((key) => !key.deleted),
      'revocation',
    );
    const told = await this.desk.settle(transaction, first.now, keys);
    return { told, organizations: new Set(rows.map((row) => row.organization_id)) };
  }
}
