/** Takes agents their access: the rows that gateways poll and that admission reads. */
import type { Transaction } from '@keystead/database/database';
import { type Sql, sql } from '@keystead/database/sql';

/**
 * @param where conditions on `registry.agent`
 * @returns how many agents it concerned
 */
export async function revokeAgentsWhere(
  transaction: Transaction,
  organizationId: string,
  where: Sql,
  how: { reason: string | null; deleted: boolean },
): Promise<number> {
  const scope = sql`organization_id = ${organizationId}::uuid and ${where}`;
  const revoked = sql`
    revoked_at = coalesce(revoked_at, clock_timestamp()),
    revocation_reason = case when revoked_at is null then ${how.reason} else revocation_reason end`;
  const agents = how.deleted
    ? await transaction.$executeRaw`
      update registry.agent set ${revoked}, deleted_at = clock_timestamp()
      where ${scope} and deleted_at is null`
    : await transaction.$executeRaw`
      update registry.agent set ${revoked}
      where ${scope} and revoked_at is null`;
  // A statement of its own: it sees the certificate of a renewal that the one above waited for.
  await transaction.$executeRaw`
    update registry.certificate set revoked_at = clock_timestamp()
    where organization_id = ${organizationId}::uuid and revoked_at is null
      and agent_id in (select id from registry.agent where ${scope} and revoked_at is not null)`;
  return agents;
}
