/** Attempts that were refused and that an organization should know of, as rows of its audit. */
import { type AuditNote, writeAudit } from '@keystead/access/audit';
import type { TenantCtx } from '@keystead/contracts/context';
import { type ErrorCode, ServiceError } from '@keystead/contracts/errors';
import type { Operation } from '@keystead/contracts/operation';
import { Database } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';

const worthWriting: readonly ErrorCode[] = ['permission_denied', 'unprocessable'];

@Injectable()
export class Refusals {
  constructor(@Inject(Database) private readonly database: Database) {}

  /**
   * Runs a change. When it is refused, the attempt is written down in a transaction of its own,
   * since that of the change is rolled back.
   */
  async watch<T>(
    ctx: TenantCtx,
    operation: Operation,
    attempt: AuditNote,
    change: () => Promise<T>,
  ): Promise<T> {
    try {
      return await change();
    } catch (error) {
      if (error instanceof ServiceError && worthWriting.includes(error.code)) {
        const note = { ...attempt, changes: { ...attempt.changes, reason: error.code } };
        await this.database.withTenant(ctx, (transaction) =>
          writeAudit(transaction, ctx, ctx.organizationId, operation.id, note, 'refused'),
        );
      }
      throw error;
    }
  }
}
