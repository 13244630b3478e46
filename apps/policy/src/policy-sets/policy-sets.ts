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
      const before = await show(transaction, ctx, vaultId);
      checkMatch(input.ifMatch, revisionOf(before.etag), false);
      if (before.version !== null && version < before.version) {
        throw new ServiceError('unprocessable', {
          detail: `the vault holds version ${before.version}; agents never go back to an older one`,
        });
      }
      await transaction.policySetAssignment.upsert({
        where: { organizationId_vaultId: { organizationId, vaultId } },
        create: { organizationId, vaultId, version },
        update: { version, assignedAt: new Date(), revision: { increment: 1 } },
      });
      note({
        target: { kind: 'vault', id: input.params.id },
        changes: { version: { from: before.version, to: version } },
      });
      return show(transaction, ctx, vaultId);
    });
  }
}

const revisionOf = (etag: string) => Number(etag.replaceAll('"', ''));

async function show(transaction: Transaction, { organizationId }: TenantCtx, vaultId: string) {
  const vault = await transaction.vault.findFirst({
    where: { organizationId, id: vaultId, deletedAt: null },
    select: { id: true },
  });
  if (!vault) throw notFound();
  const assignment = await transaction.policySetAssignment.findUnique({
    where: { organizationId_vaultId: { organizationId, vaultId } },
  });
  const agents = await transaction.agent.findMany({
    where: { organizationId, vaultId, deletedAt: null, revokedAt: null },
    select: { liveness: { select: { policySetVersion: true } } },
  });
  const reported = agents.map((agent) => agent.liveness?.policySetVersion ?? null);
  const wanted = assignment?.version ?? null;
  return {
    vaultId: toId('vault', vaultId),
    version: wanted,
    assignedAt: assignment?.assignedAt.toISOString() ?? null,
    agents: {
      total: reported.length,
      current: reported.filter((version) => version !== null && version === wanted).length,
      behind: reported.filter((version) => version !== null && version !== wanted).length,
      unreported: reported.filter((version) => version === null).length,
    },
    etag: etagOf(assignment?.revision ?? 0),
  };
}
