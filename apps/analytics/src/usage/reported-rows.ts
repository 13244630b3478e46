/** Reads what agents of a vault reported within a range of hours. */
import type { getVaultUsage } from '@keystead/contracts/analytics';
import type { Output } from '@keystead/contracts/operation';
import type { Transaction } from '@keystead/database/database';
import { nothing, type Sql, sql } from '@keystead/database/sql';
import type { UsageRange } from './usage-range.ts';

const topSecretsShown = 10;

interface Asked {
  organizationId: string;
  vaultId: string;
  agentId: string | null;
  range: UsageRange;
}

type Shown = Output<typeof getVaultUsage>;

export async function readReported(
  transaction: Transaction,
  asked: Asked,
): Promise<Pick<Shown, 'operations' | 'topSecrets' | 'stock'> & { byHour: Map<number, number> }> {
  const within = (agents: boolean): Sql => sql`
    organization_id = ${asked.organizationId}::uuid and vault_id = ${asked.vaultId}::uuid
    and hour >= ${new Date(asked.range.fromMs)} and hour < ${new Date(asked.range.toMs)}
    ${agents && asked.agentId !== null ? sql`and agent_id = ${asked.agentId}::uuid` : nothing}`;
  const operations = await transaction.$queryRaw<Shown['operations']>`
    select operation, outcome, sum(count)::float8 as count, max(p50_us)::float8 as "p50Us",
      max(p95_us)::float8 as "p95Us", max(p99_us)::float8 as "p99Us"
    from analytics.operation_hour where ${within(true)}
    group by operation, outcome order by operation, outcome`;
  const hours = await transaction.$queryRaw<{ hour: Date; count: number }[]>`
    select hour, sum(count)::float8 as count
    from analytics.operation_hour where ${within(true)} group by hour`;
  const topSecrets = await transaction.$queryRaw<Shown['topSecrets']>`
    select secret_ref as "secretRef", sum(count)::float8 as count
    from analytics.secret_hour where ${within(false)}
    group by secret_ref order by count desc, secret_ref limit ${topSecretsShown}`;
  // Agents of a vault may share one store: the newest of their words, not the sum.
  const [stock] = await transaction.$queryRaw<
    { at: Date; namespaces: number; secrets: number; stored_bytes: number }[]
  >`
    select period_end as at, namespaces::float8, secrets::float8, stored_bytes::float8
    from analytics.stock_hour where ${within(true)}
    order by period_end desc, agent_id limit 1`;
  return {
    operations,
    topSecrets,
    byHour: new Map(hours.map(({ hour, count }) => [hour.getTime(), count])),
    stock:
      stock === undefined
        ? null
        : {
            at: stock.at.toISOString(),
            namespaces: stock.namespaces,
            secrets: stock.secrets,
            storedBytes: stock.stored_bytes,
          },
  };
}
