/** Requests with an `Idempotency-Key`, and what they were answered. */
import { bytesColumn, integerColumn, nameColumn } from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import { createIndex, type Migration } from '../store/migrations.ts';

export interface IdempotencyTables {
  idempotency_key: {
    /** SHA-256 of caller and key, in base64url. */
    id: string;
    /** SHA-256 of operation, path, query and body, in base64url. */
    request: string;
    /** Null until it was answered. */
    status: number | null;
    /** Sealed: an answer may hold a new key. */
    answer: Uint8Array | null;
    created_at_ms: number;
  };
}

export const idempotencyMigrations: readonly Migration[] = [
  { name: 'idempotency-1', apply: createIdempotencyTables },
];

async function createIdempotencyTables(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  await queries.schema
    .createTable('idempotency_key')
    .ifNotExists()
    .addColumn('id', nameColumn(kind, 43), (column) => column.primaryKey().notNull())
    .addColumn('request', nameColumn(kind, 43), (column) => column.notNull())
    .addColumn('status', integerColumn(kind))
    .addColumn('answer', bytesColumn(kind))
    .addColumn('created_at_ms', integerColumn(kind), (column) => column.notNull())
    .execute();
  await createIndex(queries, kind, 'idempotency_key_age', 'idempotency_key', ['created_at_ms']);
}
