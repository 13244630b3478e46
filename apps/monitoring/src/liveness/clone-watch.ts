/**
 * One identity that runs twice. A restart brings a boot id that was never seen; a clone brings
 * back one that was superseded before. From the third such return it is told.
 */
import { limits } from '@keystead/contracts/limits';
import type { Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { AlertDesk } from '../alerts/alert-desk.ts';

export interface Supersession {
  organizationId: string;
  agentId: string;
  vaultId: string;
  oldBootId: string;
  newBootId: string;
}

/** Returns further apart than this are two restarts, not two machines. */
const windowMs = 15 * 60_000;

@Injectable()
export class CloneWatch {
  constructor(@Inject(AlertDesk) private readonly desk: AlertDesk) {}

  /** @returns the organizations whose people are to be told */
  async seen(
    transaction: Transaction,
    now: number,
    supersessions: readonly Supersession[],
  ): Promise<Set<string>> {
    const swaps = supersessions.filter(({ oldBootId, newBootId }) => oldBootId !== newBootId);
    if (swaps.length === 0) return new Set();
    const at = new Date(now);
    const recent = new Date(now - windowMs);
    const rows = await transaction.$queryRaw<
      { organization_id: string; agent_id: string; returns: number }[]
    >`
      insert into monitoring.agent_boot (organization_id, agent_id, boot_id, first_seen_at, last_seen_at)
      select k.organization_id, k.agent_id, k.boot_id, ${at}, ${at}
      from (
        select distinct * from unnest(
          ${swaps.flatMap((swap) => [swap.organizationId, swap.organizationId])}::uuid[],
          ${swaps.flatMap((swap) => [swap.agentId, swap.agentId])}::uuid[],
          ${swaps.flatMap((swap) => [swap.oldBootId, swap.newBootId])}::uuid[]
        ) as u(organization_id, agent_id, boot_id)
      ) k
      order by 1, 2, 3
      on conflict (organization_id, agent_id, boot_id) do update set
        last_seen_at = excluded.last_seen_at,
        returns = case when agent_boot.last_seen_at < ${recent} then 1
          when agent_boot.boot_id in (select unnest(${swaps.map((swap) => swap.newBootId)}::uuid[]))
            then agent_boot.returns + 1
          else agent_boot.returns end
      returning organization_id, agent_id, returns`;
    const cloned = new Set(
      rows
        .filter((row) => row.returns >= limits.duplicateBootAlternations)
        .map((row) => `${row.organization_id}/${row.agent_id}`),
    );
    return this.desk.raiseOther(
      transaction,
      now,
      'agent.duplicated',
      swaps
        .filter((swap) => cloned.has(`${swap.organizationId}/${swap.agentId}`))
        .map((swap) => ({ ...swap, calmAt: now + windowMs })),
    );
  }
}
