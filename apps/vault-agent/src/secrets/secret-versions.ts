/** Writing secrets and versions inside a change of their namespace; every function keeps the counters. */
import type { ValueEncoding } from '@keystead/contracts/agent-api/secrets';
import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { NamespaceChange } from '../namespaces/namespace-change.ts';
import type { VersionState } from '../store/agent-tables.ts';
import { openValue, sealValue } from './sealed-value.ts';
import { noSuchSecret, noSuchVersion, type SecretRow, type VersionRow } from './secret-rows.ts';

export interface NewSecret {
  name: string;
  description: string;
  metadata: Record<string, string>;
  tags: readonly string[];
  expiresAtMs: number | null;
  maxVersions: number;
}

export interface NewVersion {
  version: number;
  value: Uint8Array;
  encoding: ValueEncoding;
  origin: string;
  state: VersionState;
}

export const versionColumns = [
  'secret_id',
  'version',
  'state',
  'key_version',
  'byte_length',
  'encoding',
  'origin',
  'created_at_ms',
  'created_by',
] as const;

/** The secret, deleted or not. @throws ServiceError `not_found` */
export async function requireSecret(change: NamespaceChange, name: string): Promise<SecretRow> {
  const row = await findSecret(change, name);
  if (row === undefined) throw noSuchSecret(change.namespace.name, name);
  return row;
}

export function findSecret(change: NamespaceChange, name: string): Promise<SecretRow | undefined> {
  return change.queries
    .selectFrom('secret')
    .selectAll()
    .where('namespace_id', '=', change.namespace.id)
    .where('name', '=', name)
    .executeTakeFirst();
}

/** @throws ServiceError `gone` */
export function requireUndeleted(row: SecretRow): void {
  if (row.is_deleted === 0) return;
  throw new ServiceError('gone', {
    detail: `The secret ${row.name} is deleted; bring it back with undelete`,
  });
}

/**
 * A secret without versions yet; its first one has to follow in the same change.
 * @throws ServiceError `limit_reached`
 */
export async function addSecret(change: NamespaceChange, secret: NewSecret): Promise<SecretRow> {
  const { queries, namespace, nowMs, identity, counters } = change;
  if (namespace.secret_count + counters.secrets >= namespace.secrets_max) {
    throw new ServiceError('limit_reached', {
      detail: `The namespace ${namespace.name} holds ${namespace.secrets_max} secrets, its maximum; deleted ones count until they are destroyed`,
    });
  }
  const row: SecretRow = {
    id: toId('secret', newUuid(nowMs)),
    namespace_id: namespace.id,
    name: secret.name,
    is_deleted: 0,
    current_version: 1,
    last_version: 0,
    max_versions: secret.maxVersions,
    expires_at_ms: secret.expiresAtMs,
    description: secret.description,
    metadata: JSON.stringify(secret.metadata),
    tags: JSON.stringify(secret.tags),
    revision: change.revision,
    created_at_ms: nowMs,
    created_by: identity,
    updated_at_ms: nowMs,
    updated_by: identity,
  };
  await queries.insertInto('secret').values(row).execute();
  await queries
    .insertInto('secret_access')
    .values({
      secret_id: row.id,
      namespace_id: namespace.id,
      access_count: 0,
      last_accessed_at_ms: 0,
    })
    .execute();
  await addTags(change, row, secret.tags);
  counters.secrets += 1;
  counters.nameBytes += row.name.length;
  return row;
}

/** Writes what changed of a secret, as changed by this change. */
export async function changeSecret(
  change: NamespaceChange,
  row: SecretRow,
  values: Partial<
    Omit<SecretRow, 'id' | 'namespace_id' | 'name' | 'revision' | 'created_at_ms' | 'created_by'>
  >,
): Promise<SecretRow> {
  const changed = {
    ...values,
    revision: change.revision,
    updated_at_ms: change.nowMs,
    updated_by: change.identity,
  };
  await change.queries.updateTable('secret').set(changed).where('id', '=', row.id).execute();
  if (values.tags !== undefined) {
    await change.queries.deleteFrom('secret_tag').where('secret_id', '=', row.id).execute();
    await addTags(change, row, JSON.parse(values.tags));
  }
  return { ...row, ...changed };
}

async function addTags(
  change: NamespaceChange,
  row: SecretRow,
  tags: readonly string[],
): Promise<void> {
  if (tags.length === 0) return;
  await change.queries
    .insertInto('secret_tag')
    .values(
      tags.map((tag) => ({
        namespace_id: row.namespace_id,
        tag,
        name: row.name,
        secret_id: row.id,
      })),
    )
    .execute();
}

export async function addVersion(
  change: NamespaceChange,
  secretId: string,
  added: NewVersion,
): Promise<void> {
  const { queries, namespace, key, nowMs, identity, counters } = change;
  const place = { namespaceId: namespace.id, secretId, version: added.version };
  await queries
    .insertInto('secret_version')
    .values({
      secret_id: secretId,
      version: added.version,
      state: added.state,
      key_version: 1,
      sealed: sealValue(key, place, added.value),
      byte_length: added.value.length,
      encoding: added.encoding,
      origin: added.origin,
      created_at_ms: nowMs,
      created_by: identity,
    })
    .execute();
  counters.versions += 1;
  counters.bytes += added.value.length;
}

export function versionsOf(change: NamespaceChange, secretId: string): Promise<VersionRow[]> {
  return change.queries
    .selectFrom('secret_version')
    .select(versionColumns)
    .where('secret_id', '=', secretId)
    .orderBy('version')
    .execute();
}

/** @throws ServiceError `not_found` */
export async function requireVersion(
  change: NamespaceChange,
  row: SecretRow,
  version: number,
): Promise<VersionRow> {
  const found = await change.queries
    .selectFrom('secret_version')
    .select(versionColumns)
    .where('secret_id', '=', row.id)
    .where('version', '=', version)
    .executeTakeFirst();
  if (found === undefined) throw noSuchVersion(row.name, version);
  return found;
}

/** The value of a version. @throws ServiceError `not_found`, or `gone` where it is deleted or destroyed */
export async function openVersion(
  change: NamespaceChange,
  row: SecretRow,
  version: number,
): Promise<{ value: Buffer; encoding: ValueEncoding }> {
  const found = await change.queries
    .selectFrom('secret_version')
    .select(['state', 'sealed', 'encoding'])
    .where('secret_id', '=', row.id)
    .where('version', '=', version)
    .executeTakeFirst();
  if (found === undefined || found.state === 'pending') throw noSuchVersion(row.name, version);
  if (found.state !== 'active') throw versionGone(row.name, version, found.state);
  const place = { namespaceId: change.namespace.id, secretId: row.id, version };
  return { value: openValue(change.key, place, found.sealed), encoding: found.encoding };
}

export function versionGone(name: string, version: number, state: string): ServiceError {
  return new ServiceError('gone', {
    detail: `Version ${version} of the secret ${name} is ${state}`,
  });
}

export async function setVersionState(
  change: NamespaceChange,
  row: VersionRow,
  state: 'active' | 'deleted' | 'destroyed',
): Promise<VersionRow> {
  const isDestroyed = state === 'destroyed';
  const values = { state, ...(isDestroyed ? { sealed: Buffer.alloc(0), byte_length: 0 } : {}) };
  await change.queries
    .updateTable('secret_version')
    .set(values)
    .where('secret_id', '=', row.secret_id)
    .where('version', '=', row.version)
    .execute();
  if (isDestroyed) change.counters.bytes -= row.byte_length;
  return { ...row, state, byte_length: isDestroyed ? 0 : row.byte_length };
}

export async function removeVersion(change: NamespaceChange, row: VersionRow): Promise<void> {
  await change.queries
    .deleteFrom('secret_version')
    .where('secret_id', '=', row.secret_id)
    .where('version', '=', row.version)
    .execute();
  change.counters.versions -= 1;
  change.counters.bytes -= row.byte_length;
}

/** Removes the oldest versions beyond the maximum; the current one and pending ones stay. */
export async function pruneVersions(change: NamespaceChange, row: SecretRow): Promise<void> {
  const versions = await versionsOf(change, row.id);
  const kept = versions.filter(({ state }) => state !== 'pending');
  const surplus = kept.length - row.max_versions;
  if (surplus <= 0) return;
  const removable = kept.filter(({ version }) => version !== row.current_version);
  for (const version of removable.slice(0, surplus)) await removeVersion(change, version);
}

/** Removes a secret with everything of it. */
export async function removeSecret(change: NamespaceChange, row: SecretRow): Promise<void> {
  const { queries, counters } = change;
  for (const { byte_length } of await versionsOf(change, row.id)) {
    counters.versions -= 1;
    counters.bytes -= byte_length;
  }
  for (const table of ['secret_version', 'secret_tag', 'secret_access'] as const) {
    await queries.deleteFrom(table).where('secret_id', '=', row.id).execute();
  }
  await queries.deleteFrom('secret').where('id', '=', row.id).execute();
  counters.secrets -= 1;
  counters.nameBytes -= row.name.length;
  if (row.is_deleted === 1) counters.deleted -= 1;
  change.hasPurged = true;
}
