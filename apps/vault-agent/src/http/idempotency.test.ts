import { ServiceError } from '@keystead/contracts/errors';
import { generateKey } from '@keystead/envelope/keys';
import { openSql, type Queries, type SqlStore } from '@keystead/vault-store/sql/sql-store';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Idempotency } from './idempotency.ts';
import { type IdempotencyTables, idempotencyMigrations } from './idempotency-tables.ts';

let store: SqlStore<IdempotencyTables>;
let idempotency: Idempotency;
let done: number;

beforeEach(async () => {
  store = await openSql<IdempotencyTables>({ kind: 'sqlite', file: ':memory:' });
  for (const { apply } of idempotencyMigrations) {
    await store.write((queries) => apply(queries as unknown as Queries<unknown>, 'sqlite'));
  }
  idempotency = new Idempotency(store, generateKey(), Date.now);
  done = 0;
});
afterEach(() => store.close());

const identity = { kind: 'api_key', id: 'key_1', name: 'one', roles: [] } as const;

/** Does something, and then ends as told. */
const once = (error?: ServiceError, before = false) =>
  idempotency.once(identity, 'a key', 'a request', async (begins) => {
    if (error !== undefined && before) throw error;
    begins();
    done += 1;
    if (error !== undefined) throw error;
    return { status: 201, headers: {}, body: '{}' } as never;
  });

test('what ended as unavailable after it was begun is not done a second time under its key', async () => {
  await expect(once(new ServiceError('unavailable'))).rejects.toThrow();
  await expect(once()).rejects.toMatchObject({ code: 'conflict' });
  expect(done).toBe(1);
});

test('what was never begun may be tried again under its key', async () => {
  await expect(once(new ServiceError('unavailable'), true)).rejects.toThrow();
  await once();
  expect(done).toBe(1);
});

test('what was refused may be tried again under its key', async () => {
  await expect(once(new ServiceError('precondition_failed'))).rejects.toThrow();
  await once();
  expect(done).toBe(2);
});
