/** The table of leases. */
import { integerColumn, nameColumn } from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import type { Migration } from '../store/migrations.ts';
import { leaseLimits } from './lease-limits.ts';

export interface LeaseTables {
  lease: {
    name: string;
    /** Empty when nobody holds it. */
    holder: string;
    /** Grows by one with every change of the holder, and never goes back. */
    token: number;
    /** Grows with every acquisition and renewal: a sign of life that needs no clock. */
    renewals: number;
    /** By the database's clock. */
    expires_at_ms: number;
    /** The term that the holder asked for. */
    ttl_ms: number;
  };
}

export const leaseMigrations: readonly Migration[] = [
  { name: 'leases-1', apply: createLeaseTables },
];

async function createLeaseTables(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  const number = integerColumn(kind);
  await queries.schema
    .createTable('lease')
    .ifNotExists()
    .addColumn('name', nameColumn(kind, leaseLimits.nameMaxLength), (column) =>
      column.primaryKey().notNull(),
    )
    .addColumn('holder', nameColumn(kind, leaseLimits.holderMaxLength), (column) =>
      column.notNull(),
    )
    .addColumn('token', number, (column) => column.notNull())
    .addColumn('renewals', number, (column) => column.notNull())
    .addColumn('expires_at_ms', number, (column) => column.notNull())
    .addColumn('ttl_ms', number, (column) => column.notNull())
    .execute();
}
