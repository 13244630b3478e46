/**
 * The wrapping key in a variable of the environment, as orchestrators hand secrets over. The value is
 * passed in: whoever reads the environment is the configuration.
 */
import {
  type KeyContext,
  type KeyProvider,
  type KeyProviderDescription,
  KeyProviderError,
  type WrappedKey,
} from '../key-provider.ts';
import type { SecretKey } from '../secret-key.ts';
import { LocalKey, parseKeyText } from './local-key.ts';

const kind = 'environment';

export interface EnvironmentKeyOptions {
  /** The variable's name, for people. */
  name: string;
  /** 32 bytes in base64 or hexadecimal. */
  value: string | undefined;
}

/** @throws KeyProviderError where the variable is not set or is no key */
export function openEnvironmentKey(options: EnvironmentKeyOptions): EnvironmentKeyProvider {
  return new EnvironmentKeyProvider(options);
}

export class EnvironmentKeyProvider implements KeyProvider {
  readonly kind = kind;
  readonly #name: string;
  readonly #local: LocalKey;

  constructor({ name, value }: EnvironmentKeyOptions) {
    if (value === undefined || value.trim() === '') {
      throw new KeyProviderError(kind, 'key_not_found', `the variable ${name} is not set`);
    }
    this.#name = name;
    this.#local = new LocalKey(kind, parseKeyText(kind, value, `the variable ${name}`));
  }

  async wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey> {
    return this.#local.wrap(key, context);
  }

  async unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey> {
    return this.#local.unwrap(wrapped, context);
  }

  describe(): KeyProviderDescription {
    return { kind, keyId: this.#local.keyId, location: `the variable ${this.#name}` };
  }

  async close(): Promise<void> {
    this.#local.close();
  }
}
