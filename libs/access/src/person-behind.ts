/** Who stands behind a caller: an API key acts for whoever made it. */
import type { TenantCtx } from '@keystead/contracts/context';
import type { Transaction } from '@keystead/database/database';

/** The caller, or whoever made the API key that calls. @returns the public id; null: nobody knows */
export async function personBehind(
  transaction: Transaction,
  { organizationId, actor, credentialId }: TenantCtx,
): Promise<string | null> {
  if (actor.kind === 'person') return actor.id;
  if (actor.kind !== 'apiKey' || credentialId === null) return null;
  const key = await transaction.apiKey.findUnique({
    where: { organizationId_id: { organizationId, id: credentialId } },
    select: { madeById: true },
  });
  return key?.madeById ?? null;
}
