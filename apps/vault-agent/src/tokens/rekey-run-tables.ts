/** The table of rekeys and upgrades: what became of each, for whichever agent of the store is asked. */
import { integerColumn, nameColumn, textColumn } from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import { createIndex, type Migration } from '../store/migrations.ts';

export interface RekeyRunTables {
  rekey_run: {
    id: string;
    /** As it is shown, JSON: no password, no value. */
    shown: string;
    started_at_ms: number;
    /** Written again and again while it runs. */
    seen_at_ms: number;
    /** 1 until it has ended. */
    is_running: number;
    /** 1 where somebody asked for its end, perhaps at another agent. */
    is_to_stop: number;
  };
}

export const rekeyRunMigrations: readonly Migration[] = [
  { name: 'rekey-runs-1', apply: createRekeyRunTables },
];

async function createRekeyRunTables(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  const integer = integerColumn(kind);
  await queries.schema
    .createTable('rekey_run')
    .ifNotExists()
    .addColumn('id', nameColumn(kind, 30), (column) => column.primaryKey().notNull())
    .addColumn('shown', textColumn(kind), (column) => column.notNull())
    .addColumn('started_at_ms', integer, (column) => column.notNull())
    .addColumn('seen_at_ms', integer, (column) => column.notNull())
    .addColumn('is_running', integer, (column) => column.notNull())
    .addColumn('is_to_stop', integer, (column) => column.notNull())
    .execute();
  await createIndex(queries, kind, 'rekey_run_started', 'rekey_run', ['started_at_ms']);
}
