/** The tables of approvals and overrides. Times are milliseconds since 1970. */
import {
  integerColumn,
  nameColumn,
  positionColumn,
  textColumn,
} from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import type { Generated } from 'kysely';
import { identityLength } from '../store/agent-tables.ts';
import { createIndex, type Migration } from '../store/migrations.ts';

export type StoredApprovalState = 'pending' | 'approved' | 'denied' | 'used';

export interface ApprovalTable {
  id: string;
  /** `kind:id` of whoever asked. */
  requester: string;
  requester_name: string;
  action: string;
  namespace: string;
  secret: string;
  other: string;
  state: StoredApprovalState;
  /** JSON: what each policy asks for. */
  requirements: string;
  requested_at_ms: number;
  expires_at_ms: number;
  decided_at_ms: number | null;
}

export interface ApprovalDecisionTable {
  approval_id: string;
  approver: string;
  approver_name: string;
  /** JSON of the roles that counted. */
  roles: string;
  decision: 'approve' | 'deny';
  comment: string;
  at_ms: number;
}

/** How often an approval has changed, and which change the control plane was told of. */
export interface ApprovalRevisionTable {
  approval_id: string;
  revision: number;
  told: number;
}

/** A decision of the control plane that counts here. */
export interface RemoteDecisionTable {
  decision_id: string;
  approval_id: string;
  approver: string;
}

/** The set that an agent made active last. */
export interface PolicyAnchorTable {
  agent_id: string;
  number: number;
  digest: string;
  /** By a key that only who opens the vault's keys has. */
  mac: string;
  at_ms: number;
}

/** An override, in force until its end or its revocation. The last row counts. */
export interface PolicyOverrideTable {
  position: Generated<number>;
  id: string;
  reason: string;
  by_whom: string;
  from_ms: number;
  until_ms: number;
  /** By a key that only who opens the vault's keys has. */
  mac: string;
}

export interface PolicyTables {
  approval: ApprovalTable;
  approval_decision: ApprovalDecisionTable;
  approval_revision: ApprovalRevisionTable;
  approval_remote_decision: RemoteDecisionTable;
  policy_anchor: PolicyAnchorTable;
  policy_override: PolicyOverrideTable;
}

export const policyMigrations: readonly Migration[] = [
  { name: 'policies-1', apply: createPolicyTables },
  { name: 'policies-2', apply: createReportTables },
  { name: 'policies-3', apply: createAnchorTable },
];

async function createPolicyTables(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  const id = nameColumn(kind, 40);
  const word = nameColumn(kind, 40);
  const identity = nameColumn(kind, identityLength);
  const name = nameColumn(kind, 255);
  const text = textColumn(kind);
  const integer = integerColumn(kind);
  const { schema } = queries;
  await schema
    .createTable('approval')
    .ifNotExists()
    .addColumn('id', id, (column) => column.primaryKey().notNull())
    .addColumn('requester', identity, (column) => column.notNull())
    .addColumn('requester_name', text, (column) => column.notNull())
    .addColumn('action', word, (column) => column.notNull())
    .addColumn('namespace', name, (column) => column.notNull())
    .addColumn('secret', name, (column) => column.notNull())
    .addColumn('other', name, (column) => column.notNull())
    .addColumn('state', word, (column) => column.notNull())
    .addColumn('requirements', text, (column) => column.notNull())
    .addColumn('requested_at_ms', integer, (column) => column.notNull())
    .addColumn('expires_at_ms', integer, (column) => column.notNull())
    .addColumn('decided_at_ms', integer)
    .execute();
  await createIndex(queries, kind, 'approval_requester', 'approval', ['requester', 'id']);
  await createIndex(queries, kind, 'approval_state', 'approval', ['state', 'expires_at_ms']);
  await schema
    .createTable('approval_decision')
    .ifNotExists()
    .addColumn('approval_id', id, (column) => column.notNull())
    .addColumn('approver', identity, (column) => column.notNull())
    .addColumn('approver_name', text, (column) => column.notNull())
    .addColumn('roles', text, (column) => column.notNull())
    .addColumn('decision', word, (column) => column.notNull())
    .addColumn('comment', text, (column) => column.notNull())
    .addColumn('at_ms', integer, (column) => column.notNull())
    .addPrimaryKeyConstraint('approval_decision_primary', ['approval_id', 'approver'])
    .execute();
  await schema
    .createTable('policy_override')
    .ifNotExists()
    .addColumn('position', positionColumn(kind))
    .addColumn('id', id, (column) => column.notNull())
    .addColumn('reason', text, (column) => column.notNull())
    .addColumn('by_whom', identity, (column) => column.notNull())
    .addColumn('from_ms', integer, (column) => column.notNull())
    .addColumn('until_ms', integer, (column) => column.notNull())
    .addColumn('mac', nameColumn(kind, 64), (column) => column.notNull())
    .execute();
}

async function createReportTables(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  const id = nameColumn(kind, 40);
  const integer = integerColumn(kind);
  const { schema } = queries;
  await schema
    .createTable('approval_revision')
    .ifNotExists()
    .addColumn('approval_id', id, (column) => column.primaryKey().notNull())
    .addColumn('revision', integer, (column) => column.notNull())
    .addColumn('told', integer, (column) => column.notNull())
    .execute();
  await schema
    .createTable('approval_remote_decision')
    .ifNotExists()
    .addColumn('decision_id', id, (column) => column.primaryKey().notNull())
    .addColumn('approval_id', id, (column) => column.notNull())
    .addColumn('approver', nameColumn(kind, identityLength), (column) => column.notNull())
    .execute();
  await createIndex(queries, kind, 'approval_remote', 'approval_remote_decision', ['approval_id']);
}

async function createAnchorTable(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  const integer = integerColumn(kind);
  await queries.schema
    .createTable('policy_anchor')
    .ifNotExists()
    .addColumn('agent_id', nameColumn(kind, 40), (column) => column.primaryKey().notNull())
    .addColumn('number', integer, (column) => column.notNull())
    .addColumn('digest', nameColumn(kind, 64), (column) => column.notNull())
    .addColumn('mac', nameColumn(kind, 64), (column) => column.notNull())
    .addColumn('at_ms', integer, (column) => column.notNull())
    .execute();
}
