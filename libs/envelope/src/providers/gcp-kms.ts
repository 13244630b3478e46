/**
 * Google Cloud KMS: `cryptoKeys.encrypt` and `.decrypt` over REST, with the context as additional
 * authenticated data and CRC-32C both ways, as Google asks for: what was damaged on the way is noticed.
 */
import { readFileSync } from 'node:fs';
import type { AuthClient, AwsClient, GoogleAuth, IdentityPoolClient } from 'google-auth-library';
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
import { crc32c } from './crc32c.ts';
import { closedProvider, takeKey } from './local-key.ts';
import {
  callRemote,
  networkErrorCode,
  type RemoteCallOptions,
  type RemoteFailure,
  retryAfterMs,
} from './remote-call.ts';

const kind = 'gcp-kms';

export interface GcpKmsOptions {
  /** `projects/…/locations/…/keyRings/…/cryptoKeys/…` */
  keyName: string;
  /** Another address of the service: a regional endpoint, a simulator. */
  endpoint?: string;
  /** A service account's or a workload identity's file; without, application default credentials. */
  keyFile?: string;
  call?: RemoteCallOptions;
}

const scopes = ['https://www.googleapis.com/auth/cloudkms'];
type CredentialFile = Record<string, string | undefined> & { credential_source?: unknown };

const defaultEndpoint = 'https://cloudkms.googleapis.com';
const keyNamePattern = /^projects\/[^/]+\/locations\/[^/]+\/keyRings\/[^/]+\/cryptoKeys\/[^/]+$/;

interface EncryptAnswer {
  name?: string;
  ciphertext?: string;
  ciphertextCrc32c?: string;
  verifiedPlaintextCrc32c?: boolean;
  verifiedAdditionalAuthenticatedDataCrc32c?: boolean;
}

interface DecryptAnswer {
  plaintext?: string;
  plaintextCrc32c?: string;
}

/** @throws KeyProviderError where the name is none of a key */
export async function openGcpKms(options: GcpKmsOptions): Promise<GcpKmsProvider> {
  if (!keyNamePattern.test(options.keyName)) {
    throw new KeyProviderError(
      kind,
      'misconfigured',
      'the key is named projects/…/locations/…/keyRings/…/cryptoKeys/…, without a version',
    );
  }
  const sdk = await import('google-auth-library');
  const auth =
    options.keyFile === undefined
      ? new sdk.GoogleAuth({ scopes })
      : new sdk.GoogleAuth({ authClient: readCredentials(sdk, options.keyFile) });
  return new GcpKmsProvider(options, auth);
}

/** The kinds of credential file that Google hands out. @throws KeyProviderError */
function readCredentials(sdk: typeof import('google-auth-library'), file: string): AuthClient {
  const refuse = (reason: KeyProviderReason, problem: string) =>
    new KeyProviderError(kind, reason, `${file} ${problem}`);
  let content: CredentialFile;
  try {
    content = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw code === undefined
      ? refuse('misconfigured', 'is not JSON')
      : refuse('denied', `cannot be read: ${code}`);
  }
  let client: AuthClient | null = null;
  try {
    client = makeClient(sdk, content);
  } catch (error) {
    throw refuse('misconfigured', `cannot be used: ${(error as Error).name}`);
  }
  if (client === null) throw refuse('misconfigured', 'is no credential file of Google');
  return client;
}

function makeClient(
  sdk: typeof import('google-auth-library'),
  content: CredentialFile,
): AuthClient | null {
  switch (content.type) {
    case 'service_account':
      return new sdk.JWT({
        email: content.client_email ?? '',
        key: content.private_key ?? '',
        keyId: content.private_key_id ?? '',
        scopes,
      });
    case 'authorized_user': {
      const client = new sdk.UserRefreshClient();
      client.fromJSON(content as unknown as Parameters<typeof client.fromJSON>[0]);
      return client;
    }
    case 'external_account': {
      const source = content.credential_source as { environment_id?: string } | undefined;
      // Workload identity: from AWS by a signed request, from elsewhere by a token in a file or at an
      // address. What runs a program is left out: the provider of commands does that.
      const client = source?.environment_id?.startsWith('aws')
        ? new sdk.AwsClient(content as unknown as ConstructorParameters<typeof AwsClient>[0])
        : new sdk.IdentityPoolClient(
            content as unknown as ConstructorParameters<typeof IdentityPoolClient>[0],
          );
      client.scopes = scopes;
      return client;
    }
    default:
      return null;
  }
}

export class GcpKmsProvider implements KeyProvider {
  readonly kind = kind;
  readonly #options: GcpKmsOptions;
  #auth: GoogleAuth | undefined;

  constructor(options: GcpKmsOptions, auth: GoogleAuth) {
    this.#options = options;
    this.#auth = auth;
  }

  async wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey> {
    const data = contextData(context);
    const answer = await this.#call<EncryptAnswer>('encrypt', {
      plaintext: key.bytes.toString('base64'),
      plaintextCrc32c: String(crc32c(key.bytes)),
      additionalAuthenticatedData: data.toString('base64'),
      additionalAuthenticatedDataCrc32c: String(crc32c(data)),
    });
    const bytes = Buffer.from(answer.ciphertext ?? '', 'base64');
    const version = answer.name?.startsWith(`${this.#options.keyName}/cryptoKeyVersions/`)
      ? answer.name.slice(answer.name.lastIndexOf('/') + 1)
      : undefined;
    if (
      version === undefined ||
      bytes.length === 0 ||
      answer.verifiedPlaintextCrc32c !== true ||
      answer.verifiedAdditionalAuthenticatedDataCrc32c !== true ||
      answer.ciphertextCrc32c !== String(crc32c(bytes))
    ) {
      throw damaged();
    }
    return { provider: kind, keyId: this.#options.keyName, version, bytes };
  }

  async unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey> {
    this.#open();
    requireWrappedBy(kind, wrapped);
    if (wrapped.keyId !== this.#options.keyName) {
      throw new KeyProviderError(
        kind,
        'wrong_key',
        `the key was wrapped with ${wrapped.keyId.slice(0, 300)}, and ${this.#options.keyName} is configured`,
      );
    }
    const data = contextData(context);
    const ciphertext = Buffer.from(wrapped.bytes);
    const answer = await this.#call<DecryptAnswer>('decrypt', {
      ciphertext: ciphertext.toString('base64'),
      ciphertextCrc32c: String(crc32c(ciphertext)),
      additionalAuthenticatedData: data.toString('base64'),
      additionalAuthenticatedDataCrc32c: String(crc32c(data)),
    });
    const bytes = Buffer.from(answer.plaintext ?? '', 'base64');
    if (answer.plaintextCrc32c !== String(crc32c(bytes))) {
      bytes.fill(0);
      throw damaged();
    }
    return takeKey(kind, bytes);
  }

  describe(): KeyProviderDescription {
    return {
      kind,
      keyId: this.#options.keyName,
      location: this.#options.endpoint ?? 'Google Cloud KMS',
    };
  }

  async close(): Promise<void> {
    this.#auth = undefined;
  }

  async #call<Answer>(verb: 'encrypt' | 'decrypt', body: Record<string, string>): Promise<Answer> {
    const auth = this.#open();
    const { keyName, endpoint = defaultEndpoint, call } = this.#options;
    const answer = await callRemote(
      kind,
      call,
      (signal) =>
        auth.request<Answer>({
          url: `${endpoint}/v1/${keyName}:${verb}`,
          method: 'POST',
          data: body,
          responseType: 'json',
          retry: false,
          signal,
        }),
      (error) => this.#explain(error),
    );
    return answer.data;
  }

  #open(): GoogleAuth {
    if (this.#auth === undefined) throw closedProvider(kind);
    return this.#auth;
  }

  #explain(error: unknown): RemoteFailure {
    const network = networkErrorCode(error);
    if (network !== undefined) {
      return { reason: 'unavailable', message: `Google Cloud KMS is not reached: ${network}` };
    }
    const { response, message = '' } = error as {
      response?: {
        status?: number;
        headers?: Headers;
        data?: { error?: { status?: string } | string };
      };
      message?: string;
    };
    if (response === undefined) {
      const noCredentials = /credentials|key ?file|ENOENT|private key/i.test(message);
      return noCredentials
        ? { reason: 'denied', message: 'no usable Google credentials were found' }
        : { reason: 'unavailable', message: 'Google Cloud KMS gave no answer' };
    }
    const problem = response.data?.error;
    // The token endpoint answers in the words of OAuth: a plain text.
    const status = typeof problem === 'string' ? problem : problem?.status;
    const waitMs = retryAfterMs(response.headers?.get('retry-after'));
    return {
      reason: reasons[status ?? ''] ?? reasonOfStatus(response.status ?? 0),
      message: `Google Cloud KMS refused for ${this.#options.keyName}: ${status ?? response.status}`,
      ...(waitMs === undefined ? {} : { retryAfterMs: waitMs }),
    };
  }
}

function damaged(): KeyProviderError {
  return new KeyProviderError(
    kind,
    'unavailable',
    'the answer of Google Cloud KMS was damaged on the way',
  );
}

function reasonOfStatus(status: number): KeyProviderReason {
  if (status === 429) return 'throttled';
  if (status === 401 || status === 403) return 'denied';
  if (status === 404) return 'key_not_found';
  return status >= 500 ? 'unavailable' : 'misconfigured';
}

/** `google.rpc.Code` as Cloud KMS uses it, and OAuth's errors of the token endpoint. */
const reasons: Record<string, KeyProviderReason | undefined> = {
  RESOURCE_EXHAUSTED: 'throttled',
  PERMISSION_DENIED: 'denied',
  UNAUTHENTICATED: 'denied',
  NOT_FOUND: 'key_not_found',
  FAILED_PRECONDITION: 'key_disabled',
  // What decrypting answers for a changed ciphertext and for another context alike.
  INVALID_ARGUMENT: 'corrupt',
  UNAVAILABLE: 'unavailable',
  INTERNAL: 'unavailable',
  DEADLINE_EXCEEDED: 'timed_out',
  ABORTED: 'unavailable',
  invalid_grant: 'denied',
  invalid_client: 'denied',
  unauthorized_client: 'denied',
};
