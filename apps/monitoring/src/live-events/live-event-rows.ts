/** Rows of the live stream, written in the transaction of what they tell. */
import type { liveEventTypes } from '@keystead/contracts/monitoring';
import type { Transaction } from '@keystead/database/database';

export interface LiveEventRow {
  organizationId: string;
  type: (typeof liveEventTypes)[number];
  at: Date;
  data: Record<string, string | number | boolean | null | Record<string, string>>;
}

export async function writeLiveEvents(
  transaction: Transaction,
  rows: readonly LiveEventRow[],
): Promise<void> {
  if (rows.length === 0) return;
  await transaction.$executeRaw`
    insert into monitoring.live_event (organization_id, type, at, data)
    select * from unnest(
      ${rows.map((row) => row.organizationId)}::uuid[],
      ${rows.map((row) => row.type)}::text[],
      ${rows.map((row) => row.at)}::timestamptz[],
      ${rows.map((row) => JSON.stringify(row.data))}::jsonb[]
    )`;
}
