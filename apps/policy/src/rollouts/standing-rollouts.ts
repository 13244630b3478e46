/**
 * Vaults that came after a rollout to all, or to a tag, was complete: they are assigned what it brought,
 * the newest for a tag before the newest for all. A vault that is assigned anything is left alone.
 */
import { Database } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { assignNumber, lockVaults } from '../assignments/assignment-rows.ts';

const vaultsPerRun = 2_000;

@Injectable()
export class StandingRollouts {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(Bus) private readonly bus: Pick<Bus, 'nudge'>,
  ) {}

  /** @returns how many vaults were assigned a set */
  async assignNew(): Promise<number> {
    const rows = await this.database.acrossTenants(
      'roll-out',
      (transaction) => transaction.$queryRaw<
        { organization_id: string; vault_id: string; number: number }[]
      >`
        select v.organization_id, v.id as vault_id, standing.number
        from (
          select distinct organization_id from policy.rollout
          where state = 'completed' and target is not null
        ) organizations
        join registry.vault v
          on v.organization_id = organizations.organization_id and v.deleted_at is null
        join lateral (
          select r.number from policy.rollout r
          join policy.policy_set s
            on s.organization_id = r.organization_id and s.id = r.set_id and s.deleted_at is null
          where r.organization_id = v.organization_id and r.state = 'completed'
            and (r.target->>'kind' = 'all'
              or (r.target->>'kind' = 'tag' and v.tags @> array[r.target->>'tag']))
          order by r.target->>'kind' = 'tag' desc, r.finished_at desc limit 1
        ) standing on true
        where not exists (
          select from policy.policy_set_assignment p
          where p.organization_id = v.organization_id and p.vault_id = v.id
        )
        limit ${vaultsPerRun}`,
    );
    let assigned = 0;
    const failures: unknown[] = [];
    for (const [organizationId, vaults] of Map.groupBy(rows, (row) => row.organization_id)) {
      try {
        assigned += await this.#assign(organizationId, vaults);
        this.bus.nudge('policySets', organizationId);
      } catch (error) {
        // One organization holds up no other.
        failures.push(error);
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, 'new vaults were assigned nothing');
    return assigned;
  }

  #assign(
    organizationId: string,
    vaults: readonly { vault_id: string; number: number }[],
  ): Promise<number> {
    return this.database.withTenant({ organizationId }, async (transaction) => {
      await lockVaults(
        transaction,
        organizationId,
        vaults.map(({ vault_id }) => vault_id),
      );
      let changed = 0;
      for (const [number, group] of Map.groupBy(vaults, (vault) => vault.number)) {
        const ids = group.map(({ vault_id }) => vault_id);
        changed += (await assignNumber(transaction, organizationId, ids, number)).length;
      }
      return changed;
    });
  }
}
