import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import type { getAgentPolicy } from '@keystead/contracts/policy';
import { Inject, Injectable } from '@nestjs/common';
import type { AgentState } from './next-delivery.ts';

interface Row {
  vault_id: string;
  number: number | null;
  digest: string | null;
  state: AgentState | null;
  known_number: number | null;
  held_number: number | null;
  held_digest: string | null;
  reason: string | null;
  delivered_at: Date | null;
  active_at: Date | null;
  stale_since: Date | null;
  allowed: number;
  denied: number;
  newly_denied: number;
  errors: number;
}

/** How far one agent is with what its vault should hold. */
@Injectable()
export class AgentPolicies {
  constructor(@Inject(TenantWork) private readonly work: TenantWork) {}

  async get(
    ctx: TenantCtx,
    input: Input<typeof getAgentPolicy>,
  ): Promise<Output<typeof getAgentPolicy>> {
    const { organizationId } = ctx;
    const agentId = toUuid('agent', input.params.id);
    return this.work.read(ctx, async (transaction) => {
      const [row] = await transaction.$queryRaw<Row[]>`
        select a.vault_id, s.number, s.digest, k.state, k.number as known_number, k.held_number,
          k.held_digest, k.reason, k.delivered_at, k.active_at, k.stale_since,
          coalesce(k.allowed, 0)::float8 as allowed, coalesce(k.denied, 0)::float8 as denied,
          coalesce(k.newly_denied, 0)::float8 as newly_denied,
          coalesce(k.errors, 0)::float8 as errors
        from registry.agent a
        left join policy.policy_set_assignment p
          on p.organization_id = a.organization_id and p.vault_id = a.vault_id
        left join policy.policy_set_version s
          on s.organization_id = p.organization_id and s.number = p.version
        left join policy.agent_policy k
          on k.organization_id = a.organization_id and k.agent_id = a.id
        where a.organization_id = ${organizationId}::uuid and a.id = ${agentId}::uuid
          and a.deleted_at is null`;
      if (!row) throw notFound();
      const isAssigned = row.number !== null && row.digest !== null;
      const isAbout = row.known_number === row.number;
      return {
        agentId: input.params.id,
        vaultId: toId('vault', row.vault_id),
        state: isAssigned ? (isAbout ? (row.state ?? 'pending') : 'pending') : null,
        assigned: isAssigned ? { number: row.number ?? 0, digest: row.digest ?? '' } : null,
        held:
          row.held_number === null || row.held_digest === null || row.held_digest === ''
            ? null
            : { number: row.held_number, digest: row.held_digest },
        reason: isAbout ? row.reason : null,
        deliveredAt: row.delivered_at?.toISOString() ?? null,
        activeAt: row.active_at?.toISOString() ?? null,
        staleSince: row.stale_since?.toISOString() ?? null,
        decisions: {
          allowed: row.allowed,
          denied: row.denied,
          newlyDenied: row.newly_denied,
          errors: row.errors,
        },
      };
    });
  }
}
