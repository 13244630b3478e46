/** The statements that a change of an agent's state consists of, for many agents at once. */
import { newUuid, toId } from '@keystead/contracts/ids';
import type { AgentStatus } from '@keystead/contracts/registry';
import type { Transaction } from '@keystead/database/database';
import { writeLiveEvents } from '../live-events/live-event-rows.ts';

export interface AgentKey {
  organizationId: string;
  agentId: string;
}

export interface StatusChange extends AgentKey {
  vaultId: string;
  status: AgentStatus;
}

const columns = (keys: readonly AgentKey[]) => ({
  organizations: keys.map((key) => key.organizationId),
  agents: keys.map((key) => key.agentId),
});

export async function setStatuses(
  transaction: Transaction,
  at: Date,
  changes: readonly StatusChange[],
): Promise<void> {
  if (changes.length === 0) return;
  const { organizations, agents } = columns(changes);
  await transaction.$executeRaw`
    update monitoring.agent_liveness l set status = k.status, status_since = ${at}
    from unnest(${organizations}::uuid[], ${agents}::uuid[], ${changes.map((change) => change.status)}::text[])
      as k(organization_id, agent_id, status)
    where l.organization_id = k.organization_id and l.agent_id = k.agent_id`;
  await writeLiveEvents(
    transaction,
    changes.map(({ organizationId, agentId, vaultId, status }) => ({
      organizationId,
      type: 'agent.status',
      at,
      data: { agentId: toId('agent', agentId), vaultId: toId('vault', vaultId), status },
    })),
  );
}

/** Says when to look at agents next; `dueAt` null: not before they are heard. */
export async function setDue(
  transaction: Transaction,
  rows: readonly (AgentKey & { dueAt: number | null })[],
): Promise<void> {
  const wake = rows.filter((row) => row.dueAt !== null);
  if (wake.length > 0) {
    const { organizations, agents } = columns(wake);
    await transaction.$executeRaw`
      insert into monitoring.agent_due (organization_id, agent_id, due_at)
      select * from unnest(${organizations}::uuid[], ${agents}::uuid[], ${wake.map((row) => new Date(row.dueAt ?? 0))}::timestamptz[])
      on conflict (organization_id, agent_id) do update set due_at = excluded.due_at`;
  }
  const sleep = rows.filter((row) => row.dueAt === null);
  if (sleep.length > 0) {
    const { organizations, agents } = columns(sleep);
    await transaction.$executeRaw`
      delete from monitoring.agent_due
      where (organization_id, agent_id) in (select * from unnest(${organizations}::uuid[], ${agents}::uuid[]))`;
  }
}

/** One outage for one silence: a second sweeper finds the row there. */
export async function openOutages(
  transaction: Transaction,
  at: Date,
  silences: readonly (AgentKey & { vaultId: string; silentSince: Date })[],
): Promise<void> {
  if (silences.length === 0) return;
  const { organizations, agents } = columns(silences);
  await transaction.$executeRaw`
    insert into monitoring.outage (organization_id, id, agent_id, vault_id, silent_since, opened_at)
    select k.*, ${at} from unnest(
      ${organizations}::uuid[], ${silences.map(() => newUuid(at.getTime()))}::uuid[],
      ${agents}::uuid[], ${silences.map((silence) => silence.vaultId)}::uuid[],
      ${silences.map((silence) => silence.silentSince)}::timestamptz[]
    ) as k(organization_id, id, agent_id, vault_id, silent_since)
    on conflict do nothing`;
}

export async function closeOutages(
  transaction: Transaction,
  at: Date,
  keys: readonly AgentKey[],
  closedBy: 'heartbeat' | 'revocation' | 'deletion',
): Promise<void> {
  if (keys.length === 0) return;
  const { organizations, agents } = columns(keys);
  await transaction.$executeRaw`
    update monitoring.outage o set closed_at = ${at}, closed_by = ${closedBy}
    from unnest(${organizations}::uuid[], ${agents}::uuid[]) as k(organization_id, agent_id)
    where o.organization_id = k.organization_id and o.agent_id = k.agent_id and o.closed_at is null`;
}
