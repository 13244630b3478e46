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
}

/**
 * Takes waiting rows of a topic out of the outbox, oldest first, skipping those another consumer
 * holds. The effect belongs into the same transaction: it commits with the removal or not at all.
 */
export async function take<T extends OutboxTopic>(
  transaction: Transaction,
  topic: T,
  most: number = limits.outboxBatch,
): Promise<OutboxRow<T>[]> {
  const rows = await transaction.$queryRaw<
    { id: bigint; organization_id: string | null; payload: unknown; created_at: Date }[]
  >`
    delete from messaging.outbox
    where id in (
      select id from messaging.outbox
      where topic = ${topic} and available_at <= clock_timestamp()
      order by id limit ${most} for update skip locked
    )
    returning id, organization_id, payload, created_at`;
  return rows
    .sort((a, b) => (a.id < b.id ? -1 : 1))
    .map((row) => ({
      id: row.id,
      organizationId: row.organization_id,
      payload: outboxTopics[topic].parse(row.payload) as OutboxPayload<T>,
      createdAt: row.created_at,
    }));
}
