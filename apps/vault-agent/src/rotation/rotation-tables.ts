/** The tables of rotations. Times are milliseconds since 1970; no value is in any of them. */
import type {
  RotationOutcome,
  RotationPhase,
  RotationTrigger,
} from '@keystead/contracts/agent-api/rotation';
import {
  flagColumn,
  integerColumn,
  nameColumn,
  textColumn,
} from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import type { LeaseTables } from '../leases/lease-tables.ts';
import { type AgentSchema, identityLength } from '../store/agent-tables.ts';
import { createIndex, type Migration } from '../store/migrations.ts';

/** What is wanted of a secret's rotation, and where it stands. */
export interface RotationTable {
  secret_id: string;
  namespace_id: string;
  /** JSON of the policy. */
  policy: string;
  is_paused: number;
  /** When the runner has to look at it next; null where only a request does. */
  wake_at_ms: number | null;
  next_due_ms: number | null;
  /** The due time that a notice was given for. */
  noticed_due_ms: number | null;
  requested_at_ms: number | null;
  requested_by: string | null;
  retry_at_ms: number | null;
  retry_trigger: RotationTrigger | null;
  /** Failed attempts in a row. */
  failures: number;
  has_given_up: number;
  last_rotated_ms: number | null;
  /** The policy's `afterUses`, for the query that looks for them. */
  uses_max: number | null;
  /** Readings of the secret when they were last counted from. */
  uses_base: number;
  open_run_id: string | null;
  revision: number;
  created_at_ms: number;
  updated_at_ms: number;
}

/** The journal of one attempt, and later its place in the history. */
export interface RotationRunTable {
  id: string;
  secret_id: string;
  /** JSON of the rotator's settings, as they were when it began. */
  settings: string;
  trigger_kind: RotationTrigger;
  attempt: number;
  /** What is to be done next, or again; null at the end. */
  phase: RotationPhase | null;
  outcome: RotationOutcome | null;
  old_version: number;
  new_version: number | null;
  problem_step: string | null;
  problem_code: string | null;
  problem_text: string | null;
  /** Failed attempts to roll back. */
  rollbacks: number;
  requested_by: string | null;
  /** The last attempt, and nothing follows. */
  has_given_up: number;
  is_reported: number;
  started_at_ms: number;
  ended_at_ms: number | null;
}

/** A version whose overlap runs. */
export interface RotationRetirementTable {
  secret_id: string;
  version: number;
  due_at_ms: number;
  failures: number;
}

export interface RotationSchema extends AgentSchema, LeaseTables {
  rotation: RotationTable;
  rotation_run: RotationRunTable;
  rotation_retirement: RotationRetirementTable;
}

export const rotationMigrations: readonly Migration[] = [
  { name: 'rotation-1', apply: createRotationTables },
];

async function createRotationTables(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  const id = nameColumn(kind, 40);
  const word = nameColumn(kind, 40);
  const identity = nameColumn(kind, identityLength);
  const text = textColumn(kind);
  const integer = integerColumn(kind);
  const flag = flagColumn(kind);
  const { schema } = queries;
  await schema
    .createTable('rotation')
    .ifNotExists()
    .addColumn('secret_id', id, (column) => column.primaryKey().notNull())
    .addColumn('namespace_id', id, (column) => column.notNull())
    .addColumn('policy', text, (column) => column.notNull())
    .addColumn('is_paused', flag, (column) => column.notNull())
    .addColumn('wake_at_ms', integer)
    .addColumn('next_due_ms', integer)
    .addColumn('noticed_due_ms', integer)
    .addColumn('requested_at_ms', integer)
    .addColumn('requested_by', identity)
    .addColumn('retry_at_ms', integer)
    .addColumn('retry_trigger', word)
    .addColumn('failures', integer, (column) => column.notNull())
    .addColumn('has_given_up', flag, (column) => column.notNull())
    .addColumn('last_rotated_ms', integer)
    .addColumn('uses_max', integer)
    .addColumn('uses_base', integer, (column) => column.notNull())
    .addColumn('open_run_id', id)
    .addColumn('revision', integer, (column) => column.notNull())
    .addColumn('created_at_ms', integer, (column) => column.notNull())
    .addColumn('updated_at_ms', integer, (column) => column.notNull())
    .execute();
  await createIndex(queries, kind, 'rotation_wake', 'rotation', ['wake_at_ms']);
  await createIndex(queries, kind, 'rotation_due', 'rotation', ['next_due_ms', 'secret_id']);
  await createIndex(queries, kind, 'rotation_uses', 'rotation', ['uses_max']);
  await schema
    .createTable('rotation_run')
    .ifNotExists()
    .addColumn('id', id, (column) => column.primaryKey().notNull())
    .addColumn('secret_id', id, (column) => column.notNull())
    .addColumn('settings', text, (column) => column.notNull())
    .addColumn('trigger_kind', word, (column) => column.notNull())
    .addColumn('attempt', integer, (column) => column.notNull())
    .addColumn('phase', word)
    .addColumn('outcome', word)
    .addColumn('old_version', integer, (column) => column.notNull())
    .addColumn('new_version', integer)
    .addColumn('problem_step', word)
    .addColumn('problem_code', word)
    .addColumn('problem_text', text)
    .addColumn('rollbacks', integer, (column) => column.notNull())
    .addColumn('requested_by', identity)
    .addColumn('has_given_up', flag, (column) => column.notNull())
    .addColumn('is_reported', flag, (column) => column.notNull())
    .addColumn('started_at_ms', integer, (column) => column.notNull())
    .addColumn('ended_at_ms', integer)
    .execute();
  await createIndex(queries, kind, 'rotation_run_secret', 'rotation_run', ['secret_id', 'id']);
  await createIndex(queries, kind, 'rotation_run_reported', 'rotation_run', ['is_reported']);
  await schema
    .createTable('rotation_retirement')
    .ifNotExists()
    .addColumn('secret_id', id, (column) => column.notNull())
    .addColumn('version', integer, (column) => column.notNull())
    .addColumn('due_at_ms', integer, (column) => column.notNull())
    .addColumn('failures', integer, (column) => column.notNull())
    .addPrimaryKeyConstraint('rotation_retirement_primary', ['secret_id', 'version'])
    .execute();
  await createIndex(queries, kind, 'rotation_retirement_due', 'rotation_retirement', ['due_at_ms']);
}
