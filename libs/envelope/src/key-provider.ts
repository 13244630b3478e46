/**
 * Who guards the master key. The master key is stored beside the data only wrapped by a provider; what
 * the provider wraps with lies elsewhere: in a file, a person's memory, an HSM, a cloud's KMS.
 *
 * All providers keep the same promises, held to them by one suite (`key-provider-suite.fixture.ts`):
 * what was wrapped comes back as it was, and only for the same context; everything else is a
 * {@link KeyProviderError} with a reason; no error, description or print-out holds key material.
 */
import { associatedData } from './aad.ts';
import { envelopeLimits as limits } from './limits.ts';
import type { SecretKey } from './secret-key.ts';

export const keyProviderKinds = [
  'file',
  'passphrase',
  'environment',
  'command',
  'aws-kms',
  'gcp-kms',
  'azure-key-vault',
  'pkcs11',
] as const;
export type KeyProviderKind = (typeof keyProviderKinds)[number];

/** A key as a provider wrapped it: safe to store beside the data. */
export interface WrappedKey {
  provider: KeyProviderKind;
  /** Which key of the provider wrapped it; what it looks like is the provider's. */
  keyId: string;
  /** Of the provider's key, or of the form where the provider has none. */
  version: string;
  bytes: Uint8Array;
}

/** What a wrapped key is bound to; unwrapping needs the same. Not secret: a cloud logs it. */
export type KeyContext = Readonly<Record<string, string>>;

/** For people and logs. */
export interface KeyProviderDescription {
  kind: KeyProviderKind;
  keyId: string;
  /** Where the key is, in words: a path, an address, a token's label. */
  location: string;
}

export interface KeyProvider {
  readonly kind: KeyProviderKind;

  /** @throws KeyProviderError */
  wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey>;

  /** @throws KeyProviderError */
  unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey>;

  describe(): KeyProviderDescription;

  /** Wipes what the provider holds. Everything after is refused as `closed`. */
  close(): Promise<void>;
}

export const keyProviderReasons = [
  /** Not reached, or it failed on its side: another try may succeed. */
  'unavailable',
  'timed_out',
  'throttled',
  /** It answered that we may not. */
  'denied',
  'key_not_found',
  /** Disabled, scheduled for deletion, expired. */
  'key_disabled',
  /** What was configured cannot work: a loose file mode, a malformed value, another key type. */
  'misconfigured',
  /** Wrapped by another key or another provider. */
  'wrong_key',
  /** Changed, cut off, or wrapped for another context. */
  'corrupt',
  'closed',
] as const;
export type KeyProviderReason = (typeof keyProviderReasons)[number];

const retryable: readonly KeyProviderReason[] = ['unavailable', 'timed_out', 'throttled'];

export class KeyProviderError extends Error {
  readonly provider: KeyProviderKind;
  readonly reason: KeyProviderReason;

  /** @param message what is wrong and where; never a value */
  constructor(
    provider: KeyProviderKind,
    reason: KeyProviderReason,
    message: string,
    options: { cause?: unknown } = {},
  ) {
    super(message, options);
    this.name = 'KeyProviderError';
    this.provider = provider;
    this.reason = reason;
  }

  /** Whether the same call may succeed later without anybody changing anything. */
  get isRetryable(): boolean {
    return retryable.includes(this.reason);
  }
}

/**
 * The context in one form, whatever the order of its entries.
 * @throws RangeError where it is too large
 */
export function contextData(context: KeyContext): Buffer {
  const entries = Object.entries(context).sort(([left], [right]) => (left < right ? -1 : 1));
  if (entries.length > limits.maxContextEntries) {
    throw new RangeError(`a key context has at most ${limits.maxContextEntries} entries`);
  }
  const data = associatedData('key-context', ...entries.flat());
  if (data.length > limits.maxContextBytes) {
    throw new RangeError(`a key context has at most ${limits.maxContextBytes} bytes`);
  }
  return data;
}

/** What every provider asks of a wrapped key before it looks inside. @throws KeyProviderError */
export function requireWrappedBy(
  kind: KeyProviderKind,
  wrapped: WrappedKey,
  version?: string,
): void {
  if (wrapped.provider !== kind) {
    throw new KeyProviderError(
      kind,
      'wrong_key',
      `the key was wrapped by the provider ${wrapped.provider}, and ${kind} is configured`,
    );
  }
  if (wrapped.bytes.length === 0 || wrapped.bytes.length > limits.maxWrappedKeyBytes) {
    throw new KeyProviderError(kind, 'corrupt', 'the wrapped key has an impossible length');
  }
  if (wrapped.keyId.length > limits.maxKeyIdCharacters) {
    throw new KeyProviderError(kind, 'corrupt', 'the id of the wrapping key is too long');
  }
  if (version !== undefined && wrapped.version !== version) {
    throw new KeyProviderError(
      kind,
      'corrupt',
      'the wrapped key is of a version that is not known here',
    );
  }
}
