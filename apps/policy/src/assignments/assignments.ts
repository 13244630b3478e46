/**
 * The signed set that each vault should hold, beside what its agents say that they hold: the
 * difference is shown, never guessed.
 */
import { checkMatch, etagOf } from '@keystead/access/precondition';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { invalidRequest, notFound, ServiceError } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import {
  assignPolicySet,
  type effectivePolicies,
  type getPolicySet,
} from '@keystead/contracts/policy';
import type { Transaction } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { asksForFourEyes } from '../four-eyes.ts';
import { readContent } from '../policy-sets/set-content.ts';
import { assignNumber, lockVaults } from './assignment-rows.ts';
import { type EffectiveLevel, effectiveLevels, pageOf } from './effective-levels.ts';

@Injectable()
export class Assignments {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

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
    const { version: number } = input.body;
    const answer = await this.work.write(ctx, assignPolicySet, input, async (transaction, note) => {
      await lockVaults(transaction, organizationId, [vaultId]);
      const before = await show(transaction, ctx, vaultId);
      checkMatch(input.ifMatch, revisionOf(before.etag), false);
      if (before.version !== null && number < before.version) {
        throw new ServiceError('unprocessable', {
          detail: `the vault holds version ${before.version}; agents never go back to an older one`,
        });
      }
      const set = await transaction.policySetVersion.findUnique({
        where: { organizationId_number: { organizationId, number } },
        select: { number: true },
      });
      if (!set) {
        throw new ServiceError('unprocessable', { detail: `there is no signed set ${number}` });
      }
      if (number !== before.version && (await asksForFourEyes(transaction, ctx))) {
        throw new ServiceError('unprocessable', {
          detail:
            'the organization asks for four eyes: a rollout to this vault, approved, assigns it',
        });
      }
      await assignNumber(transaction, organizationId, [vaultId], number);
      note({
        target: { kind: 'vault', id: input.params.id },
        changes: { version: { from: before.version, to: number } },
      });
      return show(transaction, ctx, vaultId);
    });
    this.bus.nudge('policySets', organizationId);
    return answer;
  }

  async effective(
    ctx: TenantCtx,
    input: Input<typeof effectivePolicies>,
  ): Promise<Output<typeof effectivePolicies>> {
    const vaultId = toUuid('vault', input.params.id);
    const { namespace = null, secret, limit, after } = input.query;
    if (secret !== undefined && namespace === null) {
      throw invalidRequest('query', [
        { path: ['namespace'], message: 'must name the namespace that the secret lies in' },
      ]);
    }
    return this.work.read(ctx, async (transaction) => {
      const { version: number, digest } = await show(transaction, ctx, vaultId);
      const row =
        number === null
          ? null
          : await transaction.policySetVersion.findUnique({
              where: { organizationId_number: { organizationId: ctx.organizationId, number } },
              select: { content: true },
            });
      if (!row) {
        return {
          vaultId: input.params.id,
          number: null,
          digest: null,
          staleness: null,
          configuration: {},
          levels: [],
          total: 0,
          nextAfter: null,
        };
      }
      const content = readContent(row.content);
      const place = namespace === null || secret === undefined ? null : { namespace, secret };
      const levels = await effectiveLevels(content.set, namespace, place);
      const page = pageOf(levels, after, limit);
      return {
        vaultId: input.params.id,
        number,
        digest,
        staleness: content.staleness,
        configuration: content.configuration,
        ...page,
        levels: await named(transaction, ctx, page.levels),
      };
    });
  }
}

async function named(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  levels: readonly EffectiveLevel[],
): Promise<Output<typeof effectivePolicies>['levels']> {
  const ids = levels.flatMap(({ policies }) =>
    policies.flatMap(({ policyId }) => (policyId === null ? [] : [toUuid('policy', policyId)])),
  );
  const rows = await transaction.policy.findMany({
    where: { organizationId, id: { in: ids } },
    select: { id: true, name: true },
  });
  const names = new Map(rows.map(({ id, name }) => [toId('policy', id) as string, name]));
  return levels.map((level) => ({
    ...level,
    policies: level.policies.map((policy) => ({
      ...policy,
      name: names.get(policy.policyId ?? '') ?? null,
    })),
  }));
}

const revisionOf = (etag: string) => Number(etag.replaceAll('"', ''));

async function show(
  transaction: Transaction,
  { organizationId }: TenantCtx,
  vaultId: string,
): Promise<Output<typeof getPolicySet>> {
  const [row] = await transaction.$queryRaw<
    {
      version: number | null;
      set_id: string | null;
      digest: string | null;
      assigned_at: Date | null;
      revision: number | null;
      total: number;
      current: number;
      unreported: number;
    }[]
  >`
    select p.version, s.set_id, s.digest, p.assigned_at, p.revision, a.*
    from registry.vault v
    left join policy.policy_set_assignment p
      on p.organization_id = v.organization_id and p.vault_id = v.id
    left join policy.policy_set_version s
      on s.organization_id = p.organization_id and s.number = p.version
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
    policySetId: row.set_id === null ? null : toId('policySet', row.set_id),
    digest: row.digest,
    assignedAt: row.assigned_at?.toISOString() ?? null,
    agents: { total, current, behind: total - current - unreported, unreported },
    etag: etagOf(row.revision ?? 0),
  };
}
