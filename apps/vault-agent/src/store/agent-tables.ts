/** The tables that hold secrets and the keys to them. Times are milliseconds since 1970. */
import {
  bytesColumn,
  flagColumn,
  integerColumn,
  nameColumn,
  positionColumn,
  textColumn,
} from '@keystead/vault-store/sql/columns';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import type { Generated } from 'kysely';
import { createIndex } from './migrations.ts';

/** One row: facts of the whole store, and the lock that creations of namespaces and changes of master keys take. */
export interface VaultStateTable {
  only: number;
  vault_id: string;
  namespace_count: number;
  created_at_ms: number;
}

/** `next`: a rotation is under way, keys are being wrapped anew under this one. */
export type MasterKeyState = 'current' | 'next';

export interface MasterKeyTable {
  version: number;
  state: MasterKeyState;
  /** What the key provider needs to unwrap it. */
  provider: string;
  key_id: string;
  provider_version: string;
  wrapped: Uint8Array;
  created_at_ms: number;
}

export interface WrappedKeyTable {
  /** A namespace, or `system` for the key that the agent derives its own from. */
  id: string;
  version: number;
  /** The master key that wraps it. */
  master_version: number;
  wrapped: Uint8Array;
  created_at_ms: number;
}

export interface NamespaceTable {
  id: string;
  name: string;
  description: string;
  owner: string;
  /** A JSON array of texts. */
  tags: string;
  secrets_max: number;
  value_max_bytes: number;
  /** Grows by one with every change inside; the row is locked for each. */
  revision: number;
  /** The revision of the last change that removed or renamed secrets: nothing else tells caches of it. */
  purged_revision: number;
  secret_count: number;
  deleted_count: number;
  version_count: number;
  total_bytes: number;
  name_bytes: number;
  created_at_ms: number;
  created_by: string;
  updated_at_ms: number;
}

export interface SecretTable {
  id: string;
  namespace_id: string;
  name: string;
  is_deleted: number;
  current_version: number;
  /** Versions are never numbered twice, also after they are gone. */
  last_version: number;
  max_versions: number;
  expires_at_ms: number | null;
  description: string;
  /** A JSON object of texts. */
  metadata: string;
  /** A JSON array of texts. */
  tags: string;
  /** The namespace's revision at the last change. */
  revision: number;
  created_at_ms: number;
  created_by: string;
  updated_at_ms: number;
  updated_by: string;
}

export interface SecretTagTable {
  namespace_id: string;
  tag: string;
  name: string;
  secret_id: string;
}

/** `pending`: made, not yet promoted. `deleted` may come back, `destroyed` has no bytes any more. */
export type VersionState = 'active' | 'pending' | 'deleted' | 'destroyed';

export interface SecretVersionTable {
  secret_id: string;
  version: number;
  state: VersionState;
  /** Version of the namespace's key. */
  key_version: number;
  /** 32 random bytes that the version's own key is derived with, then the sealed value. */
  sealed: Uint8Array;
  byte_length: number;
  encoding: 'text' | 'base64';
  origin: string;
  created_at_ms: number;
  created_by: string;
}

/** Apart from the secret, because it is written without anything changing. */
export interface SecretAccessTable {
  secret_id: string;
  namespace_id: string;
  access_count: number;
  last_accessed_at_ms: number;
}

/**
 * SQLite only: counts that are on the disk and not yet added up. Many readings of many secrets are one row
 * twice a second; they are added to their secrets twice a minute.
 */
export interface AccessJournalTable {
  position: Generated<number>;
  /** `[[namespace, [[secret, count, last at], …]], …]` */
  content: string;
}

export interface NamespaceAccessTable {
  namespace_id: string;
  access_count: number;
  last_accessed_at_ms: number;
}

export interface NamespaceAccessHourTable {
  namespace_id: string;
  /** Hours since 1970. */
  hour: number;
  access_count: number;
}

export interface AccessLogTable {
  position: Generated<number>;
  namespace_id: string;
  operation: string;
  secret_name: string;
  identity: string;
  at_ms: number;
  duration_us: number;
}

export interface AgentSchema {
  vault_state: VaultStateTable;
  master_key: MasterKeyTable;
  wrapped_key: WrappedKeyTable;
  namespace: NamespaceTable;
  secret: SecretTable;
  secret_tag: SecretTagTable;
  secret_version: SecretVersionTable;
  secret_access: SecretAccessTable;
  access_journal: AccessJournalTable;
  namespace_access: NamespaceAccessTable;
  namespace_access_hour: NamespaceAccessHourTable;
  access_log: AccessLogTable;
}

const idLength = 40;
/** `kind:id` of whoever did it. */
export const identityLength = 300;

export async function createAgentTables(queries: Queries<unknown>, kind: SqlKind): Promise<void> {
  const id = nameColumn(kind, idLength);
  const identity = nameColumn(kind, identityLength);
  const secretName = nameColumn(kind, 255);
  const text = textColumn(kind);
  const integer = integerColumn(kind);
  const flag = flagColumn(kind);
  const bytes = bytesColumn(kind);
  const { schema } = queries;
  await schema
    .createTable('vault_state')
    .ifNotExists()
    .addColumn('only', flag, (column) => column.primaryKey().notNull())
    .addColumn('vault_id', id, (column) => column.notNull())
    .addColumn('namespace_count', integer, (column) => column.notNull())
    .addColumn('created_at_ms', integer, (column) => column.notNull())
    .execute();
  await schema
    .createTable('master_key')
    .ifNotExists()
    .addColumn('version', integer, (column) => column.primaryKey().notNull())
    .addColumn('state', nameColumn(kind, 16), (column) => column.notNull())
    .addColumn('provider', nameColumn(kind, 64), (column) => column.notNull())
    .addColumn('key_id', text, (column) => column.notNull())
    .addColumn('provider_version', text, (column) => column.notNull())
    .addColumn('wrapped', bytes, (column) => column.notNull())
    .addColumn('created_at_ms', integer, (column) => column.notNull())
    .execute();
  await schema
    .createTable('wrapped_key')
    .ifNotExists()
    .addColumn('id', id, (column) => column.notNull())
    .addColumn('version', integer, (column) => column.notNull())
    .addColumn('master_version', integer, (column) => column.notNull())
    .addColumn('wrapped', bytes, (column) => column.notNull())
    .addColumn('created_at_ms', integer, (column) => column.notNull())
    .addPrimaryKeyConstraint('wrapped_key_primary', ['id', 'version'])
    .execute();
  await createIndex(queries, kind, 'wrapped_key_master', 'wrapped_key', ['master_version', 'id']);
  await schema
    .createTable('namespace')
    .ifNotExists()
    .addColumn('id', id, (column) => column.primaryKey().notNull())
    .addColumn('name', nameColumn(kind, 120), (column) => column.notNull().unique())
    .addColumn('description', text, (column) => column.notNull())
    .addColumn('owner', text, (column) => column.notNull())
    .addColumn('tags', text, (column) => column.notNull())
    .addColumn('secrets_max', integer, (column) => column.notNull())
    .addColumn('value_max_bytes', integer, (column) => column.notNull())
    .addColumn('revision', integer, (column) => column.notNull())
    .addColumn('purged_revision', integer, (column) => column.notNull())
    .addColumn('secret_count', integer, (column) => column.notNull())
    .addColumn('deleted_count', integer, (column) => column.notNull())
    .addColumn('version_count', integer, (column) => column.notNull())
    .addColumn('total_bytes', integer, (column) => column.notNull())
    .addColumn('name_bytes', integer, (column) => column.notNull())
    .addColumn('created_at_ms', integer, (column) => column.notNull())
    .addColumn('created_by', identity, (column) => column.notNull())
    .addColumn('updated_at_ms', integer, (column) => column.notNull())
    .execute();
  await schema
    .createTable('secret')
    .ifNotExists()
    .addColumn('id', id, (column) => column.primaryKey().notNull())
    .addColumn('namespace_id', id, (column) => column.notNull())
    .addColumn('name', secretName, (column) => column.notNull())
    .addColumn('is_deleted', flag, (column) => column.notNull())
    .addColumn('current_version', integer, (column) => column.notNull())
    .addColumn('last_version', integer, (column) => column.notNull())
    .addColumn('max_versions', integer, (column) => column.notNull())
    .addColumn('expires_at_ms', integer)
    .addColumn('description', text, (column) => column.notNull())
    .addColumn('metadata', text, (column) => column.notNull())
    .addColumn('tags', text, (column) => column.notNull())
    .addColumn('revision', integer, (column) => column.notNull())
    .addColumn('created_at_ms', integer, (column) => column.notNull())
    .addColumn('created_by', identity, (column) => column.notNull())
    .addColumn('updated_at_ms', integer, (column) => column.notNull())
    .addColumn('updated_by', identity, (column) => column.notNull())
    .addUniqueConstraint('secret_name', ['namespace_id', 'name'])
    .execute();
  // Lists show what is not deleted; caches ask what changed; notices ask what expires.
  await createIndex(queries, kind, 'secret_listed', 'secret', [
    'namespace_id',
    'is_deleted',
    'name',
  ]);
  await createIndex(queries, kind, 'secret_changed', 'secret', ['namespace_id', 'revision']);
  await createIndex(queries, kind, 'secret_expiry', 'secret', ['namespace_id', 'expires_at_ms']);
  await schema
    .createTable('secret_tag')
    .ifNotExists()
    .addColumn('namespace_id', id, (column) => column.notNull())
    .addColumn('tag', nameColumn(kind, 64), (column) => column.notNull())
    .addColumn('name', secretName, (column) => column.notNull())
    .addColumn('secret_id', id, (column) => column.notNull())
    .addPrimaryKeyConstraint('secret_tag_primary', ['namespace_id', 'tag', 'name'])
    .execute();
  await createIndex(queries, kind, 'secret_tag_secret', 'secret_tag', ['secret_id']);
  await schema
    .createTable('secret_version')
    .ifNotExists()
    .addColumn('secret_id', id, (column) => column.notNull())
    .addColumn('version', integer, (column) => column.notNull())
    .addColumn('state', nameColumn(kind, 16), (column) => column.notNull())
    .addColumn('key_version', integer, (column) => column.notNull())
    .addColumn('sealed', bytes, (column) => column.notNull())
    .addColumn('byte_length', integer, (column) => column.notNull())
    .addColumn('encoding', nameColumn(kind, 16), (column) => column.notNull())
    .addColumn('origin', nameColumn(kind, 32), (column) => column.notNull())
    .addColumn('created_at_ms', integer, (column) => column.notNull())
    .addColumn('created_by', identity, (column) => column.notNull())
    .addPrimaryKeyConstraint('secret_version_primary', ['secret_id', 'version'])
    .execute();
  await schema
    .createTable('secret_access')
    .ifNotExists()
    .addColumn('secret_id', id, (column) => column.primaryKey().notNull())
    .addColumn('namespace_id', id, (column) => column.notNull())
    .addColumn('access_count', integer, (column) => column.notNull())
    .addColumn('last_accessed_at_ms', integer, (column) => column.notNull())
    .execute();
  await createIndex(queries, kind, 'secret_access_top', 'secret_access', [
    'namespace_id',
    'access_count',
  ]);
  await schema
    .createTable('access_journal')
    .ifNotExists()
    .addColumn('position', positionColumn(kind))
    .addColumn('content', text, (column) => column.notNull())
    .execute();
  await schema
    .createTable('namespace_access')
    .ifNotExists()
    .addColumn('namespace_id', id, (column) => column.primaryKey().notNull())
    .addColumn('access_count', integer, (column) => column.notNull())
    .addColumn('last_accessed_at_ms', integer, (column) => column.notNull())
    .execute();
  await schema
    .createTable('namespace_access_hour')
    .ifNotExists()
    .addColumn('namespace_id', id, (column) => column.notNull())
    .addColumn('hour', integer, (column) => column.notNull())
    .addColumn('access_count', integer, (column) => column.notNull())
    .addPrimaryKeyConstraint('namespace_access_hour_primary', ['namespace_id', 'hour'])
    .execute();
  await schema
    .createTable('access_log')
    .ifNotExists()
    .addColumn('position', positionColumn(kind))
    .addColumn('namespace_id', id, (column) => column.notNull())
    .addColumn('operation', nameColumn(kind, 32), (column) => column.notNull())
    .addColumn('secret_name', secretName, (column) => column.notNull())
    .addColumn('identity', identity, (column) => column.notNull())
    .addColumn('at_ms', integer, (column) => column.notNull())
    .addColumn('duration_us', integer, (column) => column.notNull())
    .execute();
  await createIndex(queries, kind, 'access_log_namespace', 'access_log', [
    'namespace_id',
    'position',
  ]);
}
