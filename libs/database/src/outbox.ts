/**
 * The outbox: a row is written with the change that owes it, and deleted with the effect it owed.
 * A consumer that dies in between leaves it for the next one.
 */
import { limits } from '@keystead/contracts/limits';
import { type OutboxPayload, type OutboxTopic, outboxTopics } from '@keystead/contracts/outbox';
import type { Transaction } from './database.ts';

export async function enqueue<T extends OutboxTopic>(
  transaction: Transaction,
  organizationId: string | null,
  topic: T,
  payload: OutboxPayload<T>,
): Promise<void> {
  await transaction.outbox.create({ data: { organizationId, topic, payload } });
}

/** As {@link enqueue}, for many at once. */
export async function enqueueMany<T extends OutboxTopic>(
  transaction: Transaction,
  topic: T,
  rows: { organizationId: string | null; payload: OutboxPayload<T> }[],
): Promise<void> {
  if (rows.length === 0) return;
  await transaction.$executeRaw`
    insert into messaging.outbox (organization_id, topic, payload)
    select k.organization_id, ${topic}, k.payload from unnest(
      ${rows.map((row) => row.organizationId)}::uuid[],
      ${rows.map((row) => JSON.stringify(row.payload))}::jsonb[]
    ) as k(organization_id, payload)`;
}

export interface OutboxRow<T extends OutboxTopic> {
  id: bigint;
  organizationId: string | null;
  payload: OutboxPayload<T>;
  createdAt: Date;
  /** How often it was tried, this time included where it is held. */
  failures: number;
}

interface StoredRow {
  id: bigint;
  organization_id: string | null;
  payload: unknown;
  created_at: Date;
  failures: number;
}

/**
 * Takes waiting rows of a topic out of the outbox, oldest first, skipping those another consumer
 * holds. The effect belongs into the same transaction: it commits with the removal or not at all.
 *
 * An effect outside the database cannot: with `holdMs` the rows stay, and nobody else sees them for
 * that long. Then {@link settle} each that was done and {@link putOff} each that was not.
 */
export async function take<T extends OutboxTopic>(
  transaction: Transaction,
  topic: T,
  most: number = limits.outboxBatch,
  holdMs?: number,
): Promise<OutboxRow<T>[]> {
  const rows =
    holdMs === undefined
      ? await transaction.$queryRaw<StoredRow[]>`
          delete from messaging.outbox
          where id in (
            select id from messaging.outbox
            where topic = ${topic} and available_at <= clock_timestamp()
            order by id limit ${most} for update skip locked
          )
          returning id, organization_id, payload, created_at, failures`
      : await transaction.$queryRaw<StoredRow[]>`
          update messaging.outbox
          set available_at = clock_timestamp() + ${holdMs}::float8 * interval '1 millisecond',
            failures = failures + 1
          where id in (
            select id from messaging.outbox
            where topic = ${topic} and available_at <= clock_timestamp()
            order by id limit ${most} for update skip locked
          )
          returning id, organization_id, payload, created_at, failures`;
  const readable: OutboxRow<T>[] = [];
  for (const row of rows.sort((a, b) => (a.id < b.id ? -1 : 1))) {
    const payload = outboxTopics[topic].safeParse(row.payload);
    if (!payload.success) {
      await keepAside(transaction, topic, row);
      continue;
    }
    readable.push({
      id: row.id,
      organizationId: row.organization_id,
      payload: payload.data as OutboxPayload<T>,
      createdAt: row.created_at,
      failures: row.failures,
    });
  }
  return readable;
}

/** A newer release may have written it: it waits an hour for a reader, and holds up nobody. */
async function keepAside(transaction: Transaction, topic: string, row: StoredRow): Promise<void> {
  await transaction.$executeRaw`
    insert into messaging.outbox (id, organization_id, topic, payload, created_at, available_at, failures)
    values (${row.id}, ${row.organization_id}::uuid, ${topic}, ${JSON.stringify(row.payload)}::jsonb,
      ${row.created_at}, clock_timestamp() + interval '1 hour', ${row.failures + 1})
    on conflict (id) do update set available_at = excluded.available_at`;
}

/** The effect of a held row is done, or given up. */
export async function settle(transaction: Transaction, id: bigint): Promise<void> {
  await transaction.$executeRaw`delete from messaging.outbox where id = ${id}`;
}

/** The effect of a held row is to be tried again after a while. */
export async function putOff(transaction: Transaction, id: bigint, inMs: number): Promise<void> {
  await transaction.$executeRaw`
    update messaging.outbox
    set available_at = clock_timestamp() + ${inMs}::float8 * interval '1 millisecond'
    where id = ${id}`;
}
