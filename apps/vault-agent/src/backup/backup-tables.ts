/** The table of what was done with backups. Times are milliseconds since 1970; no value is in it. */
import type { BackupRunKind, BackupRunState } from '@keystead/contracts/agent-api/backup';
import { integerColumn, nameColumn, textColumn } from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import type { AccessTables } from '../access/access-tables.ts';
import type { LeaseTables } from '../leases/lease-tables.ts';
import { type AgentSchema, identityLength } from '../store/agent-tables.ts';
import { createIndex, type Migration } from '../store/migrations.ts';

export interface BackupRunTable {
  id: string;
  kind: BackupRunKind;
  state: BackupRunState;
  trigger_kind: 'schedule' | 'request';
  /** Unique: one run for each time of the schedule, whichever agent makes it. */
  scheduled_for_ms: number | null;
  attempt: number;
  next_attempt_ms: number | null;
  /** Of the present or last attempt: each has its own, so that none overwrites another's files. */
  backup_id: string | null;
  requested_by: string;
  /** JSON of what was asked for. */
  asked: string;
  /** JSON of what came of it. */
  result: string | null;
  problem_code: string | null;
  problem_text: string | null;
  started_at_ms: number;
  ended_at_ms: number | null;
}

export interface BackupSchema extends AgentSchema, LeaseTables, AccessTables {
  backup_run: BackupRunTable;
}

export const backupMigrations: readonly Migration[] = [
  { name: 'backup-1', apply: createBackupTables },
];

async function createBackupTables(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  const id = nameColumn(kind, 40);
  const word = nameColumn(kind, 40);
  const text = textColumn(kind);
  const integer = integerColumn(kind);
  await queries.schema
    .createTable('backup_run')
    .ifNotExists()
    .addColumn('id', id, (column) => column.primaryKey().notNull())
    .addColumn('kind', word, (column) => column.notNull())
    .addColumn('state', word, (column) => column.notNull())
    .addColumn('trigger_kind', word, (column) => column.notNull())
    .addColumn('scheduled_for_ms', integer, (column) => column.unique())
    .addColumn('attempt', integer, (column) => column.notNull())
    .addColumn('next_attempt_ms', integer)
    .addColumn('backup_id', id)
    .addColumn('requested_by', nameColumn(kind, identityLength), (column) => column.notNull())
    .addColumn('asked', text, (column) => column.notNull())
    .addColumn('result', text)
    .addColumn('problem_code', word)
    .addColumn('problem_text', text)
    .addColumn('started_at_ms', integer, (column) => column.notNull())
    .addColumn('ended_at_ms', integer)
    .execute();
  await createIndex(queries, kind, 'backup_run_state', 'backup_run', ['kind', 'state']);
}
