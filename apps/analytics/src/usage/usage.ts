/**
 * Usage of one vault by the hour. Finished hours are read from their roll-up; an hour that has
 * none (it runs still, has just ended, or the roll-up is behind) is counted from what monitoring
 * keeps, so the answer never waits for the duty.
 *
 * Monitoring keeps the hour that an agent was heard in last beside its state, and moves it to a
 * row of its own with the first beat of a later hour. Per agent the two are one count seen twice
 * at most, so the greater one counts.
 */
import { TenantWork } from '@keystead/access/tenant-work';
import type { getVaultUsage } from '@keystead/contracts/analytics';
import type { TenantCtx } from '@keystead/contracts/context';
import { notFound } from '@keystead/contracts/errors';
import { toId, toUuid } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import type { Transaction } from '@keystead/database/database';
import { type Sql, sql } from '@keystead/database/sql';
import { Inject, Injectable } from '@nestjs/common';
import { readReported } from './reported-rows.ts';
import { hoursOf, type UsageRange, usageRange } from './usage-range.ts';

interface HourRow {
  hour: Date;
  heartbeats: number;
  online_minutes: number;
  outages: number;
}

@Injectable()
export class Usage {
  constructor(@Inject(TenantWork) private readonly work: TenantWork) {}

  async ofVault(
    ctx: TenantCtx,
    input: Input<typeof getVaultUsage>,
  ): Promise<Output<typeof getVaultUsage>> {
    const { organizationId } = ctx;
    const vaultId = toUuid('vault', input.params.id);
    return this.work.read(ctx, async (transaction) => {
      const decided = usageRange(
        input.query,
        await livingVault(transaction, organizationId, vaultId),
      );
      if (decided.outcome === 'invalid') throw decided.error;
      const { range } = decided;
      const rolledUp = await readRolledUp(transaction, organizationId, vaultId, range);
      const known = new Map(rolledUp.map((row) => [row.hour.getTime(), row]));
      const hours = hoursOf(range);
      const missing = hours.filter((hour) => !known.has(hour.getTime()));
      for (const row of await countFresh(transaction, organizationId, vaultId, missing)) {
        known.set(row.hour.getTime(), row);
      }
      const reported = await readReported(transaction, {
        organizationId,
        vaultId,
        agentId: input.query.agentId ? toUuid('agent', input.query.agentId) : null,
        range,
      });
      const shown = hours.map((hour) =>
        showHour(hour, known.get(hour.getTime()), reported.byHour.get(hour.getTime())),
      );
      return {
        vaultId: toId('vault', vaultId),
        since: new Date(range.fromMs).toISOString(),
        until: new Date(range.toMs).toISOString(),
        hours: shown,
        totals: {
          heartbeats: sum(shown, 'heartbeats'),
          onlineMinutes: sum(shown, 'onlineMinutes'),
          outages: sum(shown, 'outages'),
          operations: sum(shown, 'operations'),
        },
        operations: reported.operations,
        topSecrets: reported.topSecrets,
        stock: reported.stock,
      };
    });
  }
}

function showHour(hour: Date, row: HourRow | undefined, operations: number | undefined) {
  return {
    hour: hour.toISOString(),
    heartbeats: row?.heartbeats ?? 0,
    onlineMinutes: row?.online_minutes ?? 0,
    outages: row?.outages ?? 0,
    operations: operations ?? 0,
  };
}

function sum<F extends string>(rows: readonly Record<F, number>[], field: F): number {
  return rows.reduce((total, row) => total + row[field], 0);
}

/** @returns the database's time. @throws ServiceError `not_found` */
async function livingVault(
  transaction: Transaction,
  organizationId: string,
  vaultId: string,
): Promise<number> {
  const [row] = await transaction.$queryRaw<{ now: Date }[]>`
    select clock_timestamp() as now from registry.vault
    where organization_id = ${organizationId}::uuid and id = ${vaultId}::uuid
      and deleted_at is null`;
  if (!row) throw notFound();
  return row.now.getTime();
}

function readRolledUp(
  transaction: Transaction,
  organizationId: string,
  vaultId: string,
  range: UsageRange,
): Promise<HourRow[]> {
  return transaction.$queryRaw<HourRow[]>`
    select hour, heartbeats, bit_count(minutes::bit(64))::int as online_minutes, outages
    from analytics.vault_hour
    where organization_id = ${organizationId}::uuid and vault_id = ${vaultId}::uuid
      and hour >= ${at(range.fromMs)} and hour < ${at(range.toMs)}`;
}

async function countFresh(
  transaction: Transaction,
  organizationId: string,
  vaultId: string,
  hours: readonly Date[],
): Promise<HourRow[]> {
  const [first, last] = [hours.at(0), hours.at(-1)];
  if (!first || !last) return [];
  return transaction.$queryRaw<HourRow[]>`
    with asked as (select unnest(${hours.map((hour) => hour.toISOString())}::timestamptz[]) as hour),
    heard as (
      select agent_id, hour, max(beats) as beats, bit_or(minutes) as minutes
      from (
        select agent_id, hour, beats, minutes from monitoring.agent_hour
        where organization_id = ${organizationId}::uuid and vault_id = ${vaultId}::uuid
          and hour in (select hour from asked)
        union all
        select agent_id, hour, hour_beats, hour_minutes from monitoring.agent_liveness
        where organization_id = ${organizationId}::uuid and vault_id = ${vaultId}::uuid
          and hour in (select hour from asked)
      ) both_places
      group by agent_id, hour
    ),
    used as (
      select hour, sum(beats) as heartbeats, bit_or(minutes) as minutes from heard group by hour
    ),
    opened as (
      select date_trunc('hour', opened_at, 'UTC') as hour, count(*) as outages
      from monitoring.outage
      where organization_id = ${organizationId}::uuid and vault_id = ${vaultId}::uuid
        and opened_at >= ${at(first.getTime())} and opened_at < ${at(last.getTime())} + interval '1 hour'
      group by 1
    )
    select a.hour, coalesce(u.heartbeats, 0)::int as heartbeats,
      bit_count(coalesce(u.minutes, 0)::bit(64))::int as online_minutes,
      coalesce(o.outages, 0)::int as outages
    from asked a left join used u on u.hour = a.hour left join opened o on o.hour = a.hour`;
}

const at = (ms: number): Sql => sql`${new Date(ms).toISOString()}::timestamptz`;
