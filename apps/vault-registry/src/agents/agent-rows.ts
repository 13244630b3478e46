/**
 * Reads agents with what other services know of them: their state and report (monitoring) and the
 * policy set assigned to their vault (policy). One statement for a page.
 */
import { toId } from '@keystead/contracts/ids';
import type { Output } from '@keystead/contracts/operation';
import type { AgentStatus, getAgent } from '@keystead/contracts/registry';
import { heartbeatIntervalMs, thresholdInForce } from '@keystead/contracts/threshold';
import type { Transaction } from '@keystead/database/database';
import { type Sql, sql } from '@keystead/database/sql';
import { policySetState } from './policy-set-state.ts';

export interface AgentRow {
  id: string;
  name: string;
  vault_id: string;
  vault_name: string;
  status: AgentStatus;
  status_since: Date | null;
  last_seen_at: Date | null;
  interval_ms: number | null;
  health: 'healthy' | 'degraded' | 'failing' | null;
  reported_policy_set: number | null;
  assigned_policy_set: number | null;
  version: string | null;
  hostname: string | null;
  platform: string | null;
  architecture: string | null;
  runtime: string | null;
  serial_number: string;
  not_before: Date;
  expires_at: Date;
  enrolled_at: Date;
  revoked_at: Date | null;
  vault_seconds: number | null;
  tag_seconds: number | null;
  organization_seconds: number | null;
}

/** Monitoring owns the state; one that it has not met is pending, and revoked is revoked. */
export const agentStatusColumn = sql`
  (case when a.revoked_at is not null then 'revoked' else coalesce(l.status, 'pending') end)`;

/** Only agents in one of these states, said so that a plan may begin with the rare ones. */
export function inAgentStates(statuses: readonly AgentStatus[]): Sql {
  const living = statuses.filter((status) => status !== 'revoked');
  const reported = living.includes('pending') ? sql`coalesce(l.status, 'pending')` : sql`l.status`;
  const alive = sql`(a.revoked_at is null and ${reported} = any(${living}::text[]))`;
  if (living.length === statuses.length) return alive;
  if (living.length === 0) return sql`a.revoked_at is not null`;
  return sql`(a.revoked_at is not null or ${alive})`;
}

/**
 * @param where conditions on `a` (agent), `l` (liveness), `r` (report) and `v` (vault)
 */
export function readAgents(
  transaction: Transaction,
  organizationId: string,
  page: { where: Sql; order: Sql; take: number },
): Promise<AgentRow[]> {
  const joins = sql`
    join registry.vault v on v.organization_id = a.organization_id and v.id = a.vault_id
    left join monitoring.agent_liveness l
      on l.organization_id = a.organization_id and l.agent_id = a.id
    left join monitoring.agent_report r
      on r.organization_id = a.organization_id and r.agent_id = a.id`;
  return transaction.$queryRaw<AgentRow[]>`
    select a.id, a.name, a.serial_number, a.not_before, a.expires_at, a.enrolled_at, a.revoked_at,
      v.id as vault_id, v.name as vault_name, v.offline_after_seconds as vault_seconds,
      ${agentStatusColumn} as status,
      coalesce(a.revoked_at, l.status_since) as status_since,
      l.last_seen_at, l.interval_ms, l.health, l.policy_set_version as reported_policy_set,
      r.version, r.hostname, r.platform, r.architecture, r.runtime,
      p.version as assigned_policy_set,
      t.tag_seconds, o.offline_after_seconds as organization_seconds
    from (
      select a.* from registry.agent a ${joins}
      where a.organization_id = ${organizationId}::uuid and a.deleted_at is null and ${page.where}
      order by ${page.order} limit ${page.take}
    ) a
    ${joins}
    left join auth.organization o on o.organization_id = a.organization_id
    left join policy.policy_set_assignment p
      on p.organization_id = a.organization_id and p.vault_id = a.vault_id
    cross join lateral (
      select min(t.offline_after_seconds) as tag_seconds
      from monitoring.threshold_rule t
      where t.organization_id = v.organization_id and t.tag = any(v.tags)
    ) t
    order by ${page.order}`;
}

export function showAgent(row: AgentRow, installationSeconds: number): Output<typeof getAgent> {
  const { version, hostname, platform, architecture, runtime } = row;
  const known = hostname !== null && platform !== null && architecture !== null && runtime !== null;
  return {
    id: toId('agent', row.id),
    name: row.name,
    vault: { id: toId('vault', row.vault_id), name: row.vault_name },
    status: row.status,
    statusSince: (row.status_since ?? row.enrolled_at).toISOString(),
    lastHeartbeatAt: row.last_seen_at?.toISOString() ?? null,
    version,
    host: known ? { hostname, platform, architecture, runtime } : null,
    health: row.health,
    heartbeatIntervalMs: row.interval_ms ?? expectedIntervalMs(row, installationSeconds),
    certificate: {
      serialNumber: row.serial_number,
      notBefore: row.not_before.toISOString(),
      expiresAt: row.expires_at.toISOString(),
    },
    policySet: {
      assignedVersion: row.assigned_policy_set,
      reportedVersion: row.reported_policy_set,
      state: policySetState(row.assigned_policy_set, row.reported_policy_set),
    },
    enrolledAt: row.enrolled_at.toISOString(),
    revokedAt: row.revoked_at?.toISOString() ?? null,
  };
}

/** The pace of an agent that monitoring has not met. */
export function expectedIntervalMs(
  row: Pick<AgentRow, 'vault_seconds' | 'tag_seconds' | 'organization_seconds'>,
  installationSeconds: number,
): number {
  const threshold = thresholdInForce({
    vault: row.vault_seconds,
    tags: row.tag_seconds === null ? [] : [row.tag_seconds],
    organization: row.organization_seconds,
    installation: installationSeconds,
  });
  return heartbeatIntervalMs(threshold.offlineAfterSeconds);
}
