/**
 * AWS KMS as its API reference documents it: JSON 1.1 with `X-Amz-Target`, Signature Version 4 verified,
 * errors as `__type` with status 400 or 500.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from 'node:crypto';
import {
  type Answer,
  FakeKeyService,
  type FakeRequest,
  type Fault,
} from './key-service.fixture.ts';

interface FakeKey {
  arn: string;
  bytes: Buffer;
}

export class FakeAwsKms extends FakeKeyService {
  readonly accessKeyId = 'AKIDEXAMPLE';
  readonly secretAccessKey = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY';
  readonly region = 'eu-central-1';
  readonly #keys = new Map<string, FakeKey>();

  addKey(alias: string): string {
    const arn = `arn:aws:kms:${this.region}:111122223333:key/${crypto.randomUUID()}`;
    const key = { arn, bytes: randomBytes(32) };
    this.#keys.set(arn, key);
    this.#keys.set(`alias/${alias}`, key);
    return arn;
  }

  protected isKeyOperation(): boolean {
    return true;
  }

  protected answer(request: FakeRequest): Answer {
    const refused = this.#checkSignature(request);
    if (refused) return refused;
    if (request.headers['content-type'] !== 'application/x-amz-json-1.1') {
      return failure(400, 'ValidationException', 'content type');
    }
    const body = JSON.parse(request.body.toString()) as {
      KeyId: string;
      Plaintext?: string;
      CiphertextBlob?: string;
      EncryptionContext?: Record<string, string>;
    };
    const key = this.#keys.get(body.KeyId);
    if (key === undefined) {
      return body.KeyId.startsWith('arn:') && !body.KeyId.includes(`:${this.region}:`)
        ? failure(400, 'NotFoundException', `Invalid arn ${body.KeyId.split(':')[3]}`)
        : failure(400, 'NotFoundException', `Key '${body.KeyId}' does not exist`);
    }
    const context = Buffer.from(
      JSON.stringify(Object.entries(body.EncryptionContext ?? {}).sort()),
    );
    switch (request.headers['x-amz-target']) {
      case 'TrentService.Encrypt':
        return this.#encrypt(key, Buffer.from(body.Plaintext ?? '', 'base64'), context);
      case 'TrentService.Decrypt':
        return this.#decrypt(key, Buffer.from(body.CiphertextBlob ?? '', 'base64'), context);
      default:
        return failure(400, 'UnknownOperationException', '');
    }
  }

  #encrypt(key: FakeKey, plaintext: Buffer, context: Buffer): Answer {
    if (plaintext.length < 1 || plaintext.length > 4096) {
      return failure(400, 'ValidationException', 'plaintext length');
    }
    const nonce = randomBytes(12);
    const cipher = createCipheriv('aes-256-gcm', key.bytes, nonce).setAAD(context);
    const sealed = Buffer.concat([cipher.update(plaintext), cipher.final()]);
    const arn = Buffer.from(key.arn);
    const blob = Buffer.concat([
      Buffer.from([arn.length]),
      arn,
      nonce,
      sealed,
      cipher.getAuthTag(),
    ]);
    return {
      status: 200,
      body: {
        CiphertextBlob: blob.toString('base64'),
        EncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
        KeyId: key.arn,
      },
    };
  }

  #decrypt(key: FakeKey, blob: Buffer, context: Buffer): Answer {
    const arn = blob.toString('latin1', 1, 1 + (blob[0] ?? 0));
    if (!this.#keys.has(arn)) return failure(400, 'InvalidCiphertextException', '');
    if (arn !== key.arn) {
      return failure(
        400,
        'IncorrectKeyException',
        'The key ID in the request does not identify a CMK that can perform this operation.',
      );
    }
    const rest = blob.subarray(1 + arn.length);
    try {
      const decipher = createDecipheriv('aes-256-gcm', key.bytes, rest.subarray(0, 12), {
        authTagLength: 16,
      }).setAAD(context);
      decipher.setAuthTag(rest.subarray(-16));
      const plaintext = Buffer.concat([decipher.update(rest.subarray(12, -16)), decipher.final()]);
      return {
        status: 200,
        body: {
          KeyId: key.arn,
          Plaintext: plaintext.toString('base64'),
          EncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
        },
      };
    } catch {
      return failure(400, 'InvalidCiphertextException', '');
    }
  }

  protected answerFault(fault: Fault): Answer {
    switch (fault) {
      case 'throttled':
        return failure(
          400,
          'ThrottlingException',
          'You have exceeded the rate at which you may call KMS.',
        );
      case 'denied':
        return failure(
          400,
          'AccessDeniedException',
          'User: arn:aws:iam::111122223333:user/agent is not authorized to perform: kms:Decrypt',
        );
      case 'disabled':
        return failure(400, 'DisabledException', 'key is disabled.');
      case 'not_found':
        return failure(400, 'NotFoundException', 'key does not exist');
      case 'garbage':
        return { status: 200, body: '{"KeyId":"' };
      default:
        return failure(500, 'KMSInternalException', '');
    }
  }

  /** Signature Version 4, as the AWS General Reference describes it. */
  #checkSignature(request: FakeRequest): Answer | undefined {
    const header = request.headers.authorization ?? '';
    const parts =
      /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/kms\/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/.exec(
        header,
      );
    if (!parts) return failure(400, 'MissingAuthenticationTokenException', '');
    const [, accessKeyId, date = '', region = '', signed = '', signature] = parts;
    if (accessKeyId !== this.accessKeyId) {
      return failure(
        400,
        'UnrecognizedClientException',
        'The security token included in the request is invalid.',
      );
    }
    if (region !== this.region) {
      return failure(
        400,
        'InvalidSignatureException',
        `Credential should be scoped to a valid region.`,
      );
    }
    const canonical = [
      request.method,
      request.path,
      request.query,
      ...signed.split(';').map((name) => `${name}:${String(request.headers[name]).trim()}`),
      '',
      signed,
      createHash('sha256').update(request.body).digest('hex'),
    ].join('\n');
    const toSign = [
      'AWS4-HMAC-SHA256',
      request.headers['x-amz-date'],
      `${date}/${region}/kms/aws4_request`,
      createHash('sha256').update(canonical).digest('hex'),
    ].join('\n');
    const key = [date, region, 'kms', 'aws4_request'].reduce<Buffer>(
      (secret, part) => createHmac('sha256', secret).update(part).digest(),
      Buffer.from(`AWS4${this.secretAccessKey}`),
    );
    return createHmac('sha256', key).update(toSign).digest('hex') === signature
      ? undefined
      : failure(
          400,
          'InvalidSignatureException',
          'The request signature we calculated does not match the signature you provided.',
        );
  }
}

function failure(status: number, type: string, message: string): Answer {
  return {
    status,
    body: { __type: type, message },
    headers: { 'content-type': 'application/x-amz-json-1.1' },
  };
}
