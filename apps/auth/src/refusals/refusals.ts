/** Attempts that were refused and that an organization should know of, as rows of its audit. */
import { type AuditNote, writeAudit } from '@keystead/access/audit';
import type { TenantCtx } from '@keystead/contracts/context';
import type { Operation } from '@keystead/contracts/operation';
import { Database } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';

@Injectable()
export class Refusals {
  constructor(@Inject(Database) private readonly database: Database) {}

  /** A transaction of its own: the refused one is rolled back. */
  async write(ctx: TenantCtx, operation: Operation, note: AuditNote): Promise<void> {
    await this.database.withTenant(ctx, (transaction) =>
      writeAudit(transaction, ctx, ctx.organizationId, operation.id, note, 'refused'),
    );
  }
}
