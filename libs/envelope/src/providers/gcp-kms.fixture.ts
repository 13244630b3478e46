/**
 * Google Cloud KMS v1 over REST, and the Security Token Service that workload identity federation signs
 * in with (RFC 8693): an outside token from a file becomes an access token.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32c } from './crc32c.ts';
import {
  type Answer,
  FakeKeyService,
  type FakeRequest,
  type Fault,
} from './key-service.fixture.ts';

export class FakeGcpKms extends FakeKeyService {
  readonly #keys = new Map<string, Buffer>();
  readonly #accessTokens = new Set<string>();
  /** Says of a transfer that it was damaged, as the real one does when its checksum differs. */
  damages = false;

  addKey(name: string): string {
    const keyName = `projects/p/locations/europe-west3/keyRings/r/cryptoKeys/${name}`;
    this.#keys.set(keyName, randomBytes(32));
    return keyName;
  }

  /** A credential configuration as `gcloud iam workload-identity-pools create-cred-config` writes it. */
  writeKeyFile(folder: string, endpoint: string, subjectToken = 'outside token'): string {
    const tokenFile = join(folder, `${randomBytes(4).toString('hex')}.token`);
    writeFileSync(tokenFile, subjectToken);
    const file = join(folder, `${randomBytes(4).toString('hex')}.json`);
    writeFileSync(
      file,
      JSON.stringify({
        type: 'external_account',
        audience:
          '//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q',
        subject_token_type: 'urn:ietf:params:oauth:token-type:jwt',
        token_url: `${endpoint}/v1/token`,
        credential_source: { file: tokenFile },
      }),
    );
    return file;
  }

  protected isKeyOperation(request: FakeRequest): boolean {
    return request.path !== '/v1/token';
  }

  protected answer(request: FakeRequest): Answer {
    if (request.path === '/v1/token') return this.#token(request);
    const token = request.headers.authorization?.replace(/^Bearer /, '') ?? '';
    if (!this.#accessTokens.has(token)) {
      return failure(401, 'UNAUTHENTICATED', 'Request had invalid authentication credentials.');
    }
    const parts = /^\/v1\/(.+):(encrypt|decrypt)$/.exec(decodeURI(request.path));
    const keyName = parts?.[1] ?? '';
    const key = this.#keys.get(keyName);
    if (key === undefined) return failure(404, 'NOT_FOUND', `CryptoKey ${keyName} not found.`);
    const body = JSON.parse(request.body.toString()) as Record<string, string | undefined>;
    for (const field of ['plaintext', 'ciphertext', 'additionalAuthenticatedData']) {
      const checksum = body[`${field}Crc32c`];
      const bytes = Buffer.from(body[field] ?? '', 'base64');
      if (checksum !== undefined && checksum !== String(crc32c(bytes))) {
        return failure(400, 'INVALID_ARGUMENT', `The checksum in field ${field}_crc32c is wrong.`);
      }
    }
    const data = Buffer.from(body.additionalAuthenticatedData ?? '', 'base64');
    return parts?.[2] === 'encrypt'
      ? this.#encrypt(keyName, key, Buffer.from(body.plaintext ?? '', 'base64'), data)
      : this.#decrypt(key, Buffer.from(body.ciphertext ?? '', 'base64'), data);
  }

  #token(request: FakeRequest): Answer {
    const form = new URLSearchParams(request.body.toString());
    if (
      form.get('grant_type') !== 'urn:ietf:params:oauth:grant-type:token-exchange' ||
      form.get('scope') !== 'https://www.googleapis.com/auth/cloudkms'
    ) {
      return { status: 400, body: { error: 'invalid_request' } };
    }
    if (form.get('subject_token') !== 'outside token') {
      return { status: 400, body: { error: 'invalid_grant', error_description: 'not valid' } };
    }
    const token = randomBytes(16).toString('hex');
    this.#accessTokens.add(token);
    return {
      status: 200,
      body: {
        access_token: token,
        issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
        token_type: 'Bearer',
        expires_in: 3600,
      },
    };
  }

  #encrypt(keyName: string, key: Buffer, plaintext: Buffer, data: Buffer): Answer {
    const nonce = randomBytes(12);
    const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(data);
    const sealed = Buffer.concat([cipher.update(plaintext), cipher.final()]);
    const ciphertext = Buffer.concat([nonce, sealed, cipher.getAuthTag()]);
    return {
      status: 200,
      body: {
        name: `${keyName}/cryptoKeyVersions/3`,
        ciphertext: ciphertext.toString('base64'),
        ciphertextCrc32c: String(this.damages ? 1 : crc32c(ciphertext)),
        verifiedPlaintextCrc32c: true,
        verifiedAdditionalAuthenticatedDataCrc32c: true,
        protectionLevel: 'SOFTWARE',
      },
    };
  }

  #decrypt(key: Buffer, ciphertext: Buffer, data: Buffer): Answer {
    try {
      const decipher = createDecipheriv('aes-256-gcm', key, ciphertext.subarray(0, 12), {
        authTagLength: 16,
      }).setAAD(data);
      decipher.setAuthTag(ciphertext.subarray(-16));
      const plaintext = Buffer.concat([
        decipher.update(ciphertext.subarray(12, -16)),
        decipher.final(),
      ]);
      return {
        status: 200,
        body: {
          plaintext: plaintext.toString('base64'),
          plaintextCrc32c: String(this.damages ? 1 : crc32c(plaintext)),
          usedPrimary: true,
          protectionLevel: 'SOFTWARE',
        },
      };
    } catch {
      return failure(
        400,
        'INVALID_ARGUMENT',
        "Decryption failed: verify that 'name' refers to the correct CryptoKey.",
      );
    }
  }

  protected answerFault(fault: Fault): Answer {
    switch (fault) {
      case 'throttled':
        return failure(429, 'RESOURCE_EXHAUSTED', 'Quota exceeded for quota metric');
      case 'denied':
        return failure(
          403,
          'PERMISSION_DENIED',
          "Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied on resource",
        );
      case 'disabled':
        return failure(400, 'FAILED_PRECONDITION', 'is not enabled, current state is: DISABLED.');
      case 'not_found':
        return failure(404, 'NOT_FOUND', 'CryptoKey not found.');
      case 'garbage':
        return { status: 200, body: '{"ciphertext":"AAAA"}' };
      default:
        return failure(503, 'UNAVAILABLE', 'The service is currently unavailable.');
    }
  }
}

function failure(code: number, status: string, message: string): Answer {
  return { status: code, body: { error: { code, message, status } } };
}
