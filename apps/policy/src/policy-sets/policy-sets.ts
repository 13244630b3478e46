/**
 * The version of the policy set that each vault should hold. Agents report what they hold with
 * their heartbeats; the difference is shown, never guessed.
 */
import { checkMatch, etagOf } from '@keystead/access/precondition';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import { assignPolicySet, type getPolicySet } from '@keystead/contracts/policy';
import type { Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';

@Injectable()
export class PolicySets {
  constructor(@Inject(TenantWork) private readonly work: TenantWork) {}

  async get(
    ctx: TenantCtx,
    input: Input<typeof getPolicySet>,
  ): Promise<Output<typeof getPolicySet>> {
    return this.work.read(ctx, (transaction) =>
      show(transaction, ctx, toUuid('vault', input.params.id)),
    );
  }

  async assign(
    ctx: TenantCtx,
    input: Input<typeof assignPolicySet>,
  ): Promise<Output<typeof assignPolicySet>> {
    const { organizationId } = ctx;
    const vaultId = toUuid('vault', input.params.id);
    const { version } = input.body;
    return this.work.write(ctx, assignPolicySet, input, async (transaction, note) => {
      await lockVault(transaction, ctx, vaultId);
      const before = await show(transaction, ctx, vaultId);
      checkMatch(input.ifMatch, revisionOf(before.etag), false);
      if (before.version !== null && version < before.version) {
        throw new ServiceError('unprocessable', {
          detail: `the vault holds version ${before.version}; agents never go back to an older one`,
        });
      }
      await transaction.$executeRaw`
        insert into policy.policy_set_assignment (organization_id, vault_id, version, assigned_at)
        values (${organizationId}::uuid, ${vaultId}::uuid, ${version}, clock_timestamp())
        on conflict (organization_id, vault_id) do update
          set version = excluded.version, assigned_at = excluded.assigned_at,
            revision = policy_set_assignment.revision + 1`;
      note({
        target: { kind: 'vault', id: input.params.id },
        changes: { version: { from: before.version, to: version } },
      });
      return show(transaction, ctx, vaultId);
    });
  }
}

const revisionOf = (etag: string) => Number(etag.replaceAll('"', ''));

/** One assignment after the other, so that each sees the version before it. */
async function lockVault(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  vaultId: string,
): Promise<void> {
  await transaction.$queryRaw`
    select id from registry.vault
    where organization_id = ${organizationId}::uuid and id = ${vaultId}::uuid
    for no key update`;
}

async function show(transaction: Transaction, { organizationId }: TenantCtx, vaultId: string) {
  const [row] = await transaction.$queryRaw<
    {
      version: number | null;
      assigned_at: Date | null;
      revision: number | null;
      total: number;
      current: number;
      unreported: number;
    }[]
  >`
    select p.version, p.assigned_at, p.revision, a.*
    from registry.vault v
    left join policy.policy_set_assignment p
      on p.organization_id = v.organization_id and p.vault_id = v.id
    cross join lateral (
      select count(*)::int as total,
        count(*) filter (where l.policy_set_version = p.version)::int as current,
        count(*) filter (where l.policy_set_version is null)::int as unreported
      from registry.agent a
      left join monitoring.agent_liveness l
        on l.organization_id = a.organization_id and l.agent_id = a.id
      where a.organization_id = v.organization_id and a.vault_id = v.id
        and a.deleted_at is null and a.revoked_at is null
    ) a
    where v.organization_id = ${organizationId}::uuid and v.id = ${vaultId}::uuid
      and v.deleted_at is null`;
  if (!row) throw notFound();
  const { total, current, unreported } = row;
  return {
    vaultId: toId('vault', vaultId),
    version: row.version,
    assignedAt: row.assigned_at?.toISOString() ?? null,
    agents: { total, current, behind: total - current - unreported, unreported },
    etag: etagOf(row.revision ?? 0),
  };
}
