/**
 * Brings the alerts about vaults in line with the states of their agents, inside the transaction
 * that changed those states. Vaults are locked first, in one order: of two transactions that each
 * change one agent of a vault, the second sees what the first did.
 */
import { newUuid, toId } from '@keystead/contracts/ids';
import { type AlertKind, type ReportedAlertKind, severityOf } from '@keystead/contracts/monitoring';
import type { Transaction } from '@keystead/database/database';
import { enqueueMany } from '@keystead/database/outbox';
import { Injectable } from '@nestjs/common';
import { type LiveEventRow, writeLiveEvents } from '../live-events/live-event-rows.ts';
import { nextReportedAlert, type OpenReport, type Report } from './reported-alert.ts';
import {
  type AlertRule,
  applyRules,
  nextVaultAlert,
  type OpenAlert,
  type SeverityName,
  severityRank,
  summarize,
  type VaultAgent,
} from './vault-alert.ts';

export interface VaultKey {
  organizationId: string;
  vaultId: string;
}

interface Vault extends VaultKey {
  name: string;
  tags: string[];
  agents: VaultAgent[];
  open:
    | (OpenAlert & { openedAt: number; silentSince: number | null; agentIds: string[] })
    | undefined;
  rules: AlertRule[];
}

interface NamedAgent {
  id: string;
  name: string;
  /** What it reported and has not taken back. */
  reasons?: string[];
}

interface NewAlert {
  kind: AlertKind;
  agents: NamedAgent[];
  agentTotal: number;
  silentSince: number | null;
  flapping: boolean;
  status: 'open' | 'resolved';
  calmAt?: number;
  resolves?: string;
  outageSeconds?: number;
  /** Everything that agents reported. */
  reasons?: string[];
}

const hourMs = 3_600_000;
/** Without another report for so long an alert ends by itself: not everything is ever taken back. */
const reportedAlertCalmMs: Record<ReportedAlertKind, number> = {
  'agent.rotation_due': 24 * hourMs,
  'agent.rotation_failed': 24 * hourMs,
  'agent.backup_failed': 48 * hourMs,
  'agent.audit_blocked': 24 * hourMs,
  'agent.audit_rewritten': 7 * 24 * hourMs,
  'agent.impaired': 24 * hourMs,
  'agent.override': 24 * hourMs,
  'agent.security': hourMs,
  'policy.rejected': 24 * hourMs,
  'policy.drifted': 24 * hourMs,
  'policy.stale': 24 * hourMs,
  'policy.halted': 7 * 24 * hourMs,
  'policy.awaiting_approval': 30 * 24 * hourMs,
  // As long as an approval may wait.
  'approval.requested': 30 * 24 * hourMs,
};

/** How many agents an alert names; the rest is counted. */
const namedAgents = 50;
const uniqueKeys = <K extends VaultKey>(keys: readonly K[]): VaultKey[] => [
  ...new Map(
    keys.map(({ organizationId, vaultId }) => [
      `${organizationId}/${vaultId}`,
      { organizationId, vaultId },
    ]),
  ).values(),
];

@Injectable()
export class AlertDesk {
  /** @returns the organizations whose people are to be told something, for the nudge */
  async settle(
    transaction: Transaction,
    now: number,
    changed: readonly VaultKey[],
  ): Promise<Set<string>> {
    const vaults = await this.#readVaults(transaction, uniqueKeys(changed));
    const batch = new AlertBatch(now);
    for (const vault of vaults) {
      const decision = nextVaultAlert(vault.agents, vault.open, now);
      const gone = vault.agents.filter(({ status }) => status === 'offline');
      switch (decision.do) {
        case 'nothing':
          break;
        case 'raise': {
          const silences = gone.map(({ lastSeenAt }) => lastSeenAt ?? now);
          const id = batch.raise(vault, {
            kind: decision.kind,
            agents: gone,
            agentTotal: vault.agents.length,
            silentSince: vault.open?.silentSince ?? Math.min(...silences),
            flapping: decision.flapping,
            status: 'open',
          });
          if (decision.supersedes) batch.resolve(vault, decision.supersedes, id ?? null);
          break;
        }
        case 'keep':
          batch.keep(vault, decision.id, gone);
          break;
        case 'hold':
          batch.hold(vault, decision.id, decision.calmAt);
          break;
        case 'resolve':
          this.#recover(batch, vault, now);
      }
    }
    return batch.write(transaction);
  }

  /** An alert that is not about silence: a goodbye, a clone. One is open at a time for a vault. */
  async raiseOther(
    transaction: Transaction,
    now: number,
    kind: 'vault.stopped' | 'agent.duplicated',
    events: readonly (VaultKey & { agentId: string; calmAt?: number })[],
  ): Promise<Set<string>> {
    if (events.length === 0) return new Set();
    const vaults = await this.#readVaults(transaction, uniqueKeys(events));
    const open = await this.#openOthers(transaction, kind, vaults);
    const batch = new AlertBatch(now);
    for (const vault of vaults) {
      const mine = events.filter(({ vaultId }) => vaultId === vault.vaultId);
      const agents = vault.agents.filter(({ id }) => mine.some(({ agentId }) => agentId === id));
      if (agents.length === 0) continue;
      const calmAt = mine.find((event) => event.calmAt !== undefined)?.calmAt;
      const known = open.get(vault.vaultId);
      if (known) {
        batch.keep(vault, known, agents, calmAt);
        continue;
      }
      batch.raise(vault, {
        kind,
        agents,
        agentTotal: vault.agents.length,
        silentSince: null,
        flapping: false,
        status: 'open',
        ...(calmAt === undefined ? {} : { calmAt }),
      });
    }
    return batch.write(transaction);
  }

  /** What agents report themselves. One alert is open at a time for a vault and kind. */
  async report(
    transaction: Transaction,
    now: number,
    reports: readonly (VaultKey & Report & { kind: ReportedAlertKind })[],
  ): Promise<Set<string>> {
    if (reports.length === 0) return new Set();
    const vaults = await this.#readVaults(transaction, uniqueKeys(reports));
    const open = await this.#openReports(transaction, vaults, [
      ...new Set(reports.map(({ kind }) => kind)),
    ]);
    const batch = new AlertBatch(now);
    for (const vault of vaults) {
      const mine = reports.filter(({ vaultId }) => vaultId === vault.vaultId);
      for (const [kind, ofKind] of Map.groupBy(mine, (report) => report.kind)) {
        const known = open.get(`${vault.vaultId}/${kind}`);
        const decision = nextReportedAlert(known, ofKind);
        if (decision.do === 'nothing') continue;
        const agents = vault.agents
          .filter(({ id }) => decision.agents.has(id))
          .map((agent) => ({ ...agent, reasons: [...(decision.agents.get(agent.id) ?? [])] }));
        const calmAt = now + reportedAlertCalmMs[kind];
        if (decision.do === 'resolve') {
          batch.resolve(vault, decision.id, null);
        } else if (decision.do === 'keep') {
          batch.keep(vault, decision.id, agents, calmAt);
        } else if (agents.length > 0) {
          const id = batch.raise(vault, {
            kind,
            agents,
            agentTotal: vault.agents.length,
            silentSince: null,
            flapping: false,
            status: decision.status,
            reasons: decision.reasons,
            ...(decision.status === 'open' ? { calmAt } : {}),
          });
          if (decision.supersedes) batch.resolve(vault, decision.supersedes, id ?? null);
        }
      }
    }
    return batch.write(transaction);
  }

  /** The agents of these vaults run again: the notice that they were stopped has served. */
  async resolveStopped(
    transaction: Transaction,
    now: number,
    keys: readonly VaultKey[],
  ): Promise<void> {
    if (keys.length === 0) return;
    const unique = uniqueKeys(keys);
    await transaction.$executeRaw`
      update monitoring.alert set status = 'resolved', resolved_at = ${new Date(now)}, revision = revision + 1
      where (organization_id, vault_id) in (
          select * from unnest(${unique.map((key) => key.organizationId)}::uuid[], ${unique.map((key) => key.vaultId)}::uuid[])
        ) and kind = 'vault.stopped' and status <> 'resolved'`;
  }

  /** Alerts whose calm has lasted: a flapping vault has recovered, a clone is seen no more. */
  async endCalm(transaction: Transaction, now: number, most: number): Promise<Set<string>> {
    const due = await transaction.$queryRaw<
      { organization_id: string; vault_id: string; id: string; kind: string }[]
    >`
      select organization_id, vault_id, id, kind from monitoring.alert
      where calm_at <= ${new Date(now)} and status <> 'resolved'
      order by calm_at limit ${most} for update skip locked`;
    if (due.length === 0) return new Set();
    const vaults = await this.#readVaults(
      transaction,
      uniqueKeys(
        due.map((row) => ({ organizationId: row.organization_id, vaultId: row.vault_id })),
      ),
    );
    const batch = new AlertBatch(now);
    for (const row of due) {
      const vault = vaults.find(({ vaultId }) => vaultId === row.vault_id);
      if (!vault) continue;
      if (vault.open?.id === row.id) this.#recover(batch, vault, now);
      else batch.resolve(vault, row.id, null);
    }
    return batch.write(transaction);
  }

  #recover(batch: AlertBatch, vault: Vault, now: number): void {
    const { open } = vault;
    if (!open) return;
    batch.resolve(vault, open.id, null);
    const named = vault.agents.filter(({ id }) => open.agentIds.includes(id));
    const since = open.silentSince ?? open.openedAt;
    // Without its agents a vault has not recovered: they were revoked or deleted.
    if (!vault.agents.some(({ status }) => status === 'online' || status === 'late')) return;
    batch.raise(vault, {
      kind: 'vault.recovered',
      agents: named,
      agentTotal: vault.agents.length,
      silentSince: since,
      flapping: open.flapping,
      status: 'resolved',
      resolves: open.id,
      outageSeconds: Math.max(0, (now - since) / 1_000),
    });
  }

  async #openReports(
    transaction: Transaction,
    vaults: readonly Vault[],
    kinds: readonly string[],
  ): Promise<Map<string, OpenReport>> {
    const rows = await transaction.$queryRaw<
      {
        vault_id: string;
        kind: string;
        id: string;
        told: string[];
        agent_id: string | null;
        reasons: string[] | null;
      }[]
    >`
      select t.vault_id, t.kind, t.id, t.reasons as told, g.agent_id, g.reasons
      from monitoring.alert t
      left join monitoring.alert_agent g
        on g.organization_id = t.organization_id and g.alert_id = t.id
      where (t.organization_id, t.vault_id) in (
          select * from unnest(${vaults.map((vault) => vault.organizationId)}::uuid[], ${vaults.map((vault) => vault.vaultId)}::uuid[])
        ) and t.kind = any(${kinds}::text[]) and t.status <> 'resolved'`;
    return new Map(
      [...Map.groupBy(rows, (row) => `${row.vault_id}/${row.kind}`)].map(([key, ofAlert]) => [
        key,
        {
          id: ofAlert[0]?.id ?? '',
          told: new Set(ofAlert[0]?.told),
          agents: new Map(
            ofAlert.flatMap(({ agent_id: id, reasons }) =>
              id === null ? [] : [[id, new Set(reasons)] as const],
            ),
          ),
        },
      ]),
    );
  }

  async #openOthers(transaction: Transaction, kind: string, vaults: readonly Vault[]) {
    const rows = await transaction.$queryRaw<{ vault_id: string; id: string }[]>`
      select vault_id, id from monitoring.alert
      where (organization_id, vault_id) in (
          select * from unnest(${vaults.map((vault) => vault.organizationId)}::uuid[], ${vaults.map((vault) => vault.vaultId)}::uuid[])
        ) and kind = ${kind} and status <> 'resolved'`;
    return new Map(rows.map((row) => [row.vault_id, row.id]));
  }

  async #readVaults(transaction: Transaction, keys: readonly VaultKey[]): Promise<Vault[]> {
    if (keys.length === 0) return [];
    const organizations = keys.map((key) => key.organizationId);
    const ids = keys.map((key) => key.vaultId);
    const rows = await transaction.$queryRaw<
      { organization_id: string; id: string; name: string; tags: string[] }[]
    >`
      select v.organization_id, v.id, v.name, v.tags
      from registry.vault v
      join unnest(${organizations}::uuid[], ${ids}::uuid[]) as k(organization_id, vault_id)
        on v.organization_id = k.organization_id and v.id = k.vault_id
      order by v.organization_id, v.id
      for no key update of v`;
    const agents = await transaction.$queryRaw<
      {
        vault_id: string;
        id: string;
        name: string;
        status: string;
        last_seen_at: Date | null;
        recent: number;
      }[]
    >`
      select l.vault_id, a.id, a.name, l.status, l.last_seen_at,
        case when l.status = 'offline' then (
          select count(*)::int from monitoring.outage o
          where o.organization_id = l.organization_id and o.agent_id = l.agent_id
            and o.opened_at > clock_timestamp() - interval '1 hour'
        ) else 0 end as recent
      from monitoring.agent_liveness l
      join unnest(${organizations}::uuid[], ${ids}::uuid[]) as k(organization_id, vault_id)
        on l.organization_id = k.organization_id and l.vault_id = k.vault_id
      join registry.agent a on a.organization_id = l.organization_id and a.id = l.agent_id
      where l.status <> 'revoked' and a.deleted_at is null and a.revoked_at is null
      order by a.name, a.id`;
    const open = await transaction.$queryRaw<
      {
        vault_id: string;
        id: string;
        kind: OpenAlert['kind'];
        flapping: boolean;
        calm_at: Date | null;
        opened_at: Date;
        silent_since: Date | null;
        agent_ids: string[];
      }[]
    >`
      select t.vault_id, t.id, t.kind, t.flapping, t.calm_at, t.opened_at, t.silent_since,
        array(
          select g.agent_id::text from monitoring.alert_agent g
          where g.organization_id = t.organization_id and g.alert_id = t.id
        ) as agent_ids
      from monitoring.alert t
      join unnest(${organizations}::uuid[], ${ids}::uuid[]) as k(organization_id, vault_id)
        on t.organization_id = k.organization_id and t.vault_id = k.vault_id
      where t.status <> 'resolved' and t.kind in ('vault.offline', 'vault.degraded')`;
    const rules = await transaction.alertRule.findMany({
      where: { organizationId: { in: [...new Set(organizations)] }, enabled: true },
    });
    const byVault = Map.groupBy(agents, (agent) => agent.vault_id);
    const openByVault = new Map(open.map((row) => [row.vault_id, row]));
    const rulesBy = Map.groupBy(rules, (rule) => rule.organizationId);
    return rows.map((row) => {
      const alert = openByVault.get(row.id);
      return {
        organizationId: row.organization_id,
        vaultId: row.id,
        name: row.name,
        tags: row.tags,
        rules: rulesBy.get(row.organization_id) ?? [],
        agents: (byVault.get(row.id) ?? []).map((agent) => ({
          id: agent.id,
          name: agent.name,
          status: agent.status as VaultAgent['status'],
          lastSeenAt: agent.last_seen_at?.getTime() ?? null,
          recentOutages: agent.recent,
        })),
        open: alert && {
          id: alert.id,
          kind: alert.kind,
          flapping: alert.flapping,
          calmAt: alert.calm_at?.getTime() ?? null,
          openedAt: alert.opened_at.getTime(),
          silentSince: alert.silent_since?.getTime() ?? null,
          agentIds: alert.agent_ids,
        },
      };
    });
  }
}

/** What one transaction does to alerts, written in a handful of statements however many vaults. */
class AlertBatch {
  readonly #now: number;
  readonly #raised: { vault: Vault; id: string; severity: SeverityName; alert: NewAlert }[] = [];
  readonly #resolved: { vault: Vault; id: string; supersededBy: string | null }[] = [];
  readonly #kept: {
    vault: Vault;
    id: string;
    agents: NamedAgent[];
    calmAt: number | null;
  }[] = [];
  readonly #held: { vault: Vault; id: string; calmAt: number }[] = [];

  constructor(now: number) {
    this.#now = now;
  }

  /** @returns the new alert's uuid, or undefined where the organization's rules ignore it */
  raise(vault: Vault, alert: NewAlert): string | undefined {
    const severity = applyRules(vault.rules, alert.kind, vault.tags, severityOf[alert.kind]);
    if (severity === 'ignored') return undefined;
    const id = newUuid(this.#now);
    this.#raised.push({ vault, id, severity, alert });
    return id;
  }

  resolve(vault: Vault, id: string, supersededBy: string | null): void {
    this.#resolved.push({ vault, id, supersededBy });
  }

  keep(vault: Vault, id: string, agents: NamedAgent[], calmAt?: number): void {
    this.#kept.push({ vault, id, agents, calmAt: calmAt ?? null });
  }

  hold(vault: Vault, id: string, calmAt: number): void {
    this.#held.push({ vault, id, calmAt });
  }

  async write(transaction: Transaction): Promise<Set<string>> {
    const at = new Date(this.#now);
    await this.#writeResolved(transaction, at);
    for (const { vault, id, calmAt } of this.#held) {
      await transaction.alert.update({
        where: { organizationId_id: { organizationId: vault.organizationId, id } },
        data: { calmAt: new Date(calmAt), revision: { increment: 1 } },
      });
    }
    for (const { vault, id, agents, calmAt } of this.#kept) {
      await transaction.alert.update({
        where: { organizationId_id: { organizationId: vault.organizationId, id } },
        data: {
          calmAt: calmAt === null ? null : new Date(calmAt),
          agentCount: agents.length,
          revision: { increment: 1 },
        },
      });
    }
    await this.#insertAlerts(transaction, at);
    await this.#nameAgents(transaction);
    await this.#muteLikeTheOneBefore(transaction);
    await enqueueMany(
      transaction,
      'alert.raised',
      this.#raised.map(({ vault, id }) => ({
        organizationId: vault.organizationId,
        payload: { alertId: id },
      })),
    );
    await writeLiveEvents(transaction, this.#liveEvents(at));
    return new Set(this.#raised.map(({ vault }) => vault.organizationId));
  }

  /** Column by column: a storm raises thousands at once, and a statement for each batch is enough. */
  async #insertAlerts(transaction: Transaction, at: Date): Promise<void> {
    const raised = this.#raised;
    if (raised.length === 0) return;
    await transaction.$executeRaw`
      insert into monitoring.alert (organization_id, id, vault_id, kind, severity, severity_rank,
        status, summary, flapping, calm_at, opened_at, resolved_at, silent_since, resolves_id,
        outage_seconds, agent_count, reasons)
      select k.organization_id, k.id, k.vault_id, k.kind, k.severity, k.severity_rank, k.status,
        k.summary, k.flapping, k.calm_at, ${at},
        case when k.status = 'resolved' then ${at}::timestamptz end,
        k.silent_since, k.resolves_id, k.outage_seconds, k.agent_count,
        coalesce(string_to_array(nullif(k.reasons, ''), ','), array[]::text[])
      from unnest(
        ${raised.map(({ vault }) => vault.organizationId)}::uuid[],
        ${raised.map(({ id }) => id)}::uuid[],
        ${raised.map(({ vault }) => vault.vaultId)}::uuid[],
        ${raised.map(({ alert }) => alert.kind)}::text[],
        ${raised.map(({ severity }) => severity)}::text[],
        ${raised.map(({ severity }) => severityRank(severity))}::int[],
        ${raised.map(({ alert }) => alert.status)}::text[],
        ${raised.map(({ vault, alert }) => summaryOf(vault, alert))}::text[],
        ${raised.map(({ alert }) => alert.flapping)}::boolean[],
        ${raised.map(({ alert }) => toDate(alert.calmAt))}::timestamptz[],
        ${raised.map(({ alert }) => toDate(alert.silentSince))}::timestamptz[],
        ${raised.map(({ alert }) => alert.resolves ?? null)}::uuid[],
        ${raised.map(({ alert }) => alert.outageSeconds ?? null)}::float8[],
        ${raised.map(({ alert }) => alert.agents.length)}::int[],
        ${raised.map(({ alert }) => (alert.reasons ?? []).join(','))}::text[]
      ) as k(organization_id, id, vault_id, kind, severity, severity_rank, status, summary, flapping,
        calm_at, silent_since, resolves_id, outage_seconds, agent_count, reasons)`;
  }

  async #nameAgents(transaction: Transaction): Promise<void> {
    const rows = [
      ...this.#raised.map(({ vault, id, alert }) => ({ vault, id, agents: alert.agents })),
      ...this.#kept,
    ].flatMap(({ vault, id, agents }) =>
      agents.slice(0, namedAgents).map((agent) => ({ vault, id, agent })),
    );
    if (rows.length === 0) return;
    await transaction.$executeRaw`
      insert into monitoring.alert_agent (organization_id, alert_id, agent_id, agent_name, reasons)
      select k.organization_id, k.alert_id, k.agent_id, k.agent_name,
        coalesce(string_to_array(nullif(k.reasons, ''), ','), array[]::text[])
      from unnest(
        ${rows.map(({ vault }) => vault.organizationId)}::uuid[],
        ${rows.map(({ id }) => id)}::uuid[],
        ${rows.map(({ agent }) => agent.id)}::uuid[],
        ${rows.map(({ agent }) => agent.name)}::text[],
        ${rows.map(({ agent }) => (agent.reasons ?? []).join(','))}::text[]
      ) as k(organization_id, alert_id, agent_id, agent_name, reasons)
      on conflict (organization_id, alert_id, agent_id) do update set reasons = excluded.reasons`;
  }

  async #writeResolved(transaction: Transaction, at: Date): Promise<void> {
    if (this.#resolved.length === 0) return;
    await transaction.$executeRaw`
      update monitoring.alert t
      set status = 'resolved', resolved_at = ${at}, calm_at = null,
        superseded_by_id = k.superseded_by, revision = revision + 1
      from unnest(
        ${this.#resolved.map(({ vault }) => vault.organizationId)}::uuid[],
        ${this.#resolved.map(({ id }) => id)}::uuid[],
        ${this.#resolved.map(({ supersededBy }) => supersededBy)}::uuid[]
      ) as k(organization_id, id, superseded_by)
      where t.organization_id = k.organization_id and t.id = k.id and t.status <> 'resolved'`;
  }

  /** Mute is about a vault: what follows a muted alert stays as quiet. */
  async #muteLikeTheOneBefore(transaction: Transaction): Promise<void> {
    if (this.#raised.length === 0) return;
    await transaction.$executeRaw`
      update monitoring.alert t set muted_until = m.muted_until
      from (
        select organization_id, vault_id, max(muted_until) as muted_until
        from monitoring.alert
        where (organization_id, vault_id) in (
            select * from unnest(
              ${this.#raised.map(({ vault }) => vault.organizationId)}::uuid[],
              ${this.#raised.map(({ vault }) => vault.vaultId)}::uuid[]
            )
          ) and muted_until is not null and muted_until > clock_timestamp()
        group by organization_id, vault_id
      ) m
      where t.organization_id = m.organization_id and t.vault_id = m.vault_id
        and t.id in (select unnest(${this.#raised.map(({ id }) => id)}::uuid[]))`;
  }

  #liveEvents(at: Date): LiveEventRow[] {
    const about = (vault: Vault) => ({ id: toId('vault', vault.vaultId), name: vault.name });
    return [
      ...this.#resolved.map(({ vault, id }) => ({
        organizationId: vault.organizationId,
        type: 'alert.updated' as const,
        at,
        data: { id: toId('alert', id), status: 'resolved', vault: about(vault) },
      })),
      ...this.#raised.map(({ vault, id, severity, alert }) => ({
        organizationId: vault.organizationId,
        type: 'alert.opened' as const,
        at,
        data: {
          id: toId('alert', id),
          kind: alert.kind,
          severity,
          status: alert.status,
          vault: about(vault),
        },
      })),
    ];
  }
}

function summaryOf(vault: Vault, alert: NewAlert): string {
  return summarize(alert.kind, vault.name, {
    agentNames: alert.agents.map(({ name }) => name),
    agentTotal: alert.agentTotal,
    silentSince: alert.silentSince,
    flapping: alert.flapping,
    ...(alert.outageSeconds === undefined ? {} : { outageSeconds: alert.outageSeconds }),
    ...(alert.reasons === undefined ? {} : { reasons: alert.reasons }),
  });
}

const toDate = (at: number | null | undefined) => (at == null ? null : new Date(at));
