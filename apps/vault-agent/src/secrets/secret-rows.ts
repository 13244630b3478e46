/** What the rows of secrets and versions say, as the API shows it. */
import type {
  SecretFacts,
  SecretState,
  SecretVersion,
} from '@keystead/contracts/agent-api/secrets';
import { ServiceError } from '@keystead/contracts/errors';
import type { ListedFacts } from '../access/caller.ts';
import type { SecretTable, SecretVersionTable } from '../store/agent-tables.ts';

export type SecretRow = SecretTable;
export type VersionRow = Omit<SecretVersionTable, 'sealed'>;

export interface Accesses {
  access_count: number | null;
  last_accessed_at_ms: number | null;
}

export function stateOf(
  row: Pick<SecretRow, 'is_deleted' | 'expires_at_ms'>,
  nowMs: number,
): SecretState {
  if (row.is_deleted === 1) return 'deleted';
  return row.expires_at_ms !== null && row.expires_at_ms <= nowMs ? 'expired' : 'active';
}

/** @param waiting accesses that are counted and not yet in the store */
export function secretFactsOf(
  namespace: string,
  row: SecretRow,
  accesses: Accesses,
  nowMs: number,
  waiting?: { count: number; lastAtMs: number },
): SecretFacts {
  const lastAtMs = Math.max(accesses.last_accessed_at_ms ?? 0, waiting?.lastAtMs ?? 0);
  return {
    id: row.id,
    namespace,
    name: row.name,
    state: stateOf(row, nowMs),
    version: row.current_version,
    maxVersions: row.max_versions,
    description: row.description,
    metadata: JSON.parse(row.metadata),
    tags: JSON.parse(row.tags),
    expiresAt: instantOf(row.expires_at_ms),
    createdAt: new Date(row.created_at_ms).toISOString(),
    createdBy: row.created_by,
    updatedAt: new Date(row.updated_at_ms).toISOString(),
    updatedBy: row.updated_by,
    accessCount: (accesses.access_count ?? 0) + (waiting?.count ?? 0),
    lastAccessedAt: instantOf(lastAtMs === 0 ? null : lastAtMs),
    etag: String(row.revision),
  };
}

/** What a policy may read of a secret in a list. */
export function listedFactsOf(
  row: Pick<SecretRow, 'tags' | 'metadata'> & Pick<Accesses, 'access_count'>,
): ListedFacts {
  return {
    tags: JSON.parse(row.tags),
    metadata: JSON.parse(row.metadata),
    useCount: row.access_count ?? 0,
  };
}

export function secretVersionOf(row: VersionRow, currentVersion: number): SecretVersion {
  return {
    version: row.version,
    state: row.state,
    isCurrent: row.version === currentVersion,
    byteLength: row.byte_length,
    encoding: row.encoding,
    origin: row.origin,
    createdAt: new Date(row.created_at_ms).toISOString(),
    createdBy: row.created_by,
  };
}

export function instantOf(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}

export function noSuchSecret(namespace: string, name: string): ServiceError {
  return new ServiceError('not_found', {
    detail: `There is no secret ${name} in the namespace ${namespace}`,
  });
}

export function noSuchVersion(name: string, version: number): ServiceError {
  return new ServiceError('not_found', { detail: `The secret ${name} has no version ${version}` });
}

export interface Expectation {
  /** The `If-Match` header: an etag, or `*`. */
  ifMatch?: string | null | undefined;
  /** The number of the current version. */
  expectedVersion?: number | undefined;
}

/** @throws ServiceError `precondition_failed` where the secret is not as the caller believes */
export function requireExpected(
  row: Pick<SecretRow, 'revision' | 'current_version'>,
  expected: Expectation,
): void {
  requireEtag(String(row.revision), expected.ifMatch);
  if (expected.expectedVersion !== undefined && expected.expectedVersion !== row.current_version) {
    throw new ServiceError('precondition_failed', {
      detail: `The current version is ${row.current_version}, not ${expected.expectedVersion}`,
    });
  }
}

/** @throws ServiceError `precondition_failed` */
export function requireEtag(etag: string, ifMatch: string | null | undefined): void {
  if (ifMatch === undefined || ifMatch === null || ifMatch === '*' || ifMatch === etag) return;
  throw new ServiceError('precondition_failed', {
    detail: `It has changed since you read it: its etag is ${etag}`,
  });
}
