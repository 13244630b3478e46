/** Everything that keeps secrets, put together on one store. */
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { KeyProvider } from '@keystead/envelope/key-provider';
import type { SqlOptions } from '@keystead/vault-store/sql/sql-store';
import { KeyRing } from '../keys/key-ring.ts';
import { NamespaceChanges } from '../namespaces/namespace-change.ts';
import { NamespaceDirectory } from '../namespaces/namespace-directory.ts';
import { Namespaces } from '../namespaces/namespaces.ts';
import { Transfer } from '../namespaces/transfer.ts';
import { AccessCounter } from '../secrets/access-counter.ts';
import { Secrets } from '../secrets/secrets.ts';
import { ValueCache, type ValueCacheOptions } from '../secrets/value-cache.ts';
import { AgentStore } from './agent-store.ts';
import type { Migration } from './migrations.ts';

export interface VaultOptions {
  sql: SqlOptions;
  /** The vault uses it; whoever opened it closes it. */
  provider: KeyProvider;
  /**
   * Where archives lie, sealed, while they are imported; `imports` beside a file of SQLite by default,
   * else in the system's folder for such things.
   */
  folder?: string;
  /** Of the other domains. */
  migrations?: readonly Migration[];
  cache?: Partial<ValueCacheOptions>;
  /** While the store is away: how long what was read before is still answered, in ms; 0 is never. */
  answerFromCacheMs?: number;
  now?: () => number;
  /** Told of what went wrong in the background. */
  onError?: (error: unknown) => void;
}

/** About 64 MB of sealed values; no plaintext. */
const cacheDefaults: ValueCacheOptions = {
  maxEntries: 50_000,
  maxBytes: 64 * 1_024 * 1_024,
  plaintextTtlMs: 0,
};

function folderFor(sql: SqlOptions): string {
  if (sql.kind === 'sqlite' && sql.file !== ':memory:') return join(dirname(sql.file), 'imports');
  return join(tmpdir(), `keystead-imports-${process.pid}`);
}

export class Vault {
  readonly store: AgentStore;
  readonly keys: KeyRing;
  readonly directory: NamespaceDirectory;
  readonly changes: NamespaceChanges;
  readonly accesses: AccessCounter;
  readonly cache: ValueCache;
  readonly secrets: Secrets;
  readonly namespaces: Namespaces;
  readonly transfer: Transfer;

  private constructor(store: AgentStore, keys: KeyRing, options: VaultOptions) {
    const { onError, now } = options;
    this.store = store;
    this.keys = keys;
    const background = {
      ...(onError === undefined ? {} : { onError }),
      ...(now === undefined ? {} : { now }),
    };
    this.directory = new NamespaceDirectory({ store, keys, ...background });
    this.accesses = new AccessCounter({ store, ...background });
    this.cache = new ValueCache({ ...cacheDefaults, ...options.cache });
    const parts = { store, keys, directory: this.directory, ...background };
    this.changes = new NamespaceChanges(parts);
    this.secrets = new Secrets({
      ...parts,
      changes: this.changes,
      accesses: this.accesses,
      cache: this.cache,
      answerFromCacheMs: options.answerFromCacheMs ?? 60_000,
    });
    this.namespaces = new Namespaces({ ...parts, accesses: this.accesses });
    this.transfer = new Transfer({ ...parts, folder: options.folder ?? folderFor(options.sql) });
  }

  /** @throws StoreTooNew, KeyProviderError, or what the database says */
  static async open(options: VaultOptions): Promise<Vault> {
    const now = options.now === undefined ? {} : { now: options.now };
    const store = await AgentStore.open({
      sql: options.sql,
      ...(options.migrations === undefined ? {} : { migrations: options.migrations }),
      ...now,
    });
    try {
      const keys = await KeyRing.open({ store, provider: options.provider, ...now });
      const vault = new Vault(store, keys, options);
      await vault.directory.start();
      await vault.accesses.start();
      return vault;
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  /** Writes the counts that wait, wipes the keys, closes the store. */
  async close(): Promise<void> {
    await this.directory.stop();
    await this.accesses.stop().catch(() => undefined);
    this.cache.clear();
    this.keys.close();
    await this.store.close();
  }
}
