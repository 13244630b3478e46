/**
 * Finds the current version of a secret: in the cache, where that is known to be up to date, else in the
 * store. On SQLite the store is asked in this very moment; elsewhere it takes a round trip. While the
 * store is away, what was read before is answered for a configured time.
 */
import type { StatementSync } from 'node:sqlite';
import { ServiceError } from '@keystead/contracts/errors';
import type { KeyRing } from '../keys/key-ring.ts';
import {
  type KnownNamespace,
  type NamespaceDirectory,
  noSuchNamespace,
} from '../namespaces/namespace-directory.ts';
import type { AgentStore } from '../store/agent-store.ts';
import type { VersionState } from '../store/agent-tables.ts';
import { storeLimits } from '../store/store-limits.ts';
import { valueOpener } from './sealed-value.ts';
import { instantOf, noSuchSecret } from './secret-rows.ts';
import type { CachedValue, ValueCache } from './value-cache.ts';

interface ValueRow {
  id: string;
  is_deleted: number;
  expires_at_ms: number | null;
  revision: number;
  version: number;
  state: VersionState;
  sealed: Uint8Array;
  encoding: 'text' | 'base64';
  created_at_ms: number;
}

export interface ValueReaderOptions {
  store: AgentStore;
  keys: KeyRing;
  directory: NamespaceDirectory;
  cache: ValueCache;
  answerFromCacheMs: number;
}

export class ValueReader {
  readonly #store: AgentStore;
  readonly #keys: KeyRing;
  readonly #directory: NamespaceDirectory;
  readonly #cache: ValueCache;
  readonly #answerFromCacheMs: number;
  #statement: StatementSync | undefined;

  constructor(options: ValueReaderOptions) {
    this.#store = options.store;
    this.#keys = options.keys;
    this.#directory = options.directory;
    this.#cache = options.cache;
    this.#answerFromCacheMs = options.answerFromCacheMs;
  }

  /** What needs no waiting; undefined where something has to be waited for. */
  atHand(namespaceName: string, name: string): CachedValue | undefined {
    if (!this.#directory.isTrusted) return undefined;
    const namespace = this.#directory.known(namespaceName);
    if (namespace === undefined) return undefined;
    const cached = this.#cache.get(namespace, name);
    if (cached !== undefined) return cached;
    const { sqlite } = this.#store;
    if (sqlite === undefined || !this.#store.breaker.isAvailable) return undefined;
    const key = this.#keys.knownNamespaceKey(namespace.id);
    if (key === undefined) return undefined;
    this.#statement ??= sqlite.prepare(valueQuery);
    let row: ValueRow | undefined;
    try {
      row = this.#statement.get(namespace.id, name) as ValueRow | undefined;
    } catch {
      // The ordinary way says what is wrong, and the breaker hears of it.
      return undefined;
    }
    if (row === undefined) throw noSuchSecret(namespaceName, name);
    return this.#remember(namespace, name, row, namespace.generation);
  }

  /** @throws ServiceError `not_found`, `unavailable` */
  async read(namespaceName: string, name: string): Promise<CachedValue> {
    try {
      if (!this.#directory.isTrusted) {
        const kept = await this.#keptWhileLooking(namespaceName, name);
        if (kept !== undefined) return kept;
      }
      const namespace = await this.#directory.find(namespaceName);
      return this.#cache.get(namespace, name) ?? (await this.#load(namespace, name));
    } catch (error) {
      if (!(error instanceof ServiceError) || error.code !== 'unavailable') throw error;
      const kept = this.#keptAnswer(namespaceName, name);
      if (kept === undefined) throw error;
      return kept;
    }
  }

  /**
   * Undefined once what is cached is known to be up to date. A store that does not answer at all is as
   * good as away: whoever reads does not wait for it to be given up.
   */
  async #keptWhileLooking(namespaceName: string, name: string): Promise<CachedValue | undefined> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(resolve, storeLimits.patienceMs, 'late');
    });
    const looked = this.#directory.look();
    const first = await Promise.race([looked, late]).finally(() => clearTimeout(timer));
    if (first !== 'late') return undefined;
    const kept = this.#keptAnswer(namespaceName, name);
    if (kept === undefined) await looked;
    else looked.catch(() => undefined);
    return kept;
  }

  #keptAnswer(namespaceName: string, name: string): CachedValue | undefined {
    if (this.#directory.behindMs > this.#answerFromCacheMs) return undefined;
    const namespace = this.#directory.known(namespaceName);
    return namespace && this.#cache.get(namespace, name);
  }

  async #load(namespace: KnownNamespace, name: string): Promise<CachedValue> {
    const key = await this.#keys.namespaceKey(namespace.id);
    const { generation } = namespace;
    const row: ValueRow | undefined = await this.#store.read((queries) =>
      queries
        .selectFrom('secret')
        .innerJoin('secret_version', (join) =>
          join
            .onRef('secret_version.secret_id', '=', 'secret.id')
            .onRef('secret_version.version', '=', 'secret.current_version'),
        )
        .select([
          'secret.id',
          'secret.is_deleted',
          'secret.expires_at_ms',
          'secret.revision',
          'secret_version.version',
          'secret_version.state',
          'secret_version.sealed',
          'secret_version.encoding',
          'secret_version.created_at_ms',
        ])
        .where('secret.namespace_id', '=', namespace.id)
        .where('secret.name', '=', name)
        .executeTakeFirst(),
    );
    if (row !== undefined && !key.isWiped) return this.#remember(namespace, name, row, generation);
    if (await this.#isThere(namespace)) throw noSuchSecret(namespace.name, name);
    this.#directory.forget(namespace);
    throw noSuchNamespace(namespace.name);
  }

  async #isThere(namespace: KnownNamespace): Promise<boolean> {
    const row = await this.#store.read((queries) =>
      queries
        .selectFrom('namespace')
        .select('name')
        .where('id', '=', namespace.id)
        .executeTakeFirst(),
    );
    return row?.name === namespace.name;
  }

  /** Caches it unless something of the namespace was dropped since it was asked for. */
  #remember(
    namespace: KnownNamespace,
    name: string,
    row: ValueRow,
    askedAtGeneration: number,
  ): CachedValue {
    const key = this.#keys.knownNamespaceKey(namespace.id);
    if (key === undefined) throw noSuchNamespace(namespace.name);
    const place = { namespaceId: namespace.id, secretId: row.id, version: row.version };
    const entry: CachedValue = {
      namespace,
      epoch: namespace.epoch,
      secretId: row.id,
      version: row.version,
      isDeleted: row.is_deleted === 1,
      versionState: row.state,
      expiresAtMs: row.expires_at_ms,
      expiresAt: instantOf(row.expires_at_ms),
      encoding: row.encoding,
      createdAt: new Date(row.created_at_ms).toISOString(),
      etag: String(row.revision),
      opener: row.state === 'active' ? valueOpener(key, place, row.sealed) : undefined,
      sealedBytes: row.sealed.length,
      plaintext: undefined,
      plaintextTimer: undefined,
    };
    if (askedAtGeneration === namespace.generation && !namespace.isGone) {
      this.#cache.set(name, entry);
    }
    return entry;
  }
}

/** What SQLite is asked on the hot path. */
export const valueQuery = `select secret.id, is_deleted, expires_at_ms, secret.revision, version, state,
    sealed, encoding, secret_version.created_at_ms
  from secret
    join secret_version on secret_id = secret.id and version = current_version
  where namespace_id = ? and name = ?`;
