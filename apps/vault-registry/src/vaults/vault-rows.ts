/** Reads vaults with what their agents make of them: one statement for a page. */
import { etagOf } from '@keystead/access/precondition';
import { toId } from '@keystead/contracts/ids';
import type { Output } from '@keystead/contracts/operation';
import type { getVault, VaultStatus } from '@keystead/contracts/registry';
import { thresholdInForce } from '@keystead/contracts/threshold';
import type { Transaction } from '@keystead/database/database';
import { nothing, type Sql, sql } from '@keystead/database/sql';
import { vaultStatusOf } from './vault-status.ts';

export interface VaultRow {
  id: string;
  name: string;
  tags: string[];
  vault_seconds: number | null;
  tag_seconds: number | null;
  organization_seconds: number | null;
  maintenance_until: Date | null;
  created_at: Date;
  updated_at: Date;
  revision: number;
  total: number;
  online: number;
  late: number;
  offline: number;
  stopped: number;
  pending: number;
  last_heartbeat_at: Date | null;
}

// Monitoring owns the state of agents. One that it has not met yet is pending.
const counts = sql`
  count(*)::int as total,
  count(*) filter (where l.status = 'online')::int as online,
  count(*) filter (where l.status = 'late')::int as late,
  count(*) filter (where l.status = 'offline')::int as offline,
  count(*) filter (where l.status = 'stopped')::int as stopped,
  count(*) filter (where coalesce(l.status, 'pending') not in
    ('online', 'late', 'offline', 'stopped'))::int as pending`;

// As `vaultStatusOf` decides; a test compares the two for every combination.
const statusOfCounts = sql`
  case
    when coalesce(c.total, 0) = 0 then 'empty'
    when c.offline > 0 and c.online + c.late > 0 then 'degraded'
    when c.offline > 0 then 'offline'
    when c.online + c.late > 0 then 'online'
    when c.stopped > 0 then 'stopped'
    else 'pending'
  end`;

/**
 * The agents to count for a filter by state. Vaults that are offline, degraded or stopped are few,
 * and each has an agent that says so: the others need not be counted.
 */
function candidates(organizationId: string, statuses: readonly VaultStatus[]): Sql {
  const telling = statuses.map((status) =>
    status === 'offline' || status === 'degraded' ? 'offline' : status,
  );
  if (!telling.every((status) => status === 'offline' || status === 'stopped')) return sql`true`;
  return sql`a.vault_id in (
    select vault_id from monitoring.agent_liveness
    where organization_id = ${organizationId}::uuid and status = any(${telling}::text[])
  )`;
}

/**
 * @param where conditions on `v`
 * @param statuses only vaults in one of these states; then all agents are counted once, by vault,
 *   rather than vault by vault until the page is full
 */
export function readVaults(
  transaction: Transaction,
  organizationId: string,
  page: { where: Sql; order: Sql; take: number; statuses?: readonly VaultStatus[] | undefined },
): Promise<VaultRow[]> {
  const counted = page.statuses
    ? sql`
      left join (
        select a.vault_id, ${counts}
        from registry.agent a
        left join monitoring.agent_liveness l
          on l.organization_id = a.organization_id and l.agent_id = a.id
        where a.organization_id = ${organizationId}::uuid
          and a.deleted_at is null and a.revoked_at is null
          and ${candidates(organizationId, page.statuses)}
        group by a.vault_id
      ) c on c.vault_id = v.id`
    : nothing;
  const inState = page.statuses
    ? sql`and ${statusOfCounts} = any(${[...page.statuses]}::text[])`
    : nothing;
  return transaction.$queryRaw<VaultRow[]>`
    select v.id, v.name, v.tags, v.maintenance_until, v.created_at, v.updated_at, v.revision,
      v.offline_after_seconds as vault_seconds, t.tag_seconds,
      o.offline_after_seconds as organization_seconds,
      s.*
    from (
      select v.* from registry.vault v ${counted}
      where v.organization_id = ${organizationId}::uuid and v.deleted_at is null
        and ${page.where} ${inState}
      order by ${page.order} limit ${page.take}
    ) v
    left join auth.organization o on o.organization_id = v.organization_id
    cross join lateral (
      select min(r.offline_after_seconds) as tag_seconds
      from monitoring.threshold_rule r
      where r.organization_id = v.organization_id and r.tag = any(v.tags)
    ) t
    cross join lateral (
      select ${counts}, max(l.last_seen_at) as last_heartbeat_at
      from registry.agent a
      left join monitoring.agent_liveness l
        on l.organization_id = a.organization_id and l.agent_id = a.id
      where a.organization_id = v.organization_id and a.vault_id = v.id
        and a.deleted_at is null and a.revoked_at is null
    ) s
    order by ${page.order}`;
}

export async function readVault(
  transaction: Transaction,
  organizationId: string,
  vaultId: string,
): Promise<VaultRow | undefined> {
  const [row] = await readVaults(transaction, organizationId, {
    where: sql`v.id = ${vaultId}::uuid`,
    order: sql`v.id`,
    take: 1,
  });
  return row;
}

export function showVault(row: VaultRow, installationSeconds: number): Output<typeof getVault> {
  const threshold = thresholdInForce({
    vault: row.vault_seconds,
    tags: row.tag_seconds === null ? [] : [row.tag_seconds],
    organization: row.organization_seconds,
    installation: installationSeconds,
  });
  const { total, online, late, offline, stopped, pending } = row;
  const agents = { total, online, late, offline, stopped, pending };
  return {
    id: toId('vault', row.id),
    name: row.name,
    tags: row.tags,
    status: vaultStatusOf(agents),
    agents,
    lastHeartbeatAt: row.last_heartbeat_at?.toISOString() ?? null,
    offlineAfterSeconds: row.vault_seconds,
    effectiveOfflineAfterSeconds: threshold.offlineAfterSeconds,
    offlineAfterSource: threshold.source,
    maintenanceUntil: row.maintenance_until?.toISOString() ?? null,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
    etag: etagOf(row.revision),
  };
}
