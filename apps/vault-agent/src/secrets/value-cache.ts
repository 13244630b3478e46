/**
 * What was read of current versions, sealed, so that reading again asks neither the store nor derives a
 * key. The plaintext is kept only where the owner wants that, and no longer than that.
 */
import type { ValueEncoding } from '@keystead/contracts/agent-api/secrets';
import type { Opener } from '@keystead/envelope/sealed';
import { LRUCache } from 'lru-cache';
import type { CacheListener, KnownNamespace } from '../namespaces/namespace-directory.ts';
import type { VersionState } from '../store/agent-tables.ts';

export interface CachedValue {
  readonly namespace: KnownNamespace;
  readonly epoch: number;
  readonly secretId: string;
  readonly version: number;
  readonly isDeleted: boolean;
  readonly versionState: VersionState;
  readonly expiresAtMs: number | null;
  readonly expiresAt: string | null;
  readonly encoding: ValueEncoding;
  readonly createdAt: string;
  readonly etag: string;
  /** Undefined where there is nothing to open. */
  readonly opener: Opener | undefined;
  /** Of what is stored. */
  readonly sealedBytes: number;
  plaintext: Buffer | undefined;
  plaintextTimer: NodeJS.Timeout | undefined;
}

export interface ValueCacheOptions {
  maxEntries: number;
  /** Of sealed values, and as many again of plaintext where that is kept. */
  maxBytes: number;
  /** 0: every reading opens the sealed value. */
  plaintextTtlMs: number;
}

/** What an entry weighs beside its value: its key, its names, the objects around. */
const entryBytes = 1_200;

export class ValueCache implements CacheListener {
  readonly #entries: LRUCache<string, CachedValue>;
  readonly #plaintextTtlMs: number;
  hits = 0;
  misses = 0;

  constructor(options: ValueCacheOptions) {
    this.#plaintextTtlMs = options.plaintextTtlMs;
    this.#entries = new LRUCache({
      max: options.maxEntries,
      maxSize: options.maxBytes,
      sizeCalculation: ({ sealedBytes }) => entryBytes + sealedBytes,
      dispose: wipe,
    });
  }

  get size(): number {
    return this.#entries.size;
  }

  get(namespace: KnownNamespace, secretName: string): CachedValue | undefined {
    const entry = this.#entries.get(keyOf(namespace.id, secretName));
    if (entry === undefined || entry.namespace !== namespace || entry.epoch !== namespace.epoch) {
      this.misses += 1;
      return undefined;
    }
    this.hits += 1;
    return entry;
  }

  set(secretName: string, entry: CachedValue): void {
    this.#entries.set(keyOf(entry.namespace.id, secretName), entry);
  }

  /** Keeps the plaintext for its time. @returns false where none is kept: the bytes are the caller's to wipe */
  keepPlaintext(entry: CachedValue, plaintext: Buffer): boolean {
    if (this.#plaintextTtlMs === 0) return false;
    entry.plaintext = plaintext;
    entry.plaintextTimer = setTimeout(() => wipePlaintext(entry), this.#plaintextTtlMs);
    entry.plaintextTimer.unref();
    return true;
  }

  dropSecret(namespace: KnownNamespace, secretName: string): void {
    this.#entries.delete(keyOf(namespace.id, secretName));
  }

  dropNamespace(namespace: KnownNamespace): void {
    for (const [key, entry] of this.#entries.entries()) {
      if (entry.namespace === namespace) this.#entries.delete(key);
    }
  }

  clear(): void {
    this.#entries.clear();
  }
}

function keyOf(namespaceId: string, secretName: string): string {
  return `${namespaceId} ${secretName}`;
}

/** Whoever was just given the entry opens it first: that takes no more than promises that are settled. */
function wipe(entry: CachedValue): void {
  setImmediate(() => entry.opener?.wipeKey());
  wipePlaintext(entry);
}

function wipePlaintext(entry: CachedValue): void {
  clearTimeout(entry.plaintextTimer);
  entry.plaintext?.fill(0);
  entry.plaintext = undefined;
}
