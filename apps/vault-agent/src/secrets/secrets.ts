/**
 * The secrets of a vault: what the API, rotation and everything else asks. Knows nothing of HTTP, of
 * permissions and of the audit, which stand before it.
 */

import type { AgentInput } from '@keystead/contracts/agent-api/operation';
import { secretLimits } from '@keystead/contracts/agent-api/secret-limits';
import type {
  createSecret,
  listSecrets,
  SecretFacts,
  SecretValue,
  SecretVersion,
  updateSecret,
  ValueEncoding,
} from '@keystead/contracts/agent-api/secrets';
import { invalidRequest, ServiceError } from '@keystead/contracts/errors';
import { isDuplicate, type Queries } from '@keystead/vault-store/sql/sql-store';
import { sql } from 'kysely';
import type { Caller } from '../access/caller.ts';
import type { KeyRing } from '../keys/key-ring.ts';
import type { NamespaceChange, NamespaceChanges } from '../namespaces/namespace-change.ts';
import {
  type KnownNamespace,
  type NamespaceDirectory,
  noSuchNamespace,
} from '../namespaces/namespace-directory.ts';
import type { AgentStore } from '../store/agent-store.ts';
import type { AgentSchema } from '../store/agent-tables.ts';
import { type Page, type Sees, visiblePage } from '../store/visible-page.ts';
import type { AccessCounter } from './access-counter.ts';
import { openValue, openWith } from './sealed-value.ts';
import {
  type Expectation,
  instantOf,
  listedFactsOf,
  noSuchSecret,
  noSuchVersion,
  requireExpected,
  type SecretRow,
  secretFactsOf,
  secretVersionOf,
} from './secret-rows.ts';
import {
  addSecret,
  addVersion,
  changeSecret,
  findSecret,
  openVersion,
  pruneVersions,
  removeSecret,
  removeVersion,
  requireSecret,
  requireUndeleted,
  requireVersion,
  setVersionState,
  versionColumns,
  versionGone,
} from './secret-versions.ts';
import type { CachedValue, ValueCache } from './value-cache.ts';
import { ValueReader } from './value-reader.ts';
import { requireText, valueBytes, valueText } from './value-text.ts';

export interface SecretsOptions {
  store: AgentStore;
  keys: KeyRing;
  directory: NamespaceDirectory;
  changes: NamespaceChanges;
  accesses: AccessCounter;
  cache: ValueCache;
  now?: () => number;
  /** While the store is away: how long what was read before is still answered, in ms; 0 is never. */
  answerFromCacheMs: number;
}

export type CreateInput = AgentInput<typeof createSecret>['body'];
export type UpdateInput = AgentInput<typeof updateSecret>['body'];
export type ListInput = AgentInput<typeof listSecrets>['query'];

/** A value as a rotation makes it. */
export interface PendingValue {
  value: Uint8Array;
  encoding: ValueEncoding;
}

/** What a rotation writes in the same transaction: its journal, after the check of its lease. */
export type Alongside = (change: NamespaceChange, version: number) => Promise<void>;

/** After every name that a secret can have: nothing in names sorts after `z`. */
const afterNames = '~';

export class Secrets {
  readonly #store: AgentStore;
  readonly #keys: KeyRing;
  readonly #directory: NamespaceDirectory;
  readonly #changes: NamespaceChanges;
  readonly #accesses: AccessCounter;
  readonly #cache: ValueCache;
  readonly #reader: ValueReader;
  readonly #now: () => number;
  /** Of a secret that is made without a word about it. */
  maxVersionsDefault: number = secretLimits.maxVersionsDefault;

  constructor(options: SecretsOptions) {
    this.#store = options.store;
    this.#keys = options.keys;
    this.#directory = options.directory;
    this.#changes = options.changes;
    this.#accesses = options.accesses;
    this.#cache = options.cache;
    this.#now = options.now ?? Date.now;
    this.#reader = new ValueReader(options);
    this.#directory.listen(this.#cache);
  }

  /**
   * @throws ServiceError `conflict` where the name is taken, `limit_reached`, `payload_too_large`,
   * `invalid_request` where it would be expired already
   */
  async create(caller: Caller, namespace: string, input: CreateInput): Promise<SecretFacts> {
    return this.#change(caller, namespace, input.name, 'create', async (change) => {
      const expiresAtMs = msOf(input.expiresAt);
      // Whoever wants one to end now changes it; one that is made for nobody to read is a mistake.
      if (expiresAtMs !== null && expiresAtMs <= change.nowMs) {
        throw invalidRequest('body', [{ path: ['expiresAt'], message: 'must be in the future' }]);
      }
      const value = valueBytes(input.value, input.encoding, change.namespace.value_max_bytes);
      try {
        const taken = await findSecret(change, input.name);
        if (taken !== undefined) throw nameTaken(taken);
        const row = await addSecret(change, {
          name: input.name,
          description: input.description,
          metadata: input.metadata,
          tags: input.tags,
          expiresAtMs,
          maxVersions: input.maxVersions ?? this.maxVersionsDefault,
        });
        await addVersion(change, row.id, {
          version: 1,
          value,
          encoding: input.encoding,
          origin: 'written',
          state: 'active',
        });
        return this.#facts(change, await changeSecret(change, row, { last_version: 1 }));
      } finally {
        value.fill(0);
      }
    });
  }

  /** A new version where there is a value, and what else is given. @throws ServiceError */
  async update(
    caller: Caller,
    namespace: string,
    name: string,
    input: Partial<UpdateInput>,
    ifMatch: string | null = null,
  ): Promise<SecretFacts> {
    return this.#change(caller, namespace, name, 'update', async (change) => {
      const row = await requireSecret(change, name);
      requireUndeleted(row);
      requireExpected(row, { ifMatch, expectedVersion: input.expectedVersion });
      let next = row.current_version;
      if (input.value !== undefined) {
        const encoding = input.encoding ?? 'text';
        const value = valueBytes(input.value, encoding, change.namespace.value_max_bytes);
        next = row.last_version + 1;
        await addVersion(change, row.id, {
          version: next,
          value,
          encoding,
          origin: 'written',
          state: 'active',
        });
        value.fill(0);
      }
      const changed = await changeSecret(change, row, {
        current_version: next,
        last_version: Math.max(row.last_version, next),
        ...(input.description === undefined ? {} : { description: input.description }),
        ...(input.metadata === undefined ? {} : { metadata: JSON.stringify(input.metadata) }),
        ...(input.tags === undefined ? {} : { tags: JSON.stringify(input.tags) }),
        ...(input.expiresAt === undefined ? {} : { expires_at_ms: msOf(input.expiresAt) }),
        ...(input.maxVersions === undefined ? {} : { max_versions: input.maxVersions }),
      });
      await pruneVersions(change, changed);
      return this.#facts(change, changed);
    });
  }

  /**
   * The value of the current version, or of another; counted as an access.
   * @throws ServiceError `not_found`; `gone` where it is deleted, destroyed or has expired; `unavailable`
   */
  readValue(
    caller: Caller,
    namespace: string,
    name: string,
    query: { version?: number | undefined; encoding?: ValueEncoding | undefined } = {},
  ): SecretValue | Promise<SecretValue> {
    const startedAtMs = performance.now();
    if (query.version !== undefined) {
      return this.#readVersion(caller, namespace, name, query.version, query.encoding, startedAtMs);
    }
    const entry = this.#reader.atHand(namespace, name);
    if (entry !== undefined) return this.#show(caller, name, entry, query.encoding, startedAtMs);
    return this.#reader
      .read(namespace, name)
      .then((read) => this.#show(caller, name, read, query.encoding, startedAtMs));
  }

  #show(
    caller: Caller,
    name: string,
    entry: CachedValue,
    encoding: ValueEncoding | undefined,
    startedAtMs: number,
  ): SecretValue {
    const { namespace } = entry;
    const nowMs = this.#now();
    if (entry.isDeleted) throw secretGone(name, 'deleted');
    if (entry.expiresAtMs !== null && entry.expiresAtMs <= nowMs) throw secretGone(name, 'expired');
    if (entry.opener === undefined) throw versionGone(name, entry.version, entry.versionState);
    const value = this.#plaintextOf(entry, encoding);
    this.#accesses.count(namespace.id, entry.secretId, nowMs);
    this.#accesses.note(
      namespace.id,
      'read',
      name,
      caller.identity,
      nowMs,
      Math.round((performance.now() - startedAtMs) * 1_000),
    );
    return {
      namespace: namespace.name,
      name,
      version: entry.version,
      value,
      encoding: encoding ?? entry.encoding,
      createdAt: entry.createdAt,
      expiresAt: entry.expiresAt,
      etag: entry.etag,
    };
  }

  #plaintextOf(entry: CachedValue, asked: ValueEncoding | undefined): string {
    const encoding = asked ?? entry.encoding;
    const known = entry.plaintext;
    const bytes =
      known ??
      openWith(entry.opener as NonNullable<CachedValue['opener']>, {
        namespaceId: entry.namespace.id,
        secretId: entry.secretId,
        version: entry.version,
      });
    const isKept = known !== undefined || this.#cache.keepPlaintext(entry, bytes);
    try {
      if (asked === 'text' && entry.encoding === 'base64') requireText(bytes);
      return valueText(bytes, encoding);
    } finally {
      if (!isKept) bytes.fill(0);
    }
  }

  async #readVersion(
    caller: Caller,
    namespace: string,
    name: string,
    version: number,
    asked: ValueEncoding | undefined,
    startedAtMs: number,
  ): Promise<SecretValue> {
    const known = await this.#directory.find(namespace);
    const key = await this.#keys.namespaceKey(known.id);
    const row = await this.#store.read((queries) =>
      queries
        .selectFrom('secret')
        .innerJoin('secret_version', 'secret_version.secret_id', 'secret.id')
        .select([
          'secret.id',
          'secret.is_deleted',
          'secret.expires_at_ms',
          'secret.revision',
          'secret_version.state',
          'secret_version.sealed',
          'secret_version.encoding',
          'secret_version.created_at_ms',
        ])
        .where('secret.namespace_id', '=', known.id)
        .where('secret.name', '=', name)
        .where('secret_version.version', '=', version)
        .executeTakeFirst(),
    );
    if (row === undefined || row.state === 'pending') {
      // Says which of the two is missing.
      await this.get(namespace, name);
      throw noSuchVersion(name, version);
    }
    const nowMs = this.#now();
    if (row.is_deleted === 1) throw secretGone(name, 'deleted');
    if (row.expires_at_ms !== null && row.expires_at_ms <= nowMs) throw secretGone(name, 'expired');
    if (row.state !== 'active') throw versionGone(name, version, row.state);
    const bytes = openValue(key, { namespaceId: known.id, secretId: row.id, version }, row.sealed);
    try {
      if (asked === 'text' && row.encoding === 'base64') requireText(bytes);
      const value = valueText(bytes, asked ?? row.encoding);
      const durationUs = Math.round((performance.now() - startedAtMs) * 1_000);
      this.#accesses.count(known.id, row.id, nowMs);
      this.#accesses.note(known.id, 'read', name, caller.identity, nowMs, durationUs);
      return {
        namespace: known.name,
        name,
        version,
        value,
        encoding: asked ?? row.encoding,
        createdAt: new Date(row.created_at_ms).toISOString(),
        expiresAt: instantOf(row.expires_at_ms),
        etag: String(row.revision),
      };
    } finally {
      bytes.fill(0);
    }
  }

  /** What is noted about a secret, deleted or not. @throws ServiceError `not_found` */
  async get(namespace: string, name: string): Promise<SecretFacts> {
    const known = await this.#directory.find(namespace);
    const row = await this.#store.read((queries) =>
      listed(queries, known.id).where('secret.name', '=', name).executeTakeFirst(),
    );
    if (row === undefined) throw await this.#absent(known, name);
    return secretFactsOf(namespace, row, row, this.#now(), this.#accesses.waiting(row.id));
  }

  /** A page by name, of what the caller sees. The cursor is the last name of the page before. */
  async list(namespace: string, query: ListInput, sees?: Sees): Promise<Page<SecretFacts>> {
    const known = await this.#directory.find(namespace);
    const nowMs = this.#now();
    const { items, nextCursor } = await visiblePage(
      query,
      (after, count) =>
        this.#store.read((queries) =>
          listedBy(queries, known.id, query, after, nowMs).limit(count).execute(),
        ),
      ({ name }) => name,
      sees && ((row) => sees({ namespace, secret: row.name, facts: () => listedFactsOf(row) })),
    );
    if (items.length === 0 && query.cursor === undefined) await this.#requirePresent(known);
    return {
      items: items.map((row) =>
        secretFactsOf(namespace, row, row, nowMs, this.#accesses.waiting(row.id)),
      ),
      nextCursor,
    };
  }

  /** A page of versions, the newest first. The cursor is the last number of the page before. */
  async versions(
    namespace: string,
    name: string,
    query: { limit: number; cursor?: string | undefined },
  ): Promise<{ items: SecretVersion[]; nextCursor: string | null }> {
    const before = query.cursor === undefined ? undefined : Number(query.cursor);
    if (before !== undefined && !Number.isSafeInteger(before)) {
      throw new ServiceError('invalid_cursor');
    }
    const { row, rows } = await this.#versionRows(namespace, name, (select) =>
      (before === undefined ? select : select.where('version', '<', before)).limit(query.limit + 1),
    );
    const shown = rows.slice(0, query.limit);
    return {
      items: shown.map((version) => secretVersionOf(version, row.current_version)),
      nextCursor: rows.length > query.limit ? String(shown.at(-1)?.version) : null,
    };
  }

  /** @throws ServiceError `not_found` */
  async version(namespace: string, name: string, version: number): Promise<SecretVersion> {
    const { row, rows } = await this.#versionRows(namespace, name, (select) =>
      select.where('version', '=', version),
    );
    if (rows[0] === undefined) throw noSuchVersion(name, version);
    return secretVersionOf(rows[0], row.current_version);
  }

  /** Deletes it so that it can come back. @throws ServiceError `gone` where it is deleted already */
  async delete(
    caller: Caller,
    namespace: string,
    name: string,
    expected: Expectation = {},
  ): Promise<SecretFacts> {
    return this.#change(caller, namespace, name, 'delete', async (change) => {
      const row = await requireSecret(change, name);
      requireExpected(row, expected);
      requireUndeleted(row);
      change.counters.deleted += 1;
      return this.#facts(change, await changeSecret(change, row, { is_deleted: 1 }));
    });
  }

  /** Removes it with all versions, for good. */
  async destroy(
    caller: Caller,
    namespace: string,
    name: string,
    expected: Expectation = {},
  ): Promise<void> {
    await this.#change(caller, namespace, name, 'destroy', async (change) => {
      const row = await requireSecret(change, name);
      requireExpected(row, expected);
      await removeSecret(change, row);
    });
  }

  /** Brings back a secret, or one version of it. @throws ServiceError `conflict` where it is not deleted */
  async undelete(
    caller: Caller,
    namespace: string,
    name: string,
    version?: number,
    ifMatch: string | null = null,
  ): Promise<SecretFacts> {
    return this.#change(caller, namespace, name, 'undelete', async (change) => {
      const row = await requireSecret(change, name);
      requireExpected(row, { ifMatch });
      if (version === undefined) {
        if (row.is_deleted === 0) throw notDeleted(`The secret ${name}`);
        change.counters.deleted -= 1;
        return this.#facts(change, await changeSecret(change, row, { is_deleted: 0 }));
      }
      const found = await requireVersion(change, row, version);
      if (found.state === 'destroyed') throw versionGone(name, version, found.state);
      if (found.state !== 'deleted') throw notDeleted(`Version ${version} of the secret ${name}`);
      await setVersionState(change, found, 'active');
      return this.#facts(change, await changeSecret(change, row, {}));
    });
  }

  /** A new version with the value of an earlier one. */
  async rollback(
    caller: Caller,
    namespace: string,
    name: string,
    version: number,
    expected: Expectation = {},
  ): Promise<SecretFacts> {
    return this.#change(caller, namespace, name, 'rollback', async (change) => {
      const row = await requireSecret(change, name);
      requireUndeleted(row);
      requireExpected(row, expected);
      const { value, encoding } = await openVersion(change, row, version);
      const next = row.last_version + 1;
      await addVersion(change, row.id, {
        version: next,
        value,
        encoding,
        origin: `rollback:${version}`,
        state: 'active',
      });
      value.fill(0);
      const changed = await changeSecret(change, row, {
        current_version: next,
        last_version: next,
      });
      await pruneVersions(change, changed);
      return this.#facts(change, changed);
    });
  }

  /** Deletes a version so that it can come back. */
  async deleteVersion(
    caller: Caller,
    namespace: string,
    name: string,
    version: number,
    ifMatch: string | null = null,
  ): Promise<SecretVersion> {
    return this.#changeVersion(caller, namespace, name, version, 'deleted', ifMatch);
  }

  /** Destroys the value of a version; that it was there stays known. */
  async destroyVersion(
    caller: Caller,
    namespace: string,
    name: string,
    version: number,
    ifMatch: string | null = null,
  ): Promise<SecretVersion> {
    return this.#changeVersion(caller, namespace, name, version, 'destroyed', ifMatch);
  }

  // Rotation in two phases: begin, verify outside, promote, and retire the old one later.

  /**
   * A version that is stored and not yet the current one: nobody reads it by the API.
   * @throws ServiceError `precondition_failed`
   */
  async beginVersion(
    caller: Caller,
    namespace: string,
    name: string,
    pending: PendingValue,
    expected: Expectation = {},
    alongside?: Alongside,
  ): Promise<SecretVersion> {
    return this.#change(caller, namespace, name, 'rotate', async (change) => {
      const row = await requireSecret(change, name);
      requireUndeleted(row);
      requireExpected(row, expected);
      const max = change.namespace.value_max_bytes;
      if (pending.value.length > max) {
        throw new ServiceError('payload_too_large', {
          detail: `The value has ${pending.value.length} bytes; at most ${max} are kept here`,
        });
      }
      const version = row.last_version + 1;
      await addVersion(change, row.id, {
        version,
        ...pending,
        origin: 'rotation',
        state: 'pending',
      });
      await changeSecret(change, row, { last_version: version });
      await alongside?.(change, version);
      return secretVersionOf(await requireVersion(change, row, version), row.current_version);
    });
  }

  /**
   * Makes a pending version the current one. Again on the current one it changes nothing.
   * @param expected the version that it replaces
   * @throws ServiceError `precondition_failed` where another version became the current one meanwhile
   */
  async promoteVersion(
    caller: Caller,
    namespace: string,
    name: string,
    version: number,
    expected: Expectation = {},
    alongside?: Alongside,
  ): Promise<SecretFacts> {
    return this.#change(caller, namespace, name, 'rotate', async (change) => {
      const row = await requireSecret(change, name);
      const found = await requireVersion(change, row, version);
      await alongside?.(change, version);
      if (row.current_version === version) return this.#facts(change, row);
      requireUndeleted(row);
      requireExpected(row, expected);
      if (found.state !== 'pending') {
        throw new ServiceError('conflict', { detail: `Version ${version} is not pending` });
      }
      await setVersionState(change, found, 'active');
      const changed = await changeSecret(change, row, { current_version: version });
      await pruneVersions(change, changed);
      return this.#facts(change, changed);
    });
  }

  /** Removes a pending version. One that is not there any more is fine. @returns whether it was */
  async abandonVersion(
    caller: Caller,
    namespace: string,
    name: string,
    version: number,
    alongside?: Alongside,
  ): Promise<boolean> {
    return this.#change(caller, namespace, name, 'rotate', async (change) => {
      await alongside?.(change, version);
      const row = await findSecret(change, name);
      if (row === undefined) return false;
      const found = await change.queries
        .selectFrom('secret_version')
        .selectAll()
        .where('secret_id', '=', row.id)
        .where('version', '=', version)
        .executeTakeFirst();
      if (found?.state !== 'pending') return false;
      await removeVersion(change, found);
      await changeSecret(change, row, {});
      return true;
    });
  }

  /** Deletes or destroys a version that is not the current one. One that is not there any more is fine. */
  async retireVersion(
    caller: Caller,
    namespace: string,
    name: string,
    version: number,
    how: 'deleted' | 'destroyed' = 'deleted',
    alongside?: Alongside,
  ): Promise<void> {
    await this.#change(caller, namespace, name, 'rotate', async (change) => {
      await alongside?.(change, version);
      const row = await findSecret(change, name);
      if (row === undefined) return;
      if (row.current_version === version) {
        throw new ServiceError('conflict', { detail: `Version ${version} is the current one` });
      }
      const found = await change.queries
        .selectFrom('secret_version')
        .selectAll()
        .where('secret_id', '=', row.id)
        .where('version', '=', version)
        .executeTakeFirst();
      if (found === undefined || found.state === how || found.state === 'destroyed') return;
      await setVersionState(change, found, how);
      await changeSecret(change, row, {});
    });
  }

  /**
   * The bytes of a version, a pending one too, for the agent's own work: not counted as an access. The
   * caller wipes them.
   */
  async versionBytes(
    namespace: string,
    name: string,
    version: number,
  ): Promise<{ value: Buffer; encoding: ValueEncoding }> {
    const known = await this.#directory.find(namespace);
    const key = await this.#keys.namespaceKey(known.id);
    const row = await this.#store.read((queries) =>
      queries
        .selectFrom('secret')
        .innerJoin('secret_version', 'secret_version.secret_id', 'secret.id')
        .select([
          'secret.id',
          'secret_version.state',
          'secret_version.sealed',
          'secret_version.encoding',
        ])
        .where('secret.namespace_id', '=', known.id)
        .where('secret.name', '=', name)
        .where('secret_version.version', '=', version)
        .executeTakeFirst(),
    );
    if (row === undefined) throw noSuchVersion(name, version);
    if (row.state === 'destroyed') throw versionGone(name, version, row.state);
    const place = { namespaceId: known.id, secretId: row.id, version };
    return { value: openValue(key, place, row.sealed), encoding: row.encoding };
  }

  async #changeVersion(
    caller: Caller,
    namespace: string,
    name: string,
    version: number,
    state: 'deleted' | 'destroyed',
    ifMatch: string | null,
  ): Promise<SecretVersion> {
    return this.#change(caller, namespace, name, state, async (change) => {
      const row = await requireSecret(change, name);
      requireExpected(row, { ifMatch });
      const found = await requireVersion(change, row, version);
      if (found.state === 'pending') {
        throw new ServiceError('conflict', {
          detail: `Version ${version} belongs to a rotation that is under way`,
        });
      }
      if (found.state === 'destroyed' || found.state === state) {
        throw versionGone(name, version, found.state);
      }
      const changed = await setVersionState(change, found, state);
      await changeSecret(change, row, {});
      return secretVersionOf(changed, row.current_version);
    });
  }

  /** One change of one secret, after which no cache of this process holds what was before. */
  async #change<T>(
    caller: Caller,
    namespace: string,
    name: string,
    operation: string,
    work: (change: NamespaceChange) => Promise<T>,
  ): Promise<T> {
    const startedAtMs = performance.now();
    try {
      const { result, known } = await this.#changes.make(caller.identity, namespace, work);
      this.#directory.changed(known, name);
      const durationUs = Math.round((performance.now() - startedAtMs) * 1_000);
      this.#accesses.note(known.id, operation, name, caller.identity, this.#now(), durationUs);
      return result;
    } catch (error) {
      // Two creations of one name that do not lock the same row: never, but the key guards it.
      if (isDuplicate(error)) {
        throw new ServiceError('conflict', {
          detail: `The name ${name} is taken`,
          cause: error,
        });
      }
      throw error;
    }
  }

  async #facts(change: NamespaceChange, row: SecretRow): Promise<SecretFacts> {
    const accesses = await change.queries
      .selectFrom('secret_access')
      .select(['access_count', 'last_accessed_at_ms'])
      .where('secret_id', '=', row.id)
      .executeTakeFirst();
    const none = { access_count: 0, last_accessed_at_ms: 0 };
    return secretFactsOf(
      change.namespace.name,
      row,
      accesses ?? none,
      change.nowMs,
      this.#accesses.waiting(row.id),
    );
  }

  async #versionRows(
    namespace: string,
    name: string,
    narrow: (select: ReturnType<typeof listedVersions>) => ReturnType<typeof listedVersions>,
  ) {
    const known = await this.#directory.find(namespace);
    return this.#store.read(async (queries) => {
      const row = await queries
        .selectFrom('secret')
        .select(['id', 'current_version'])
        .where('namespace_id', '=', known.id)
        .where('name', '=', name)
        .executeTakeFirst();
      if (row === undefined) throw await this.#absent(known, name);
      return { row, rows: await narrow(listedVersions(queries, row.id)).execute() };
    });
  }

  /** Which of the two is not there: another process may have dropped the namespace. */
  async #absent(known: KnownNamespace, name: string): Promise<ServiceError> {
    await this.#requirePresent(known);
    return noSuchSecret(known.name, name);
  }

  /** @throws ServiceError `not_found` where another process deleted or renamed the namespace */
  async #requirePresent(known: KnownNamespace): Promise<void> {
    const found = await this.#store.read((queries) =>
      queries.selectFrom('namespace').select('name').where('id', '=', known.id).executeTakeFirst(),
    );
    if (found?.name === known.name) return;
    this.#directory.forget(known);
    throw noSuchNamespace(known.name);
  }
}

/** By name; with a tag by the tag's own index, which has the names in order too. */
function listedBy(
  queries: Queries<AgentSchema>,
  namespaceId: string,
  query: ListInput,
  after: string | undefined,
  nowMs: number,
) {
  const { tag, prefix, state, expiresBefore } = query;
  const name = sql.ref<string>(tag === undefined ? 'secret.name' : 'secret_tag.name');
  let page = listed(queries, namespaceId).orderBy(name);
  if (tag !== undefined) {
    page = page
      .innerJoin('secret_tag', 'secret_tag.secret_id', 'secret.id')
      .where('secret_tag.namespace_id', '=', namespaceId)
      .where('secret_tag.tag', '=', tag);
  }
  if (after !== undefined) page = page.where(name, '>', after);
  if (prefix !== undefined && prefix !== '') {
    page = page.where(name, '>=', prefix).where(name, '<', prefix + afterNames);
  }
  if (state !== 'all') page = page.where('secret.is_deleted', '=', state === 'deleted' ? 1 : 0);
  if (state === 'active') {
    page = page.where((where) =>
      where.or([
        where('secret.expires_at_ms', 'is', null),
        where('secret.expires_at_ms', '>', nowMs),
      ]),
    );
  }
  if (state === 'expired') page = page.where('secret.expires_at_ms', '<=', nowMs);
  if (expiresBefore !== undefined) {
    page = page.where('secret.expires_at_ms', '<', Date.parse(expiresBefore));
  }
  return page;
}

function listed(queries: Queries<AgentSchema>, namespaceId: string) {
  return queries
    .selectFrom('secret')
    .leftJoin('secret_access', 'secret_access.secret_id', 'secret.id')
    .selectAll('secret')
    .select(['secret_access.access_count', 'secret_access.last_accessed_at_ms'])
    .where('secret.namespace_id', '=', namespaceId);
}

function listedVersions(queries: Queries<AgentSchema>, secretId: string) {
  return queries
    .selectFrom('secret_version')
    .select(versionColumns)
    .where('secret_id', '=', secretId)
    .orderBy('version', 'desc');
}

function msOf(instant: string | null): number | null {
  return instant === null ? null : Date.parse(instant);
}

function nameTaken(row: SecretRow): ServiceError {
  return new ServiceError('conflict', {
    detail:
      row.is_deleted === 1
        ? `A deleted secret has the name ${row.name}: undelete it, or destroy it`
        : `There is a secret ${row.name} already`,
  });
}

function secretGone(name: string, state: 'deleted' | 'expired'): ServiceError {
  return new ServiceError('gone', {
    detail:
      state === 'deleted' ? `The secret ${name} is deleted` : `The secret ${name} has expired`,
  });
}

function notDeleted(what: string): ServiceError {
  return new ServiceError('conflict', { detail: `${what} is not deleted` });
}
