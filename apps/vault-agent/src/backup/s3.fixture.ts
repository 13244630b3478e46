/**
 * S3 as its API reference documents it, as far as backups use it: objects, multipart uploads, listings in
 * pages, XML errors, Signature Version 4 verified.
 */
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

interface PendingUpload {
  key: string;
  parts: Map<number, Buffer>;
}

export type S3Fault = 'slow_down' | 'internal' | 'denied' | 'reset' | 'silent' | 'quota' | 'lost';

const minPartBytes = 5 * 1_024 * 1_024;

export class FakeS3 {
  readonly bucket = 'backups';
  readonly region = 'eu-central-1';
  readonly credentials = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'a/secret+key' };
  readonly objects = new Map<string, Buffer>();
  readonly uploads = new Map<string, PendingUpload>();
  /** Small, so that paging happens. */
  pageSize = 3;
  requests = 0;
  parts = 0;
  #fault: { fault: S3Fault; times: number; method?: string | undefined } | undefined;
  readonly #held = new Set<ServerResponse>();
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      this.#handle(request, response).catch(() => response.destroy());
    });
  }

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  fail(fault: S3Fault, times = Number.POSITIVE_INFINITY, method?: string): void {
    this.#fault = { fault, times, method };
    this.requests = 0;
  }

  recover(): void {
    this.#fault = undefined;
    for (const response of this.#held) response.destroy();
    this.#held.clear();
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    this.requests += 1;
    const url = new URL(request.url ?? '/', 'http://fake');
    const refusal = this.#checkSignature(request, url, body);
    if (refusal) return error(response, 403, refusal);
    if (this.#applyFault(request, response)) return;
    const [, bucket, ...rest] = url.pathname.split('/');
    if (bucket !== this.bucket) return error(response, 404, 'NoSuchBucket');
    const key = decodeURIComponent(rest.join('/'));
    const query = url.searchParams;
    if (key === '') {
      if (query.has('uploads')) return this.#listUploads(response, query);
      return this.#list(response, query);
    }
    const uploadId = query.get('uploadId');
    switch (request.method) {
      case 'PUT':
        if (uploadId !== null) return this.#putPart(response, uploadId, query, body);
        this.objects.set(key, body);
        return answer(response, 200, '', { etag: etag(body) });
      case 'POST':
        if (query.has('uploads')) return this.#begin(response, key);
        return this.#complete(response, uploadId ?? '', body);
      case 'DELETE':
        if (uploadId !== null) {
          if (!this.uploads.delete(uploadId)) return error(response, 404, 'NoSuchUpload');
        } else this.objects.delete(key);
        return answer(response, 204, '');
      default: {
        const found = this.objects.get(key);
        if (found === undefined) return error(response, 404, 'NoSuchKey', request.method);
        response.writeHead(200, { 'content-length': found.length, etag: etag(found) });
        response.end(request.method === 'HEAD' ? undefined : found);
      }
    }
  }

  #begin(response: ServerResponse, key: string): void {
    const uploadId = randomBytes(8).toString('hex');
    this.uploads.set(uploadId, { key, parts: new Map() });
    answer(
      response,
      200,
      `<InitiateMultipartUploadResult><Bucket>${this.bucket}</Bucket><Key>${key}</Key><UploadId>${uploadId}</UploadId></InitiateMultipartUploadResult>`,
    );
  }

  #putPart(response: ServerResponse, id: string, query: URLSearchParams, body: Buffer) {
    const upload = this.uploads.get(id);
    if (upload === undefined) return error(response, 404, 'NoSuchUpload');
    this.parts += 1;
    upload.parts.set(Number(query.get('partNumber')), body);
    answer(response, 200, '', { etag: etag(body) });
  }

  #complete(response: ServerResponse, id: string, body: Buffer) {
    const upload = this.uploads.get(id);
    if (upload === undefined) return error(response, 404, 'NoSuchUpload');
    const named = [
      ...body
        .toString()
        .matchAll(/<Part>(?=.*?<PartNumber>(\d+))(?=.*?<ETag>(.*?)<\/ETag>).*?<\/Part>/gs),
    ].map(([, number, tag]) => ({ number: Number(number), tag: tag?.replaceAll('&quot;', '"') }));
    const bodies: Buffer[] = [];
    for (const [index, { number, tag }] of named.entries()) {
      const part = upload.parts.get(number);
      if (part === undefined || etag(part) !== tag) return error(response, 400, 'InvalidPart');
      if (index > 0 && number <= (named[index - 1]?.number ?? 0)) {
        return error(response, 400, 'InvalidPartOrder');
      }
      if (index < named.length - 1 && part.length < minPartBytes) {
        return error(response, 400, 'EntityTooSmall');
      }
      bodies.push(part);
    }
    this.objects.set(upload.key, Buffer.concat(bodies));
    this.uploads.delete(id);
    answer(
      response,
      200,
      `<CompleteMultipartUploadResult><Bucket>${this.bucket}</Bucket><Key>${upload.key}</Key><ETag>"x-${named.length}"</ETag></CompleteMultipartUploadResult>`,
    );
  }

  #list(response: ServerResponse, query: URLSearchParams): void {
    const prefix = query.get('prefix') ?? '';
    const after = query.get('continuation-token') ?? '';
    const keys = [...this.objects.keys()]
      .filter((key) => key.startsWith(prefix) && key > after)
      .filter((key) => query.get('delimiter') !== '/' || !key.slice(prefix.length).includes('/'))
      .sort();
    const page = keys.slice(0, this.pageSize);
    const isTruncated = keys.length > page.length;
    answer(
      response,
      200,
      `<ListBucketResult><Name>${this.bucket}</Name><IsTruncated>${isTruncated}</IsTruncated>${page
        .map(
          (key) =>
            `<Contents><Key>${key}</Key><Size>${this.objects.get(key)?.length}</Size></Contents>`,
        )
        .join(
          '',
        )}${isTruncated ? `<NextContinuationToken>${page.at(-1)}</NextContinuationToken>` : ''}</ListBucketResult>`,
    );
  }

  #listUploads(response: ServerResponse, query: URLSearchParams): void {
    const prefix = query.get('prefix') ?? '';
    const uploads = [...this.uploads].filter(([, { key }]) => key.startsWith(prefix));
    answer(
      response,
      200,
      `<ListMultipartUploadsResult><Bucket>${this.bucket}</Bucket><IsTruncated>false</IsTruncated>${uploads
        .map(([id, { key }]) => `<Upload><Key>${key}</Key><UploadId>${id}</UploadId></Upload>`)
        .join('')}</ListMultipartUploadsResult>`,
    );
  }

  #applyFault(request: IncomingMessage, response: ServerResponse): boolean {
    const fault = this.#fault;
    if (fault === undefined || fault.times < 1) return false;
    if (fault.method !== undefined && fault.method !== request.method) return false;
    fault.times -= 1;
    switch (fault.fault) {
      case 'slow_down':
        error(response, 503, 'SlowDown');
        break;
      case 'internal':
        error(response, 500, 'InternalError');
        break;
      case 'denied':
        error(response, 403, 'AccessDenied', request.method);
        break;
      case 'quota':
        error(response, 403, 'QuotaExceeded');
        break;
      case 'reset':
        request.socket.destroy();
        break;
      case 'lost':
        // Says that it kept the object, and did not.
        answer(response, 200, '', { etag: '"lost"' });
        break;
      case 'silent':
        this.#held.add(response);
        break;
    }
    return true;
  }

  /** The code of the error, if it is not signed as it should be. */
  #checkSignature(request: IncomingMessage, url: URL, body: Buffer): string | undefined {
    const parts =
      /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(
        request.headers.authorization ?? '',
      );
    if (!parts) return 'AccessDenied';
    const [, accessKeyId, date = '', region = '', signed = '', signature] = parts;
    if (accessKeyId !== this.credentials.accessKeyId) return 'InvalidAccessKeyId';
    if (region !== this.region) return 'AuthorizationHeaderMalformed';
    const declared = String(request.headers['x-amz-content-sha256']);
    const actual = createHash('sha256').update(body).digest('hex');
    if (declared !== 'UNSIGNED-PAYLOAD' && declared !== actual) return 'XAmzContentSHA256Mismatch';
    const encode = (text: string) =>
      encodeURIComponent(text).replace(
        /[!'()*]/g,
        (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`,
      );
    const query = [...url.searchParams]
      .map(([name, value]) => `${encode(name)}=${encode(value)}`)
      .sort()
      .join('&');
    const canonical = [
      request.method,
      url.pathname,
      query,
      ...signed.split(';').map((name) => `${name}:${String(request.headers[name]).trim()}`),
      '',
      signed,
      declared,
    ].join('\n');
    const toSign = [
      'AWS4-HMAC-SHA256',
      request.headers['x-amz-date'],
      `${date}/${region}/s3/aws4_request`,
      createHash('sha256').update(canonical).digest('hex'),
    ].join('\n');
    const key = [date, region, 's3', 'aws4_request'].reduce<Buffer>(
      (secret, part) => createHmac('sha256', secret).update(part).digest(),
      Buffer.from(`AWS4${this.credentials.secretAccessKey}`),
    );
    const expected = createHmac('sha256', key).update(toSign).digest('hex');
    return expected === signature ? undefined : 'SignatureDoesNotMatch';
  }
}

function etag(body: Buffer): string {
  return `"${createHash('md5').update(body).digest('hex')}"`;
}

function answer(
  response: ServerResponse,
  status: number,
  xml: string,
  headers: Record<string, string> = {},
): void {
  const body = xml === '' ? '' : `<?xml version="1.0" encoding="UTF-8"?>${xml}`;
  response.writeHead(status, { 'content-type': 'application/xml', ...headers });
  response.end(body);
}

function error(response: ServerResponse, status: number, code: string, method?: string): void {
  if (method === 'HEAD') {
    response.writeHead(status);
    response.end();
    return;
  }
  answer(
    response,
    status,
    `<Error><Code>${code}</Code><Message>${code}</Message><RequestId>x</RequestId></Error>`,
  );
}
