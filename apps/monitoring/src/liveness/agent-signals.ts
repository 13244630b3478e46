/** What an agent or its gateway says beside beats: a goodbye, a second process with one identity. */
import { limits } from '@keystead/contracts/limits';
import { Database } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { AlertDesk } from '../alerts/alert-desk.ts';
import { CloneWatch } from './clone-watch.ts';
import { setDue, setStatuses } from './status-changes.ts';

interface Signals {
  goodbyes: { organizationId: string; agentId: string; bootId: string }[];
  supersessions: {
    organizationId: string;
    agentId: string;
    oldBootId: string;
    newBootId: string;
  }[];
}

@Injectable()
export class AgentSignals {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Bus,
    @Inject(AlertDesk) private readonly desk: AlertDesk,
    @Inject(CloneWatch) private readonly clones: CloneWatch,
  ) {}

  async record(signals: Signals): Promise<Record<string, never>> {
    const touched = await this.database.acrossTenants(
      'record-agent-signals',
      async (transaction) => {
        // A goodbye of a boot that was superseded is not the agent's: it runs on elsewhere.
        const stopped = await transaction.$queryRaw<
          { organization_id: string; agent_id: string; vault_id: string; now: number }[]
        >`
        select l.organization_id, l.agent_id, l.vault_id,
          (extract(epoch from clock_timestamp()) * 1000)::float8 as now
        from monitoring.agent_liveness l
        join unnest(
          ${signals.goodbyes.map((goodbye) => goodbye.organizationId)}::uuid[],
          ${signals.goodbyes.map((goodbye) => goodbye.agentId)}::uuid[],
          ${signals.goodbyes.map((goodbye) => goodbye.bootId)}::uuid[]
        ) as k(organization_id, agent_id, boot_id)
          on l.organization_id = k.organization_id and l.agent_id = k.agent_id and l.boot_id = k.boot_id
        where l.status in ('online', 'late')
        order by l.agent_id for update of l`;
        const told = new Set<string>();
        const organizations = new Set<string>();
        const [first] = stopped;
        if (first) {
          const { now } = first;
          const keys = stopped.map((row) => ({
            organizationId: row.organization_id,
            agentId: row.agent_id,
            vaultId: row.vault_id,
            status: 'stopped' as const,
            dueAt: now + limits.stoppedBecomesOfflineAfterSeconds * 1_000,
          }));
          await setStatuses(transaction, new Date(now), keys);
          await setDue(transaction, keys);
          for (const id of await this.desk.raiseOther(transaction, now, 'vault.stopped', keys)) {
            told.add(id);
          }
          // The last serving agent of a degraded vault may have been the one that left.
          for (const id of await this.desk.settle(transaction, now, keys)) told.add(id);
          for (const key of keys) organizations.add(key.organizationId);
        }
        for (const id of await this.#clones(transaction, signals.supersessions)) told.add(id);
        return { told, organizations };
      },
    );
    if (touched.told.size > 0) this.bus.nudge('notification');
    for (const id of new Set([...touched.organizations, ...touched.told])) {
      this.bus.nudge('liveEvents', id);
    }
    return {};
  }

  async #clones(
    transaction: Parameters<CloneWatch['seen']>[0],
    supersessions: Signals['supersessions'],
  ): Promise<Set<string>> {
    if (supersessions.length === 0) return new Set();
    const rows = await transaction.$queryRaw<
      { organization_id: string; agent_id: string; vault_id: string; now: number }[]
    >`
      select l.organization_id, l.agent_id, l.vault_id,
        (extract(epoch from clock_timestamp()) * 1000)::float8 as now
      from monitoring.agent_liveness l
      where (l.organization_id, l.agent_id) in (
        select * from unnest(
          ${supersessions.map((swap) => swap.organizationId)}::uuid[],
          ${supersessions.map((swap) => swap.agentId)}::uuid[]
        ))`;
    const vaults = new Map(rows.map((row) => [row.agent_id, row]));
    const known = supersessions.flatMap((swap) => {
      const row = vaults.get(swap.agentId);
      return row ? [{ ...swap, vaultId: row.vault_id }] : [];
    });
    return this.clones.seen(transaction, rows[0]?.now ?? 0, known);
  }
}
