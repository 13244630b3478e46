/**
 * Azure Key Vault: `wrapKey` and `unwrapKey` with RSA-OAEP-256. RSA binds no context, so the service
 * wraps a one-time key, and that key seals ours with the context:
 *
 * ```text
 * length of the first part (u16, big-endian) | one-time key as the service wrapped it | sealed key
 * ```
 *
 * The sealed key also tells a wrong answer of the service from a damaged one. Each version of the vault's
 * key opens what it wrapped, so rotation in Azure needs nothing here.
 */
import type { TokenCredential } from '@azure/core-auth';
import type { CryptographyClient, CryptographyClientOptions } from '@azure/keyvault-keys';
import {
  contextData,
  type KeyContext,
  type KeyProvider,
  type KeyProviderDescription,
  KeyProviderError,
  type KeyProviderReason,
  requireWrappedBy,
  type WrappedKey,
} from '../key-provider.ts';
import { seal } from '../sealed.ts';
import { SecretKey } from '../secret-key.ts';
import { closedProvider, openKey, takeKey } from './local-key.ts';
import {
  callRemote,
  networkErrorCode,
  type RemoteCallOptions,
  type RemoteFailure,
  retryAfterMs,
} from './remote-call.ts';

const kind = 'azure-key-vault';
const wrapAlgorithm = 'RSA-OAEP-256';
const lengthBytes = 2;

export interface AzureKeyVaultOptions {
  /** `https://….vault.azure.net` */
  vaultUrl: string;
  keyName: string;
  /** Without, the SDK looks where it always does: environment, managed identity, command line. */
  credential?: TokenCredential;
  /** An authority of one's own, in PEM; and a vault that is not under Azure's names. */
  certificateAuthority?: string;
  trustAnyVaultName?: boolean;
  call?: RemoteCallOptions;
}

/** @throws KeyProviderError where the address or the name cannot be one */
export async function openAzureKeyVault(
  options: AzureKeyVaultOptions,
): Promise<AzureKeyVaultProvider> {
  const vaultUrl = parseVaultUrl(options.vaultUrl);
  if (!/^[0-9A-Za-z-]{1,127}$/.test(options.keyName)) {
    throw new KeyProviderError(
      kind,
      'misconfigured',
      "a key's name has up to 127 letters, digits and dashes",
    );
  }
  const sdk = await import('@azure/keyvault-keys');
  const credential =
    options.credential ?? new (await import('@azure/identity')).DefaultAzureCredential();
  return new AzureKeyVaultProvider({ ...options, vaultUrl, credential }, sdk);
}

export class AzureKeyVaultProvider implements KeyProvider {
  readonly kind = kind;
  readonly #options: AzureKeyVaultOptions & { credential: TokenCredential };
  readonly #sdk: typeof import('@azure/keyvault-keys');
  readonly #keyId: string;
  #closed = false;

  constructor(
    options: AzureKeyVaultOptions & { credential: TokenCredential },
    sdk: typeof import('@azure/keyvault-keys'),
  ) {
    this.#options = options;
    this.#sdk = sdk;
    this.#keyId = `${options.vaultUrl}/keys/${options.keyName}`;
  }

  async wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey> {
    this.#requireOpen();
    const plaintext = key.bytes;
    const data = contextData(context);
    using once = SecretKey.generate();
    const answer = await this.#call(this.#keyId, (client, abortSignal) =>
      client.wrapKey(wrapAlgorithm, once.bytes, { abortSignal }),
    );
    const version = this.#versionOf(answer.keyID);
    if (version === undefined || answer.result.length === 0) {
      throw new KeyProviderError(kind, 'unavailable', 'Azure Key Vault did not say which key');
    }
    const length = Buffer.alloc(lengthBytes);
    length.writeUInt16BE(answer.result.length);
    return {
      provider: kind,
      keyId: this.#keyId,
      version,
      bytes: Buffer.concat([length, answer.result, seal(once, plaintext, data)]),
    };
  }

  async unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey> {
    this.#requireOpen();
    requireWrappedBy(kind, wrapped);
    if (wrapped.keyId !== this.#keyId) {
      throw new KeyProviderError(
        kind,
        'wrong_key',
        `the key was wrapped with ${wrapped.keyId.slice(0, 300)}, and ${this.#keyId} is configured`,
      );
    }
    if (!versionPattern.test(wrapped.version)) {
      throw new KeyProviderError(kind, 'corrupt', 'the version of the wrapping key is none');
    }
    const bytes = Buffer.from(wrapped.bytes);
    const length = bytes.length < lengthBytes ? 0 : bytes.readUInt16BE();
    if (length === 0 || bytes.length <= lengthBytes + length) {
      throw new KeyProviderError(kind, 'corrupt', 'the wrapped key is cut off');
    }
    const answer = await this.#call(`${this.#keyId}/${wrapped.version}`, (client, abortSignal) =>
      client.unwrapKey(wrapAlgorithm, bytes.subarray(lengthBytes, lengthBytes + length), {
        abortSignal,
      }),
    );
    using once = takeKey(kind, answer.result);
    return openKey(kind, once, bytes.subarray(lengthBytes + length), contextData(context));
  }

  describe(): KeyProviderDescription {
    return { kind, keyId: this.#options.keyName, location: this.#options.vaultUrl };
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #call<T>(
    keyId: string,
    work: (client: CryptographyClient, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { credential, certificateAuthority, trustAnyVaultName, call } = this.#options;
    const clientOptions: CryptographyClientOptions = {
      // One place decides about tries.
      retryOptions: { maxRetries: 0 },
      disableChallengeResourceVerification: trustAnyVaultName === true,
      ...(certificateAuthority === undefined ? {} : { tlsOptions: { ca: certificateAuthority } }),
    };
    return callRemote(
      kind,
      call,
      // A new client each time: it remembers the key's version, and rotation is to be seen.
      (signal) => work(new this.#sdk.CryptographyClient(keyId, credential, clientOptions), signal),
      (error) => this.#explain(error),
    );
  }

  #versionOf(keyId: string | undefined): string | undefined {
    if (!keyId?.startsWith(`${this.#keyId}/`)) return undefined;
    const version = keyId.slice(this.#keyId.length + 1);
    return versionPattern.test(version) ? version : undefined;
  }

  #requireOpen(): void {
    if (this.#closed) throw closedProvider(kind);
  }

  #explain(error: unknown): RemoteFailure {
    const network = networkErrorCode(error);
    if (network !== undefined) {
      return { reason: 'unavailable', message: `Azure Key Vault is not reached: ${network}` };
    }
    const {
      name,
      statusCode,
      code,
      details,
      response,
      message = '',
    } = error as {
      name?: string;
      statusCode?: number;
      code?: string;
      /** As the SDK writes what the service calls `innererror`. */
      details?: { error?: { code?: string; innerError?: { code?: string } } };
      response?: { headers?: { get(name: string): string | undefined } };
      message?: string;
    };
    const inner = details?.error?.innerError?.code;
    const outer = details?.error?.code ?? code;
    const waitMs = retryAfterMs(response?.headers?.get('retry-after'));
    const reason =
      reasons[inner ?? ''] ??
      reasons[outer ?? ''] ??
      reasons[name ?? ''] ??
      reasonOfStatus(statusCode, message);
    return {
      reason,
      message: `Azure Key Vault refused for ${this.#keyId}: ${inner ?? outer ?? statusCode ?? name}`,
      ...(waitMs === undefined ? {} : { retryAfterMs: waitMs }),
    };
  }
}

const versionPattern = /^[0-9a-f]{32}$/;

function parseVaultUrl(text: string): string {
  const url = URL.parse(text);
  if (
    url === null ||
    url.protocol !== 'https:' ||
    url.username !== '' ||
    url.search !== '' ||
    (url.pathname !== '/' && url.pathname !== '')
  ) {
    throw new KeyProviderError(
      kind,
      'misconfigured',
      "the vault's address is https://<name>.vault.azure.net",
    );
  }
  return url.origin;
}

function reasonOfStatus(status: number | undefined, message: string): KeyProviderReason {
  if (status === undefined) {
    // The SDK looks at the key before it asks: disabled, not yet valid, expired, or of another kind.
    if (/expired|not yet valid|disabled/i.test(message)) return 'key_disabled';
    return /does not support|not supported|Unsupported/i.test(message)
      ? 'misconfigured'
      : 'unavailable';
  }
  if (status === 429) return 'throttled';
  if (status === 401 || status === 403) return 'denied';
  if (status === 404) return 'key_not_found';
  return status >= 500 || status === 408 ? 'unavailable' : 'misconfigured';
}

/** Codes of Key Vault's error bodies, inner before outer, and the names of the identity library's errors. */
const reasons: Record<string, KeyProviderReason | undefined> = {
  KeyDisabled: 'key_disabled',
  KeyExpired: 'key_disabled',
  KeyNotYetValid: 'key_disabled',
  ObjectIsDeletedButRecoverable: 'key_disabled',
  ObjectIsBeingDeleted: 'key_disabled',
  AccessDenied: 'denied',
  ForbiddenByPolicy: 'denied',
  ForbiddenByFirewall: 'denied',
  ForbiddenByRbac: 'denied',
  Unauthorized: 'denied',
  KeyNotFound: 'key_not_found',
  VaultNotFound: 'key_not_found',
  Throttled: 'throttled',
  // What unwrapping answers for a ciphertext that is none of this key.
  BadParameter: 'corrupt',
  InternalServerError: 'unavailable',
  CredentialUnavailableError: 'denied',
  AuthenticationError: 'denied',
  AuthenticationRequiredError: 'denied',
  AggregateAuthenticationError: 'denied',
};
