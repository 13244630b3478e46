/**
 * Keys made from passwords, kept for a while: Argon2id once for a password and a salt, none for what is
 * read afterwards. Who waits for the same key shares one derivation.
 */
import { createHmac, randomBytes } from 'node:crypto';
import { derivePasswordKey } from '@keystead/envelope/password';
import { vaultLimits } from './limits.ts';
import { PasswordKey } from './password-key.ts';
import { decodeDerivation } from './record-format.ts';

export interface KeyCacheOptions {
  /** 0 keeps none: every operation pays for Argon2id. */
  maxEntries: number;
  /** After its derivation, used or not. */
  ttlMs: number;
}

export const defaultKeyCache: KeyCacheOptions = {
  maxEntries: vaultLimits.keyCacheEntries,
  ttlMs: vaultLimits.keyCacheTtlMs,
};

interface Kept {
  key: Promise<PasswordKey>;
  made: PasswordKey | undefined;
  expiry: NodeJS.Timeout;
}

export class PasswordKeys {
  readonly #options: KeyCacheOptions;
  /** By a keyed hash of password and salt, so that the map holds no password. */
  readonly #kept = new Map<string, Kept>();
  /** Made, but nothing was opened with them yet: guesses take no place from what opens something. */
  readonly #unproven = new Map<string, Kept>();
  readonly #nameKey = randomBytes(32);

  constructor(options: KeyCacheOptions = defaultKeyCache) {
    this.#options = options;
  }

  /** The key where it is kept or on its way; else undefined, at no cost. */
  known(password: string, derivation: Uint8Array): Promise<PasswordKey> | undefined {
    const name = this.#name(password, derivation);
    const map = this.#kept.has(name) ? this.#kept : this.#unproven;
    const kept = map.get(name);
    if (kept === undefined) return undefined;
    // The most recently used are the last to go.
    map.delete(name);
    map.set(name, kept);
    return kept.key;
  }

  /**
   * The key is the cache's: it is used at once, before anything else is awaited, and not wiped.
   * @param derivation the first bytes of a record
   * @throws Corrupt where those are none · RangeError for an empty or overlong password
   */
  async keyFor(password: string, derivation: Uint8Array): Promise<PasswordKey> {
    const { maxEntries, ttlMs } = this.#options;
    const known = this.known(password, derivation);
    if (known !== undefined) return known;
    const name = this.#name(password, derivation);
    const key = makeKey(password, derivation);
    if (maxEntries === 0) return key;
    const expiry = setTimeout(() => this.#forget(name), ttlMs);
    expiry.unref();
    const kept: Kept = { key, made: undefined, expiry };
    this.#unproven.set(name, kept);
    key.then(
      (made) => {
        kept.made = made;
      },
      () => this.#forget(name),
    );
    this.#trim(this.#unproven, Math.min(maxEntries, vaultLimits.keyCacheUnproven));
    return key;
  }

  /** The key has opened or sealed something: from now on it is kept among the others that have. */
  proved(key: PasswordKey): void {
    for (const [name, kept] of this.#unproven) {
      if (kept.made !== key) continue;
      this.#unproven.delete(name);
      this.#kept.set(name, kept);
      this.#trim(this.#kept, this.#options.maxEntries);
      return;
    }
  }

  /** Forgets every key, as at the end of a session. */
  clear(): void {
    for (const name of [...this.#kept.keys(), ...this.#unproven.keys()]) this.#forget(name);
  }

  #name(password: string, derivation: Uint8Array): string {
    return createHmac('sha256', this.#nameKey)
      .update(derivation)
      .update(password.normalize('NFC'))
      .digest('base64');
  }

  #trim(map: Map<string, Kept>, most: number): void {
    if (map.size > most) this.#forget(map.keys().next().value as string);
  }

  #forget(name: string): void {
    const kept = this.#kept.get(name) ?? this.#unproven.get(name);
    if (kept === undefined) return;
    clearTimeout(kept.expiry);
    this.#kept.delete(name);
    this.#unproven.delete(name);
    // Whoever has just been given it uses it before the next turn.
    kept.key.then(
      (key) => setImmediate(() => key.wipe()),
      () => undefined,
    );
  }
}

/** One Argon2id. @throws Corrupt, RangeError */
export async function makeKey(password: string, derivation: Uint8Array): Promise<PasswordKey> {
  const key = await derivePasswordKey(password, decodeDerivation(derivation).parameters);
  const made = new PasswordKey(key.bytes);
  key.wipe();
  return made;
}
