/**
 * A bucket of S3, or of what speaks like it: MinIO, Ceph, R2 by `endpoint` and `path_style`. An object is
 * there when its upload is complete, so nothing has to be renamed; parts of uploads that were not finished
 * cost money and are removed.
 */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import type { ListMultipartUploadsCommandOutput, S3Client } from '@aws-sdk/client-s3';
import { backupLimits as limits } from './backup-limits.ts';
import {
  type BackupDestination,
  DestinationError,
  type DestinationReason,
  isBackupFileName,
  requireFileName,
  type StoredFile,
} from './destination.ts';

export interface S3Options {
  bucket: string;
  region: string;
  /** Put before every name, with a `/` between. */
  prefix?: string | undefined;
  endpoint?: string | undefined;
  /** `https://host/bucket/key` instead of `https://bucket.host/key`. */
  pathStyle?: boolean | undefined;
  /** Without, the SDK looks where it always does: environment, profile, container, instance. */
  credentials?: { accessKeyId: string; secretAccessKey: string } | undefined;
  maxAttempts?: number;
  idleTimeoutMs?: number;
}

type Sdk = typeof import('@aws-sdk/client-s3');

export async function openS3(options: S3Options): Promise<S3Destination> {
  const sdk = await import('@aws-sdk/client-s3');
  const client = new sdk.S3Client({
    region: options.region,
    forcePathStyle: options.pathStyle ?? false,
    maxAttempts: options.maxAttempts ?? 4,
    // Others than AWS do not know the newer checksums. The content is sealed: what is damaged shows.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: {
      connectionTimeout: limits.connectTimeoutMs,
      requestTimeout: options.idleTimeoutMs ?? limits.idleTimeoutMs,
      throwOnRequestTimeout: true,
    },
    ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
  });
  return new S3Destination(options, sdk, client);
}

export class S3Destination implements BackupDestination {
  readonly label: string;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #sdk: Sdk;
  readonly #client: S3Client;

  constructor(options: S3Options, sdk: Sdk, client: S3Client) {
    const prefix = (options.prefix ?? '').replaceAll(/^\/+|\/+$/g, '');
    this.#bucket = options.bucket;
    this.#prefix = prefix === '' ? '' : `${prefix}/`;
    this.label = `s3:${options.bucket}${prefix === '' ? '' : `/${prefix}`}`;
    this.#sdk = sdk;
    this.#client = client;
  }

  async put(name: string, file: string, signal: AbortSignal): Promise<void> {
    const target = this.#object(name);
    await this.#explained(async () => {
      const { size } = await stat(file);
      const { Upload } = await import('@aws-sdk/lib-storage');
      const abortController = new AbortController();
      const abort = () => abortController.abort();
      signal.addEventListener('abort', abort, { once: true });
      signal.throwIfAborted();
      const source = createReadStream(file, { highWaterMark: 1_024 * 1_024 });
      try {
        await new Upload({
          client: this.#client,
          params: { ...target, Body: source, ContentType: 'application/octet-stream' },
          partSize: limits.s3PartBytes,
          queueSize: limits.s3PartsAtOnce,
          leavePartsOnError: false,
          abortController,
        }).done();
      } finally {
        signal.removeEventListener('abort', abort);
        source.destroy();
      }
      const head = new this.#sdk.HeadObjectCommand(target);
      const { ContentLength } = await this.#client.send(head, { abortSignal: signal });
      if (ContentLength !== size) {
        throw new DestinationError(
          this.label,
          'unavailable',
          `kept ${ContentLength} of ${size} bytes`,
        );
      }
    }, signal);
  }

  async read(name: string, signal: AbortSignal): Promise<Readable> {
    const target = this.#object(name);
    return this.#explained(async () => {
      const command = new this.#sdk.GetObjectCommand(target);
      const { Body } = await this.#client.send(command, { abortSignal: signal });
      if (Body === undefined) throw new DestinationError(this.label, 'unavailable', 'is empty');
      return Body as Readable;
    }, signal);
  }

  async list(signal: AbortSignal): Promise<StoredFile[]> {
    return this.#explained(async () => {
      const files: StoredFile[] = [];
      let token: string | undefined;
      do {
        const answer = await this.#client.send(
          new this.#sdk.ListObjectsV2Command({
            Bucket: this.#bucket,
            Prefix: this.#prefix,
            Delimiter: '/',
            ContinuationToken: token,
          }),
          { abortSignal: signal },
        );
        for (const { Key = '', Size = 0 } of answer.Contents ?? []) {
          const name = Key.slice(this.#prefix.length);
          if (isBackupFileName(name)) files.push({ name, bytes: Size });
        }
        if (files.length > limits.filesListedMax) {
          throw new DestinationError(this.label, 'misconfigured', 'holds too many files');
        }
        token = answer.IsTruncated ? answer.NextContinuationToken : undefined;
      } while (token !== undefined);
      return files;
    }, signal);
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    const target = this.#object(name);
    await this.#explained(
      () => this.#client.send(new this.#sdk.DeleteObjectCommand(target), { abortSignal: signal }),
      signal,
    );
  }

  async removeUnfinished(signal: AbortSignal): Promise<void> {
    await this.#explained(async () => {
      let marker: { KeyMarker?: string; UploadIdMarker?: string } | undefined = {};
      while (marker !== undefined) {
        const answer: ListMultipartUploadsCommandOutput = await this.#client.send(
          new this.#sdk.ListMultipartUploadsCommand({
            Bucket: this.#bucket,
            Prefix: this.#prefix,
            ...marker,
          }),
          { abortSignal: signal },
        );
        for (const { Key = '', UploadId } of answer.Uploads ?? []) {
          if (!isBackupFileName(Key.slice(this.#prefix.length))) continue;
          await this.#client.send(
            new this.#sdk.AbortMultipartUploadCommand({ Bucket: this.#bucket, Key, UploadId }),
            { abortSignal: signal },
          );
        }
        marker = answer.IsTruncated
          ? {
              KeyMarker: answer.NextKeyMarker ?? '',
              UploadIdMarker: answer.NextUploadIdMarker ?? '',
            }
          : undefined;
      }
    }, signal);
  }

  async close(): Promise<void> {
    this.#client.destroy();
  }

  #object(name: string): { Bucket: string; Key: string } {
    requireFileName(name);
    return { Bucket: this.#bucket, Key: this.#prefix + name };
  }

  async #explained<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof DestinationError) throw error;
      signal.throwIfAborted();
      const {
        name = '',
        code,
        $metadata,
      } = error as {
        name?: string;
        code?: string;
        $metadata?: { httpStatusCode?: number };
      };
      throw new DestinationError(
        this.label,
        reasons[code ?? ''] ?? reasons[name] ?? reasonOfStatus($metadata?.httpStatusCode),
        name === '' ? 'it failed' : name,
        error,
      );
    }
  }
}

function reasonOfStatus(status: number | undefined): DestinationReason {
  if (status === 403 || status === 401) return 'denied';
  if (status === 404) return 'not_found';
  if (status === 429) return 'throttled';
  return status !== undefined && status >= 400 && status < 500 ? 'misconfigured' : 'unavailable';
}

/** The error codes of the S3 API reference that say more than their status. */
const reasons: Record<string, DestinationReason | undefined> = {
  // Which the SDK calls timeouts.
  ECONNRESET: 'unavailable',
  EPIPE: 'unavailable',
  SlowDown: 'throttled',
  ThrottlingException: 'throttled',
  RequestLimitExceeded: 'throttled',
  ServiceUnavailable: 'unavailable',
  InternalError: 'unavailable',
  RequestTimeout: 'timed_out',
  TimeoutError: 'timed_out',
  AccessDenied: 'denied',
  InvalidAccessKeyId: 'denied',
  SignatureDoesNotMatch: 'denied',
  ExpiredToken: 'denied',
  CredentialsProviderError: 'denied',
  NoSuchKey: 'not_found',
  NotFound: 'not_found',
  NoSuchBucket: 'misconfigured',
  PermanentRedirect: 'misconfigured',
  AuthorizationHeaderMalformed: 'misconfigured',
  QuotaExceeded: 'full',
  XMinioStorageFull: 'full',
  InsufficientStorage: 'full',
};
