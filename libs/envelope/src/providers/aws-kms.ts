/**
 * AWS KMS: `Encrypt` and `Decrypt` under one symmetric key, with the context as encryption context, so
 * that CloudTrail shows what was unwrapped and key policies can demand it. Decrypting names the
 * configured key, never the one that the ciphertext names: another account's key is refused.
 */
import type { KMSClient } from '@aws-sdk/client-kms';
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
import type { SecretKey } from '../secret-key.ts';
import { closedProvider, takeKey } from './local-key.ts';
import {
  callRemote,
  networkErrorCode,
  type RemoteCallOptions,
  type RemoteFailure,
  retryAfterMs,
} from './remote-call.ts';

const kind = 'aws-kms';
const formVersion = '1';

export interface AwsKmsOptions {
  /** A key's id, ARN, or alias (`alias/…`). */
  keyId: string;
  region: string;
  /** Another address of the service: a VPC endpoint, a simulator. */
  endpoint?: string;
  /** Without, the SDK looks where it always does: environment, profile, container, instance. */
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string };
  call?: RemoteCallOptions;
}

/** Loads the SDK; the service itself is asked only by `wrap` and `unwrap`. */
export async function openAwsKms(options: AwsKmsOptions): Promise<AwsKmsProvider> {
  const sdk = await import('@aws-sdk/client-kms');
  const client = new sdk.KMSClient({
    region: options.region,
    // One place decides about tries.
    maxAttempts: 1,
    ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
  });
  return new AwsKmsProvider(options, sdk, client);
}

export class AwsKmsProvider implements KeyProvider {
  readonly kind = kind;
  readonly #options: AwsKmsOptions;
  readonly #sdk: typeof import('@aws-sdk/client-kms');
  #client: KMSClient | undefined;

  constructor(
    options: AwsKmsOptions,
    sdk: typeof import('@aws-sdk/client-kms'),
    client: KMSClient,
  ) {
    this.#options = options;
    this.#sdk = sdk;
    this.#client = client;
  }

  async wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey> {
    const client = this.#open();
    const plaintext = key.bytes;
    contextData(context);
    const answer = await callRemote(
      kind,
      this.#options.call,
      (abortSignal) =>
        client.send(
          new this.#sdk.EncryptCommand({
            KeyId: this.#options.keyId,
            Plaintext: plaintext,
            EncryptionContext: { ...context },
          }),
          { abortSignal },
        ),
      (error) => this.#explain(error),
    );
    if (answer.CiphertextBlob === undefined || answer.KeyId === undefined) {
      throw new KeyProviderError(kind, 'unavailable', 'AWS KMS answered without a ciphertext');
    }
    return {
      provider: kind,
      keyId: answer.KeyId,
      version: formVersion,
      bytes: answer.CiphertextBlob,
    };
  }

  async unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey> {
    const client = this.#open();
    requireWrappedBy(kind, wrapped, formVersion);
    contextData(context);
    const answer = await callRemote(
      kind,
      this.#options.call,
      (abortSignal) =>
        client.send(
          new this.#sdk.DecryptCommand({
            KeyId: this.#options.keyId,
            CiphertextBlob: wrapped.bytes,
            EncryptionContext: { ...context },
          }),
          { abortSignal },
        ),
      (error) => this.#explain(error),
    );
    if (answer.Plaintext === undefined) {
      throw new KeyProviderError(kind, 'unavailable', 'AWS KMS answered without a plaintext');
    }
    return takeKey(kind, answer.Plaintext);
  }

  describe(): KeyProviderDescription {
    const { keyId, region, endpoint } = this.#options;
    return { kind, keyId, location: endpoint ?? `AWS KMS in ${region}` };
  }

  async close(): Promise<void> {
    this.#client?.destroy();
    this.#client = undefined;
  }

  #open(): KMSClient {
    if (this.#client === undefined) throw closedProvider(kind);
    return this.#client;
  }

  #explain(error: unknown): RemoteFailure {
    const { name, $metadata, $response } = error as {
      name?: string;
      $metadata?: { httpStatusCode?: number };
      $response?: { headers?: Record<string, string> };
    };
    const where = `AWS KMS in ${this.#options.region}`;
    const network = networkErrorCode(error);
    if (network !== undefined) {
      return { reason: 'unavailable', message: `${where} is not reached: ${network}` };
    }
    const status = $metadata?.httpStatusCode;
    const known = reasons[name ?? ''];
    const waitMs = retryAfterMs($response?.headers?.['retry-after']);
    const ofStatus: KeyProviderReason =
      status === 429 ? 'throttled' : status === 401 || status === 403 ? 'denied' : 'unavailable';
    return {
      reason: known ?? ofStatus,
      message: `${where} refused for key ${this.#options.keyId}: ${name ?? 'unknown error'}`,
      ...(waitMs === undefined ? {} : { retryAfterMs: waitMs }),
    };
  }
}

/** The errors of `Encrypt` and `Decrypt` and those common to all actions (AWS KMS API reference). */
const reasons: Record<string, KeyProviderReason | undefined> = {
  ThrottlingException: 'throttled',
  Throttling: 'throttled',
  RequestLimitExceeded: 'throttled',
  TooManyRequestsException: 'throttled',
  LimitExceededException: 'throttled',
  AccessDeniedException: 'denied',
  UnrecognizedClientException: 'denied',
  InvalidSignatureException: 'denied',
  IncompleteSignature: 'denied',
  IncompleteSignatureException: 'denied',
  MissingAuthenticationTokenException: 'denied',
  ExpiredTokenException: 'denied',
  InvalidClientTokenId: 'denied',
  NotAuthorized: 'denied',
  OptInRequired: 'denied',
  CredentialsProviderError: 'denied',
  NotFoundException: 'key_not_found',
  DisabledException: 'key_disabled',
  KMSInvalidStateException: 'key_disabled',
  InvalidKeyUsageException: 'misconfigured',
  InvalidGrantTokenException: 'misconfigured',
  ValidationException: 'misconfigured',
  ValidationError: 'misconfigured',
  InvalidArnException: 'misconfigured',
  UnknownOperationException: 'misconfigured',
  InvalidCiphertextException: 'corrupt',
  IncorrectKeyException: 'wrong_key',
  KeyUnavailableException: 'unavailable',
  DependencyTimeoutException: 'unavailable',
  KMSInternalException: 'unavailable',
  InternalFailure: 'unavailable',
  ServiceUnavailable: 'unavailable',
  TimeoutError: 'timed_out',
};
