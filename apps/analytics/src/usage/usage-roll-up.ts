/**
 * Rolls finished hours up into one row a vault and hour. Takes no input: the hours that are
 * complete are rows, and the next one is worked on once everything that was received in it has
 * certainly been committed. So it goes on where it stopped, however long that was, and doing an
 * hour twice changes nothing.
 */
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { type Sql, sql } from '@keystead/database/sql';
import { Inject, Injectable } from '@nestjs/common';

const vaultsPerBatch = 10_000;
const hoursPerRun = 200;
const removedPerBatch = 10_000;
const removalsPerRun = 100;

@Injectable()
export class UsageRollUp {
  constructor(@Inject(Database) private readonly database: Database) {}

  /** @returns how many hours were completed */
  async rollUp(): Promise<number> {
    for (let hours = 0; hours < hoursPerRun; hours += 1) {
      const hour = await this.#across(nextHour);
      if (!hour) return hours;
      while ((await this.#across((transaction) => rollUpBatch(transaction, hour))) > 0) {
        // Batch after batch, until every vault of the hour has its row.
      }
      await this.#across(
        (transaction) => transaction.$executeRaw`
          insert into analytics.rolled_up_hour (hour) values (${at(hour)}) on conflict do nothing`,
      );
    }
    return hoursPerRun;
  }

  /** The last complete hour always stays: it is where the next run goes on. */
  async removeOld(): Promise<void> {
    const days = limits.usageKeepDays;
    for (let batch = 0; batch < removalsPerRun; batch += 1) {
      const removed = await this.#across(
        (transaction) => transaction.$executeRaw`
          delete from analytics.vault_hour where (organization_id, vault_id, hour) in (
            select organization_id, vault_id, hour from analytics.vault_hour
            where hour < clock_timestamp() - make_interval(days => ${days}::int)
            limit ${removedPerBatch} for update skip locked
          )`,
      );
      if (removed < removedPerBatch) break;
    }
    for (const remove of removeReported) {
      for (let batch = 0; batch < removalsPerRun; batch += 1) {
        const removed = await this.#across((transaction) => remove(transaction, days));
        if (removed < removedPerBatch) break;
      }
    }
    await this.#across(
      (transaction) => transaction.$executeRaw`
        delete from analytics.rolled_up_hour
        where hour < clock_timestamp() - make_interval(days => ${days}::int)
          and hour < (select max(hour) from analytics.rolled_up_hour)`,
    );
  }

  #across<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    return this.database.acrossTenants('roll-up-usage', work);
  }
}

const removeReported: ((transaction: Transaction, days: number) => Promise<number>)[] = [
  (transaction, days) => transaction.$executeRaw`
    delete from analytics.operation_hour where ctid in (
      select ctid from analytics.operation_hour
      where hour < clock_timestamp() - make_interval(days => ${days}::int) limit ${removedPerBatch})`,
  (transaction, days) => transaction.$executeRaw`
    delete from analytics.secret_hour where ctid in (
      select ctid from analytics.secret_hour
      where hour < clock_timestamp() - make_interval(days => ${days}::int) limit ${removedPerBatch})`,
  (transaction, days) => transaction.$executeRaw`
    delete from analytics.stock_hour where ctid in (
      select ctid from analytics.stock_hour
      where hour < clock_timestamp() - make_interval(days => ${days}::int) limit ${removedPerBatch})`,
];

/** A beat is written by the clock of its statement; two minutes outlast every transaction. */
async function nextHour(transaction: Transaction): Promise<Date | undefined> {
  const rows = await transaction.$queryRaw<{ hour: Date }[]>`
    select next.hour from (
      select coalesce(
        (select max(hour) + interval '1 hour' from analytics.rolled_up_hour),
        least(
          (select min(hour) from monitoring.agent_hour),
          (select min(hour) from monitoring.agent_liveness),
          (select date_trunc('hour', min(opened_at), 'UTC') from monitoring.outage)
        )
      ) as hour
    ) next
    where next.hour + interval '1 hour 2 minutes' <= clock_timestamp()`;
  return rows[0]?.hour;
}

function rollUpBatch(transaction: Transaction, hour: Date): Promise<number> {
  const start = at(hour);
  return transaction.$executeRaw`
    with wanted as materialized (
      select s.organization_id, s.vault_id
      from (
        select organization_id, vault_id from monitoring.agent_hour where hour = ${start}
        union
        select organization_id, vault_id from monitoring.agent_liveness where hour = ${start}
        union
        select organization_id, vault_id from monitoring.outage
        where opened_at >= ${start} and opened_at < ${start} + interval '1 hour'
      ) s
      where not exists (
        select from analytics.vault_hour v
        where v.organization_id = s.organization_id and v.vault_id = s.vault_id
          and v.hour = ${start}
      )
      limit ${vaultsPerBatch}
    ),
    heard as (
      select organization_id, vault_id, agent_id, max(beats) as beats, bit_or(minutes) as minutes
      from (
        select organization_id, vault_id, agent_id, beats, minutes
        from monitoring.agent_hour where hour = ${start}
        union all
        select organization_id, vault_id, agent_id, hour_beats, hour_minutes
        from monitoring.agent_liveness where hour = ${start}
      ) both_places
      join wanted using (organization_id, vault_id)
      group by organization_id, vault_id, agent_id
    ),
    used as (
      select organization_id, vault_id, sum(beats)::int as heartbeats, bit_or(minutes) as minutes
      from heard group by organization_id, vault_id
    ),
    opened as (
      select organization_id, vault_id, count(*)::int as outages
      from monitoring.outage join wanted using (organization_id, vault_id)
      where opened_at >= ${start} and opened_at < ${start} + interval '1 hour'
      group by organization_id, vault_id
    )
    insert into analytics.vault_hour
      (organization_id, vault_id, hour, heartbeats, minutes, outages)
    select organization_id, vault_id, ${start}, coalesce(heartbeats, 0), coalesce(minutes, 0),
      coalesce(outages, 0)
    from wanted
    left join used using (organization_id, vault_id)
    left join opened using (organization_id, vault_id)
    on conflict (organization_id, vault_id, hour) do update
      set heartbeats = excluded.heartbeats, minutes = excluded.minutes,
        outages = excluded.outages, updated_at = clock_timestamp()`;
}

const at = (hour: Date): Sql => sql`${hour.toISOString()}::timestamptz`;
