/** Keys, roles, and the number that says whether either changed. */
import {
  bytesColumn,
  integerColumn,
  nameColumn,
  textColumn,
} from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import type { Migration } from '../store/migrations.ts';

export interface AccessTables {
  /** One row. Every change of keys or roles adds one, in its own transaction. */
  access_state: { id: number; revision: number };
  api_key: {
    id: string;
    prefix: string;
    digest: Uint8Array;
    name: string;
    roles: string;
    namespaces: string;
    created_at_ms: number;
    created_by: string;
    expires_at_ms: number | null;
    last_used_at_ms: number | null;
    revoked_at_ms: number | null;
  };
  access_role: {
    name: string;
    description: string;
    permissions: string;
    revision: number;
    created_at_ms: number;
    updated_at_ms: number;
  };
}

export const accessMigrations: readonly Migration[] = [
  { name: 'access-1', apply: createAccessTables },
];

async function createAccessTables(untyped: Queries<unknown>, kind: SqlKind): Promise<void> {
  const queries = untyped as Queries<AccessTables>;
  const number = integerColumn(kind);
  await queries.schema
    .createTable('access_state')
    .ifNotExists()
    .addColumn('id', number, (column) => column.primaryKey().notNull())
    .addColumn('revision', number, (column) => column.notNull())
    .execute();
  const first = queries.insertInto('access_state').values({ id: 1, revision: 1 });
  await (kind === 'mysql'
    ? first.ignore()
    : first.onConflict((conflict) => conflict.doNothing())
  ).execute();
  await queries.schema
    .createTable('api_key')
    .ifNotExists()
    .addColumn('id', nameColumn(kind, 30), (column) => column.primaryKey().notNull())
    .addColumn('prefix', nameColumn(kind, 16), (column) => column.notNull().unique())
    .addColumn('digest', bytesColumn(kind), (column) => column.notNull())
    .addColumn('name', textColumn(kind), (column) => column.notNull())
    .addColumn('roles', textColumn(kind), (column) => column.notNull())
    .addColumn('namespaces', textColumn(kind), (column) => column.notNull())
    .addColumn('created_at_ms', number, (column) => column.notNull())
    .addColumn('created_by', textColumn(kind), (column) => column.notNull())
    .addColumn('expires_at_ms', number)
    .addColumn('last_used_at_ms', number)
    .addColumn('revoked_at_ms', number)
    .execute();
  await queries.schema
    .createTable('access_role')
    .ifNotExists()
    .addColumn('name', nameColumn(kind, 64), (column) => column.primaryKey().notNull())
    .addColumn('description', textColumn(kind), (column) => column.notNull())
    .addColumn('permissions', textColumn(kind), (column) => column.notNull())
    .addColumn('revision', number, (column) => column.notNull())
    .addColumn('created_at_ms', number, (column) => column.notNull())
    .addColumn('updated_at_ms', number, (column) => column.notNull())
    .execute();
}
