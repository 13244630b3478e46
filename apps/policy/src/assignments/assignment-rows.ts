/** Which set each vault is assigned. Every change of it, by hand or by a rollout, is made here. */
import type { Transaction } from '@keystead/database/database';

/** Vaults that change at once; the rest of the organization is not held up. */
export async function lockVaults(
  transaction: Transaction,
  organizationId: string,
  vaultIds: readonly string[],
): Promise<void> {
  await transaction.$queryRaw`
    select id from registry.vault
    where organization_id = ${organizationId}::uuid and id = any(${vaultIds}::uuid[])
    order by id for no key update`;
}

/**
 * Assigns a number to living vaults. One that holds it or a later number already stays as it is.
 * @returns the vaults that changed
 */
export async function assignNumber(
  transaction: Transaction,
  organizationId: string,
  vaultIds: readonly string[],
  number: number,
): Promise<string[]> {
  const rows = await transaction.$queryRaw<{ vault_id: string }[]>`
    insert into policy.policy_set_assignment (organization_id, vault_id, version, assigned_at)
    select v.organization_id, v.id, ${number}, clock_timestamp()
    from registry.vault v
    where v.organization_id = ${organizationId}::uuid and v.id = any(${vaultIds}::uuid[])
      and v.deleted_at is null
    order by v.id
    on conflict (organization_id, vault_id) do update
      set version = excluded.version, assigned_at = excluded.assigned_at,
        revision = policy_set_assignment.revision + 1
      where policy_set_assignment.version < excluded.version
    returning vault_id`;
  return rows.map((row) => row.vault_id);
}
