/** The rows of namespaces as one state of the store has them, opened. */
import type { SecretKey } from '@keystead/envelope/keys';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import type { Selectable } from 'kysely';
import type { KeyRing } from '../keys/key-ring.ts';
import { openValue } from '../secrets/sealed-value.ts';
import type { AgentSchema, NamespaceTable, SecretTable } from '../store/agent-tables.ts';
import type { ArchiveRow, VersionArchiveRow } from './archive-rows.ts';

/** Secrets read at once, and versions of one secret at once: a page of full values is 8 MiB. */
const secretsPerPage = 200;
const versionsPerPage = 8;

export interface ExportSelection {
  /** Names; without it all namespaces. */
  namespaces?: readonly string[];
  /** In them; without it all secrets. */
  includes?: (namespace: string, secret: string) => boolean;
}

/**
 * Namespaces by name, secrets by name, versions by number. A version that a rotation has not finished
 * stays behind.
 * @param queries of one snapshot
 */
export async function* exportRows(
  queries: Queries<AgentSchema>,
  keys: KeyRing,
  selection: ExportSelection = {},
): AsyncGenerator<ArchiveRow, void, undefined> {
  const namespaces = await queries.selectFrom('namespace').selectAll().orderBy('name').execute();
  for (const namespace of namespaces) {
    if (selection.namespaces?.includes(namespace.name) === false) continue;
    yield namespaceArchiveRow(namespace);
    using held = await keys.holdNamespaceKey(namespace.id, queries);
    let after = '';
    for (;;) {
      const secrets = await queries
        .selectFrom('secret')
        .selectAll()
        .where('namespace_id', '=', namespace.id)
        .where('name', '>', after)
        .orderBy('name')
        .limit(secretsPerPage)
        .execute();
      for (const secret of secrets) {
        after = secret.name;
        if (selection.includes?.(namespace.name, secret.name) === false) continue;
        yield* secretRows(queries, held.key, secret);
      }
      if (secrets.length < secretsPerPage) break;
    }
  }
}

async function* secretRows(
  queries: Queries<AgentSchema>,
  key: SecretKey,
  secret: Selectable<SecretTable>,
): AsyncGenerator<ArchiveRow, void, undefined> {
  yield {
    kind: 'secret',
    name: secret.name,
    isDeleted: secret.is_deleted === 1,
    currentVersion: secret.current_version,
    lastVersion: secret.last_version,
    maxVersions: secret.max_versions,
    expiresAtMs: secret.expires_at_ms,
    description: secret.description,
    metadata: JSON.parse(secret.metadata),
    tags: JSON.parse(secret.tags),
    createdAtMs: secret.created_at_ms,
    createdBy: secret.created_by,
    updatedAtMs: secret.updated_at_ms,
  };
  let after = 0;
  for (;;) {
    const versions = await queries
      .selectFrom('secret_version')
      .selectAll()
      .where('secret_id', '=', secret.id)
      .where('version', '>', after)
      .orderBy('version')
      .limit(versionsPerPage)
      .execute();
    for (const row of versions) {
      after = row.version;
      if (row.state === 'pending') continue;
      const place = {
        namespaceId: secret.namespace_id,
        secretId: secret.id,
        version: row.version,
      };
      yield {
        kind: 'version',
        version: row.version,
        state: row.state,
        encoding: row.encoding,
        origin: row.origin,
        createdAtMs: row.created_at_ms,
        createdBy: row.created_by,
        value: row.state === 'destroyed' ? '' : base64Of(openValue(key, place, row.sealed)),
      } satisfies VersionArchiveRow;
    }
    if (versions.length < versionsPerPage) return;
  }
}

function base64Of(value: Buffer): string {
  try {
    return value.toString('base64');
  } finally {
    value.fill(0);
  }
}

function namespaceArchiveRow(namespace: Selectable<NamespaceTable>): ArchiveRow {
  return {
    kind: 'namespace',
    name: namespace.name,
    description: namespace.description,
    owner: namespace.owner,
    tags: JSON.parse(namespace.tags),
    secretsMax: namespace.secrets_max,
    valueMaxBytes: namespace.value_max_bytes,
    createdAtMs: namespace.created_at_ms,
    createdBy: namespace.created_by,
  };
}
