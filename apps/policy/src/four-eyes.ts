/** Whether an organization asks for a second person, for everything that agents decide by. */
import type { TenantCtx } from '@keystead/contracts/context';
import type { Transaction } from '@keystead/database/database';

export async function asksForFourEyes(
  transaction: Transaction,
  { organizationId }: Pick<TenantCtx, 'organizationId'>,
): Promise<boolean> {
  const row = await transaction.organization.findUnique({
    where: { organizationId },
    select: { fourEyes: true },
  });
  return row?.fourEyes ?? false;
}
