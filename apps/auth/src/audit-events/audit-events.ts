/** Who changed what. Rows are written by every service with its change, and only read here. */
import { asDate, Listing } from '@keystead/access/listing';
import { TenantWork } from '@keystead/access/tenant-work';
import { listAuditEvents } from '@keystead/contracts/auth';
import type { TenantCtx } from '@keystead/contracts/context';
import { toId } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import type { Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';

@Injectable()
export class AuditEvents {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(Listing) private readonly listing: Listing,
  ) {}

  async list(
    ctx: TenantCtx,
    { query }: Input<typeof listAuditEvents>,
  ): Promise<Output<typeof listAuditEvents>> {
    const { organizationId } = ctx;
    const at = {
      ...(query.since === undefined ? {} : { gte: new Date(query.since) }),
      ...(query.until === undefined ? {} : { lt: new Date(query.until) }),
    };
    return this.work.read(ctx, (transaction) =>
      this.listing.page(ctx, listAuditEvents.id, query, {
        fields: { at: { read: asDate } },
        where: {
          organizationId,
          ...(query.action ? { action: { in: query.action } } : {}),
          ...(query.actorId === undefined ? {} : { actorId: query.actorId }),
          ...(query.targetId === undefined ? {} : { targetId: query.targetId }),
          ...(query.result === undefined ? {} : { result: query.result }),
          ...(Object.keys(at).length === 0 ? {} : { at }),
        },
        fetch: (page) => transaction.auditEvent.findMany(page),
        valueOf: (row) => row.at,
        idOf: (row) => row.id,
        toItem: show,
      }),
    );
  }
}

type Row = NonNullable<Awaited<ReturnType<Transaction['auditEvent']['findFirst']>>>;

function show(row: Row) {
  return {
    id: toId('auditEvent', row.id),
    at: row.at.toISOString(),
    actor: { kind: row.actorKind, id: row.actorId, name: row.actorName },
    action: row.action,
    target:
      row.targetKind === null || row.targetId === null
        ? null
        : { kind: row.targetKind, id: row.targetId, name: row.targetName },
    result: row.result === 'refused' ? ('refused' as const) : ('succeeded' as const),
    requestId: row.requestId,
    address: row.address,
    changes: row.changes as Record<string, unknown> | null,
  };
}
