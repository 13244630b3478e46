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

interface Opened {
  sdk: Sdk;
  client: S3Client;
}

/** The SDK is large: it is loaded when it is first needed, not when an agent starts. */
async function open(options: S3Options): Promise<Opened> {
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
  return { sdk, client };
}

export class S3Destination implements BackupDestination {
  readonly label: string;
  readonly #options: S3Options;
  readonly #prefix: string;
  #opening: Promise<Opened> | undefined;

  constructor(options: S3Options) {
    const prefix = (options.prefix ?? '').replaceAll(/^\/+|\/+$/g, '');
    this.#options = options;
    this.#prefix = prefix === '' ? '' : `${prefix}/`;
    this.label = `s3:${options.bucket}${prefix === '' ? '' : `/${prefix}`}`;
  }

  async put(name: string, file: string, signal: AbortSignal): Promise<void> {
    const target = this.#object(name);
    await this.#explained(async ({ sdk, client }) => {
      const { size } = await stat(file);
      const { Upload } = await import('@aws-sdk/lib-storage');
      const abortController = new AbortController();
      const abort = () => abortController.abort();
      signal.addEventListener('abort', abort, { once: true });
      signal.throwIfAborted();
      const source = createReadStream(file, { highWaterMark: 1_024 * 1_024 });
      try {
        await new Upload({
          client,
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
      const head = new sdk.HeadObjectCommand(target);
      const { ContentLength } = await client.send(head, { abortSignal: signal });
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
    return this.#explained(async ({ sdk, client }) => {
      const command = new sdk.GetObjectCommand(target);
      const { Body } = await client.send(command, { abortSignal: signal });
      if (Body === undefined) throw new DestinationError(this.label, 'unavailable', 'is empty');
      return Body as Readable;
    }, signal);
  }

  async list(signal: AbortSignal): Promise<StoredFile[]> {
    return this.#explained(async ({ sdk, client }) => {
      const files: StoredFile[] = [];
      let token: string | undefined;
      do {
        const answer = await client.send(
          new sdk.ListObjectsV2Command({
            Bucket: this.#options.bucket,
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
      ({ sdk, client }) =>
        client.send(new sdk.DeleteObjectCommand(target), { abortSignal: signal }),
      signal,
    );
  }

  async removeUnfinished(start: string, signal: AbortSignal): Promise<void> {
    await this.#explained(async ({ sdk, client }) => {
      let marker: { KeyMarker?: string; UploadIdMarker?: string } | undefined = {};
      while (marker !== undefined) {
        const answer: ListMultipartUploadsCommandOutput = await client.send(
          new sdk.ListMultipartUploadsCommand({
            Bucket: this.#options.bucket,
            Prefix: this.#prefix,
            ...marker,
          }),
          { abortSignal: signal },
        );
        for (const { Key = '', UploadId } of answer.Uploads ?? []) {
          const name = Key.slice(this.#prefix.length);
          if (!name.startsWith(start) || !isBackupFileName(name)) continue;
          await client.send(
            new sdk.AbortMultipartUploadCommand({ Bucket: this.#options.bucket, Key, UploadId }),
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
    (await this.#opening)?.client.destroy();
  }

  #object(name: string): { Bucket: string; Key: string } {
    requireFileName(name);
    return { Bucket: this.#options.bucket, Key: this.#prefix + name };
  }

  async #explained<T>(work: (opened: Opened) => Promise<T>, signal: AbortSignal): Promise<T> {
    try {
      this.#opening ??= open(this.#options);
      return await work(await this.#opening);
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
