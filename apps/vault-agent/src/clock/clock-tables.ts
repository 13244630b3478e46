/** The table of the time that was last believed: one row. */
import { integerColumn, nameColumn } from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import type { Migration } from '../store/migrations.ts';

export interface ClockTables {
  clock_witness: { only: number; seen_ms: number; writer: string };
}

export const clockMigrations: readonly Migration[] = [
  { name: 'clock-1', apply: createClockTables },
];

async function createClockTables(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  const integer = integerColumn(kind);
  await queries.schema
    .createTable('clock_witness')
    .ifNotExists()
    .addColumn('only', integer, (column) => column.primaryKey().notNull())
    .addColumn('seen_ms', integer, (column) => column.notNull())
    .addColumn('writer', nameColumn(kind, 64), (column) => column.notNull())
    .execute();
}
