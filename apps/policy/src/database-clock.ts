import type { Transaction } from '@keystead/database/database';

/** What the database's clock says: by it every deadline is set that another statement compares. */
export async function databaseClock(transaction: Transaction): Promise<Date> {
  const [row] = await transaction.$queryRaw<{ now: Date }[]>`select clock_timestamp() as now`;
  if (!row) throw new Error('the database answered no time');
  return row.now;
}
