/** Wrapping with a key that is here in memory, however it came here. */

import {
  contextData,
  type KeyContext,
  KeyProviderError,
  type KeyProviderKind,
  requireWrappedBy,
  type WrappedKey,
} from '../key-provider.ts';
import { Corrupt, open, seal, WrongKey } from '../sealed.ts';
import { keyBytes, type RandomFill, SecretKey } from '../secret-key.ts';

const formVersion = '1';

/** Names a key without telling anything of it: the first bytes of its commitment. */
export function localKeyId(key: SecretKey): string {
  return key.commitment.subarray(0, 16).toString('hex');
}

export class LocalKey {
  readonly #kind: KeyProviderKind;
  readonly #key: SecretKey;
  readonly #random: RandomFill | undefined;
  readonly keyId: string;

  /** Owns the key from here on. */
  constructor(kind: KeyProviderKind, key: SecretKey, random?: RandomFill) {
    this.#kind = kind;
    this.#key = key;
    this.#random = random;
    this.keyId = localKeyId(key);
  }

  wrap(key: SecretKey, context: KeyContext): WrappedKey {
    this.#requireOpen();
    return {
      provider: this.#kind,
      keyId: this.keyId,
      version: formVersion,
      bytes: seal(this.#key, key.bytes, contextData(context), this.#random),
    };
  }

  unwrap(wrapped: WrappedKey, context: KeyContext): SecretKey {
    this.#requireOpen();
    requireWrappedBy(this.#kind, wrapped, formVersion);
    if (wrapped.keyId !== this.keyId) throw this.#wrongKey(wrapped);
    return openKey(this.#kind, this.#key, wrapped.bytes, contextData(context));
  }

  close(): void {
    this.#key.wipe();
  }

  #wrongKey(wrapped: WrappedKey): KeyProviderError {
    return new KeyProviderError(
      this.#kind,
      'wrong_key',
      `the key was wrapped with key ${wrapped.keyId.slice(0, 64)}, and this one is ${this.keyId}`,
    );
  }

  #requireOpen(): void {
    if (this.#key.isWiped) throw closedProvider(this.#kind);
  }
}

export function closedProvider(kind: KeyProviderKind): KeyProviderError {
  return new KeyProviderError(kind, 'closed', 'the key provider is closed');
}

/** Opens a sealed key and says in a provider's words why it could not. @throws KeyProviderError */
export function openKey(
  kind: KeyProviderKind,
  key: SecretKey,
  sealed: Uint8Array,
  associatedData: Uint8Array,
): SecretKey {
  let bytes: Buffer;
  try {
    bytes = open(key, sealed, associatedData);
  } catch (error) {
    if (error instanceof WrongKey) {
      throw new KeyProviderError(kind, 'wrong_key', 'the key was wrapped with another key');
    }
    if (error instanceof Corrupt) throw new KeyProviderError(kind, 'corrupt', error.message);
    throw error;
  }
  return takeKey(kind, bytes);
}

/** @throws KeyProviderError where it is no key */
export function takeKey(kind: KeyProviderKind, bytes: Uint8Array): SecretKey {
  if (bytes.length !== keyBytes) {
    bytes.fill(0);
    throw new KeyProviderError(kind, 'corrupt', 'what was unwrapped is no key');
  }
  return SecretKey.take(bytes);
}

/**
 * A key as people and programs write it: 32 bytes in base64, base64url or hexadecimal, with space
 * around it. @throws KeyProviderError `misconfigured`, naming `where` and never the text
 */
export function parseKeyText(kind: KeyProviderKind, text: string, where: string): SecretKey {
  const trimmed = text.trim();
  const wrong = () =>
    new KeyProviderError(
      kind,
      'misconfigured',
      `${where} is not a key: 32 bytes in base64 or in hexadecimal are expected`,
    );
  if (/^[0-9a-fA-F]{64}$/.test(trimmed)) return SecretKey.take(Buffer.from(trimmed, 'hex'));
  if (!/^[A-Za-z0-9+/_-]{43}=?$/.test(trimmed)) throw wrong();
  const bytes = Buffer.from(trimmed.replaceAll('-', '+').replaceAll('_', '/'), 'base64');
  if (bytes.length !== keyBytes) throw wrong();
  return SecretKey.take(bytes);
}
