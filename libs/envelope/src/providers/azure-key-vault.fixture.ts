/**
 * Azure Key Vault's keys over REST (7.x), with its challenge: a request without a token is told whom to
 * ask. Over TLS, as its SDK speaks nothing else.
 */
import 'reflect-metadata';
import {
  constants,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  privateDecrypt,
  publicEncrypt,
  randomBytes,
  webcrypto,
} from 'node:crypto';
import type { TokenCredential } from '@azure/core-auth';
import {
  cryptoProvider,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
} from '@peculiar/x509';
import {
  type Answer,
  FakeKeyService,
  type FakeRequest,
  type Fault,
} from './key-service.fixture.ts';

interface FakeVersion {
  version: string;
  privateKey: KeyObject;
}

export class FakeAzureKeyVault extends FakeKeyService {
  readonly #keys = new Map<string, FakeVersion[]>();
  readonly #token = randomBytes(16).toString('hex');
  #url = '';

  /** @returns the vault's address and its certificate in PEM */
  async open(): Promise<{ vaultUrl: string; certificate: string }> {
    const tls = await selfSigned();
    this.#url = await this.start(tls);
    return { vaultUrl: this.#url, certificate: tls.cert };
  }

  /** Stands for Microsoft Entra ID, which hands out the token for the scope of the challenge. */
  credential(token = this.#token): TokenCredential {
    return {
      getToken: async (scopes) =>
        [scopes].flat().includes('https://vault.azure.net/.default')
          ? { token, expiresOnTimestamp: Date.now() + 3_600_000 }
          : null,
    };
  }

  /** A new version where the key is there already. */
  addKey(name: string): void {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const version = randomBytes(16).toString('hex');
    this.#keys.set(name, [...(this.#keys.get(name) ?? []), { version, privateKey }]);
  }

  protected isKeyOperation(request: FakeRequest): boolean {
    return request.headers.authorization !== undefined;
  }

  protected answer(request: FakeRequest): Answer {
    const token = request.headers.authorization?.replace(/^Bearer /, '');
    if (token !== this.#token) {
      return {
        ...failure(401, 'Unauthorized', 'AKV10000: Request is missing a Bearer or PoP token.'),
        headers: {
          'www-authenticate':
            'Bearer authorization="https://login.microsoftonline.com/11111111-1111-1111-1111-111111111111", resource="https://vault.azure.net"',
        },
      };
    }
    const [, collection, name = '', versionName = '', verb = ''] = request.path.split('/');
    const versions = collection === 'keys' ? this.#keys.get(name) : undefined;
    const version =
      versionName === ''
        ? versions?.at(-1)
        : versions?.find((candidate) => candidate.version === versionName);
    if (version === undefined) {
      return failure(
        404,
        'KeyNotFound',
        `A key with (name/id) ${name} was not found in this key vault.`,
      );
    }
    const kid = `${this.#url}/keys/${name}/${version.version}`;
    if (request.method === 'GET' && verb === '') {
      const { n, e } = createPublicKey(version.privateKey).export({ format: 'jwk' });
      return {
        status: 200,
        body: {
          key: { kid, kty: 'RSA', key_ops: ['wrapKey', 'unwrapKey'], n, e },
          attributes: { enabled: true, created: 1, updated: 1, recoveryLevel: 'Recoverable' },
        },
      };
    }
    const body = JSON.parse(request.body.toString()) as { alg: string; value: string };
    if (body.alg !== 'RSA-OAEP-256') {
      return failure(400, 'BadParameter', 'Algorithm is not supported for this key type');
    }
    const padding = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' };
    const value = Buffer.from(body.value, 'base64url');
    try {
      const result =
        verb === 'wrapkey'
          ? publicEncrypt({ key: createPublicKey(version.privateKey), ...padding }, value)
          : privateDecrypt({ key: version.privateKey, ...padding }, value);
      return { status: 200, body: { kid, value: result.toString('base64url') } };
    } catch {
      return failure(400, 'BadParameter', 'The parameter is incorrect.');
    }
  }

  protected answerFault(fault: Fault): Answer {
    switch (fault) {
      case 'throttled':
        return failure(
          429,
          'Throttled',
          'Request was not processed because too many requests were received.',
        );
      case 'denied':
        return failure(
          403,
          'Forbidden',
          'The user, group or application does not have keys unwrapKey permission on key vault',
          'AccessDenied',
        );
      case 'disabled':
        return failure(
          403,
          'Forbidden',
          'Operation unwrapKey is not allowed on a disabled key.',
          'KeyDisabled',
        );
      case 'not_found':
        return failure(404, 'KeyNotFound', 'A key was not found in this key vault.');
      case 'garbage':
        return { status: 200, body: '{"kid":"elsewhere","value":"AAAA","key":{"kty":"RSA"}}' };
      default:
        return failure(503, 'ServiceUnavailable', 'The service is unavailable.');
    }
  }
}

function failure(status: number, code: string, message: string, inner?: string): Answer {
  const innererror = inner === undefined ? {} : { innererror: { code: inner } };
  return { status, body: { error: { code, message, ...innererror } } };
}

async function selfSigned(): Promise<{ key: string; cert: string }> {
  cryptoProvider.set(webcrypto);
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: 'CN=vault',
    notBefore: new Date(Date.now() - 60_000),
    notAfter: new Date(Date.now() + 3_600_000),
    keys,
    signingAlgorithm: algorithm,
    extensions: [new SubjectAlternativeNameExtension([{ type: 'ip', value: '127.0.0.1' }])],
  });
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
  return {
    key: `-----BEGIN PRIVATE KEY-----\n${pkcs8.toString('base64')}\n-----END PRIVATE KEY-----\n`,
    cert: certificate.toString('pem'),
  };
}
