/**
 * The wrapping key from a passphrase, by Argon2id. Each wrapping has a salt of its own, which lies with
 * the parameters before the sealed key; so the cost can be raised later.
 */
import {
  contextData,
  type KeyContext,
  type KeyProvider,
  type KeyProviderDescription,
  KeyProviderError,
  requireWrappedBy,
  type WrappedKey,
} from '../key-provider.ts';
import {
  decodePasswordParameters,
  defaultPasswordCost,
  derivePasswordKey,
  encodePasswordParameters,
  newPasswordParameters,
  type PasswordCost,
  passwordBytes,
  requirePassphraseLength,
} from '../password.ts';
import { Corrupt, seal } from '../sealed.ts';
import type { SecretKey } from '../secret-key.ts';
import { closedProvider, openKey } from './local-key.ts';

const kind = 'passphrase';
const formVersion = '1';
const keyId = 'passphrase';

export interface PassphraseOptions {
  passphrase: string;
  /** Where the passphrase comes from, in words. */
  location: string;
  cost?: PasswordCost;
}

/** @throws KeyProviderError where the passphrase is missing or too short */
export function openPassphrase(options: PassphraseOptions): PassphraseProvider {
  try {
    requirePassphraseLength(options.passphrase);
    return new PassphraseProvider(options);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new KeyProviderError(kind, 'misconfigured', `${options.location}: ${error.message}`);
  }
}

export class PassphraseProvider implements KeyProvider {
  readonly kind = kind;
  readonly #location: string;
  readonly #cost: PasswordCost;
  #passphrase: Buffer | undefined;

  constructor(options: PassphraseOptions) {
    this.#location = options.location;
    this.#cost = options.cost ?? defaultPasswordCost;
    this.#passphrase = passwordBytes(options.passphrase);
  }

  async wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey> {
    const data = contextData(context);
    const parameters = newPasswordParameters(this.#cost);
    using wrapping = await derivePasswordKey(this.#open(), parameters);
    return {
      provider: kind,
      keyId,
      version: formVersion,
      bytes: Buffer.concat([encodePasswordParameters(parameters), seal(wrapping, key.bytes, data)]),
    };
  }

  async unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey> {
    const passphrase = this.#open();
    requireWrappedBy(kind, wrapped, formVersion);
    let decoded: ReturnType<typeof decodePasswordParameters>;
    try {
      decoded = decodePasswordParameters(wrapped.bytes);
    } catch (error) {
      if (error instanceof Corrupt) throw new KeyProviderError(kind, 'corrupt', error.message);
      throw error;
    }
    using wrapping = await derivePasswordKey(passphrase, decoded.parameters);
    return openKey(kind, wrapping, wrapped.bytes.subarray(decoded.length), contextData(context));
  }

  describe(): KeyProviderDescription {
    return { kind, keyId, location: this.#location };
  }

  async close(): Promise<void> {
    this.#passphrase?.fill(0);
    this.#passphrase = undefined;
  }

  #open(): Buffer {
    if (this.#passphrase === undefined) throw closedProvider(kind);
    return this.#passphrase;
  }
}
