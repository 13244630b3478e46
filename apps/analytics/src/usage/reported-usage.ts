/**
 * What agents report of their use, added up by the hour of their own clocks. A report is an outbox
 * row that monitoring wrote once for an event: it is deleted in the transaction that adds it, so it
 * counts once, however late it comes and however often it was sent.
 */
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { type OutboxRow, take } from '@keystead/database/outbox';
import { Inject, Injectable } from '@nestjs/common';
import { hourMs } from './usage-range.ts';

type Row = OutboxRow<'usage.reported'>;

const reportsPerBatch = 200;
const batchesPerRun = 100;

@Injectable()
export class ReportedUsage {
  constructor(@Inject(Database) private readonly database: Database) {}

  /** @returns how many reports were added */
  async addUp(): Promise<number> {
    let added = 0;
    for (let batch = 0; batch < batchesPerRun; batch += 1) {
      const count = await this.database.acrossTenants('roll-up-usage', async (transaction) => {
        const rows = await take(transaction, 'usage.reported', reportsPerBatch);
        await addOperations(transaction, rows);
        await addSecrets(transaction, rows);
        await keepStock(transaction, rows);
        return rows.length;
      });
      added += count;
      if (count < reportsPerBatch) break;
    }
    return added;
  }
}

/**
 * The hour a period belongs to. An agent's clock is its own: what it says of the future, or of
 * before anything is kept, counts as the hour in which it was received.
 */
export function hourOfReport(periodStartMs: number, receivedMs: number): number {
  const oldest = receivedMs - limits.usageKeepDays * 24 * hourMs;
  const at = periodStartMs > receivedMs || periodStartMs < oldest ? receivedMs : periodStartMs;
  return Math.floor(at / hourMs) * hourMs;
}

const hourOf = ({ payload, createdAt }: Row) =>
  new Date(hourOfReport(payload.operationCounts.periodStartMs, createdAt.getTime()));

async function addOperations(transaction: Transaction, rows: readonly Row[]): Promise<void> {
  const counts = rows.flatMap((row) =>
    row.payload.operationCounts.counts.map((count) => ({ row, hour: hourOf(row), count })),
  );
  if (counts.length === 0) return;
  await transaction.$executeRaw`
    insert into analytics.operation_hour (organization_id, vault_id, agent_id, hour, operation,
      outcome, count, p50_us, p95_us, p99_us)
    select organization_id, vault_id, agent_id, hour, operation, outcome, sum(count), max(p50),
      max(p95), max(p99)
    from unnest(
      ${counts.map(({ row }) => row.organizationId)}::uuid[],
      ${counts.map(({ row }) => row.payload.vaultId)}::uuid[],
      ${counts.map(({ row }) => row.payload.agentId)}::uuid[],
      ${counts.map(({ hour }) => hour)}::timestamptz[],
      ${counts.map(({ count }) => count.operation)}::text[],
      ${counts.map(({ count }) => count.outcome)}::text[],
      ${counts.map(({ count }) => count.count)}::bigint[],
      ${counts.map(({ count }) => count.p50Us)}::bigint[],
      ${counts.map(({ count }) => count.p95Us)}::bigint[],
      ${counts.map(({ count }) => count.p99Us)}::bigint[]
    ) as k(organization_id, vault_id, agent_id, hour, operation, outcome, count, p50, p95, p99)
    group by organization_id, vault_id, agent_id, hour, operation, outcome
    order by organization_id, vault_id, agent_id, hour, operation, outcome
    on conflict (organization_id, vault_id, agent_id, hour, operation, outcome) do update
      set count = operation_hour.count + excluded.count,
        p50_us = greatest(operation_hour.p50_us, excluded.p50_us),
        p95_us = greatest(operation_hour.p95_us, excluded.p95_us),
        p99_us = greatest(operation_hour.p99_us, excluded.p99_us)`;
}

async function addSecrets(transaction: Transaction, rows: readonly Row[]): Promise<void> {
  const secrets = rows.flatMap((row) =>
    row.payload.operationCounts.topSecrets.map((secret) => ({ row, hour: hourOf(row), secret })),
  );
  if (secrets.length === 0) return;
  await transaction.$executeRaw`
    insert into analytics.secret_hour (organization_id, vault_id, hour, secret_ref, count)
    select organization_id, vault_id, hour, secret_ref, sum(count)
    from unnest(
      ${secrets.map(({ row }) => row.organizationId)}::uuid[],
      ${secrets.map(({ row }) => row.payload.vaultId)}::uuid[],
      ${secrets.map(({ hour }) => hour)}::timestamptz[],
      ${secrets.map(({ secret }) => secret.secretRef)}::text[],
      ${secrets.map(({ secret }) => secret.count)}::bigint[]
    ) as k(organization_id, vault_id, hour, secret_ref, count)
    group by organization_id, vault_id, hour, secret_ref
    order by organization_id, vault_id, hour, secret_ref
    on conflict (organization_id, vault_id, hour, secret_ref) do update
      set count = secret_hour.count + excluded.count`;
}

/** The last word of an hour holds, whatever the order in which the words arrive. */
async function keepStock(transaction: Transaction, rows: readonly Row[]): Promise<void> {
  if (rows.length === 0) return;
  await transaction.$executeRaw`
    insert into analytics.stock_hour (organization_id, vault_id, agent_id, hour, period_end,
      namespaces, secrets, stored_bytes)
    select distinct on (organization_id, vault_id, agent_id, hour) *
    from unnest(
      ${rows.map((row) => row.organizationId)}::uuid[],
      ${rows.map((row) => row.payload.vaultId)}::uuid[],
      ${rows.map((row) => row.payload.agentId)}::uuid[],
      ${rows.map(hourOf)}::timestamptz[],
      ${rows.map((row) => new Date(row.payload.operationCounts.periodEndMs))}::timestamptz[],
      ${rows.map((row) => row.payload.operationCounts.namespaces)}::bigint[],
      ${rows.map((row) => row.payload.operationCounts.secrets)}::bigint[],
      ${rows.map((row) => row.payload.operationCounts.storedBytes)}::bigint[]
    ) as k(organization_id, vault_id, agent_id, hour, period_end, namespaces, secrets, stored_bytes)
    order by organization_id, vault_id, agent_id, hour, period_end desc
    on conflict (organization_id, vault_id, agent_id, hour) do update
      set period_end = excluded.period_end, namespaces = excluded.namespaces,
        secrets = excluded.secrets, stored_bytes = excluded.stored_bytes
      where excluded.period_end >= stock_hour.period_end`;
}
