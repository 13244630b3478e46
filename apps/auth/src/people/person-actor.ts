import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import { toId } from '@keystead/contracts/ids';
import { permissionsOf, type Role } from '@keystead/contracts/permissions';

/** The caller, once a password has shown who it is. */
export function asPerson(
  ctx: Ctx,
  person: { id: string; name: string },
  organizationId: string,
  role: Role,
): TenantCtx {
  return {
    ...ctx,
    organizationId,
    actor: { kind: 'person', id: toId('person', person.id), name: person.name },
    personId: person.id,
    role,
    permissions: [...permissionsOf[role]],
  };
}
