/**
 * The live stream of an organization. Rows are read in the order of their transactions, and only
 * those older than every transaction that still runs: a row that commits late is never skipped.
 */
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { Inject, Injectable } from '@nestjs/common';

interface Position {
  transaction: bigint;
  id: bigint;
}

const form = /^(\d{1,19})-(\d{1,19})$/;

function parse(text: string | null): Position | undefined {
  const match = text === null ? null : form.exec(text);
  return match ? { transaction: BigInt(match[1] ?? 0), id: BigInt(match[2] ?? 0) } : undefined;
}
const format = (transaction: bigint, id: bigint) => `${transaction}-${id}`;

@Injectable()
export class LiveEvents {
  constructor(@Inject(TenantWork) private readonly work: TenantWork) {}

  async read(ctx: TenantCtx, after: string | null, limit: number) {
    const { organizationId } = ctx;
    return this.work.read(ctx, async (transaction) => {
      const [bounds] = await transaction.$queryRaw<{ horizon: bigint; oldest: bigint | null }[]>`
        select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as horizon,
          (select min(transaction_id) from monitoring.live_event where organization_id = ${organizationId}::uuid) as oldest`;
      const horizon = bounds?.horizon ?? 0n;
      const from = parse(after);
      if (!from) return { events: [], position: format(horizon, 0n), missed: false };
      const rows = await transaction.$queryRaw<
        {
          id: bigint;
          transaction_id: bigint;
          type: string;
          at: Date;
          data: Record<string, unknown>;
        }[]
      >`
        select id, transaction_id, type, at, data from monitoring.live_event
        where organization_id = ${organizationId}::uuid
          and (transaction_id, id) > (${from.transaction}, ${from.id}) and transaction_id < ${horizon}
        order by transaction_id, id limit ${limit}`;
      const last = rows.at(-1);
      return {
        events: rows.map((row) => ({
          id: format(row.transaction_id, row.id),
          type: row.type,
          at: row.at.toISOString(),
          data: row.data,
        })),
        position: last ? format(last.transaction_id, last.id) : (after as string),
        missed: from.id > 0n && bounds?.oldest != null && from.transaction < bounds.oldest,
      };
    });
  }
}
