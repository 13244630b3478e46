/** The audit row: written in the transaction of the change it tells of. */
import type { Ctx } from '@keystead/contracts/context';
import { newUuid } from '@keystead/contracts/ids';
import type { Transaction } from '@keystead/database/database';

export interface AuditNote {
  target?: { kind: string; id: string; name?: string | null };
  /** Field names with old and new, or plain facts. Never a secret, a token or a password. */
  changes?: Record<string, unknown>;
}

export async function writeAudit(
  transaction: Transaction,
  ctx: Ctx,
  organizationId: string,
  action: string,
  note: AuditNote,
  result: 'succeeded' | 'refused' = 'succeeded',
): Promise<void> {
  await transaction.auditEvent.create({
    data: {
      organizationId,
      id: newUuid(),
      actorKind: ctx.actor.kind,
      actorId: ctx.actor.id,
      actorName: ctx.actor.name,
      action,
      targetKind: note.target?.kind ?? null,
      targetId: note.target?.id ?? null,
      targetName: note.target?.name ?? null,
      result,
      requestId: ctx.requestId,
      address: ctx.address,
      ...(note.changes ? { changes: JSON.parse(JSON.stringify(note.changes)) } : {}),
    },
  });
}

/** What differs between two states of a thing, as `{field: {from, to}}`. */
export function differences<T extends Record<string, unknown>>(
  before: T,
  after: Partial<T>,
): Record<string, { from: unknown; to: unknown }> {
  const changes: Record<string, { from: unknown; to: unknown }> = {};
  for (const [field, to] of Object.entries(after)) {
    const from = before[field];
    if (JSON.stringify(from) !== JSON.stringify(to)) changes[field] = { from, to };
  }
  return changes;
}
