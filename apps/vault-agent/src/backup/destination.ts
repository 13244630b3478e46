/**
 * Where backups are kept. Every destination promises the same, held to it by one suite: a file is there
 * whole or not at all, whoever is killed meanwhile; putting it again replaces it; what was begun and not
 * finished is never listed.
 */
import type { Readable } from 'node:stream';

export interface StoredFile {
  name: string;
  bytes: number;
}

export interface BackupDestination {
  /** Names it in answers and logs, e.g. `local:/backups`, `s3:bucket/prefix`. No secret is in it. */
  readonly label: string;

  /** Puts a file there. @throws DestinationError */
  put(name: string, file: string, signal: AbortSignal): Promise<void>;

  /** @throws DestinationError `not_found` where it is not there; the stream fails with one too */
  read(name: string, signal: AbortSignal): Promise<Readable>;

  /** Whole files of ours, in no order. Empty where the place does not exist yet. @throws DestinationError */
  list(signal: AbortSignal): Promise<StoredFile[]>;

  /** Also where it is gone already. @throws DestinationError */
  remove(name: string, signal: AbortSignal): Promise<void>;

  /**
   * Removes what was begun and not finished; nobody may be putting meanwhile.
   * @param start of the names that are meant: other vaults may be putting theirs. @throws DestinationError
   */
  removeUnfinished(start: string, signal: AbortSignal): Promise<void>;

  /** Where a connection for each file would be slow. @throws DestinationError */
  session?(signal: AbortSignal): Promise<DestinationSession>;

  close(): Promise<void>;
}

/** Several things that are listed and read over one connection; also at once. */
export interface DestinationSession {
  /** @throws DestinationError */
  list(): Promise<StoredFile[]>;
  /** A small file; what is beyond `maxBytes` is left out. @throws DestinationError */
  readText(name: string, maxBytes: number): Promise<string>;
  close(): void;
}

export type DestinationReason =
  | 'unavailable'
  | 'timed_out'
  | 'throttled'
  | 'full'
  | 'denied'
  | 'not_found'
  /** It is another host than the one whose key is configured. */
  | 'untrusted'
  | 'misconfigured';

/** What may pass by itself, or when somebody makes room. */
const passing: readonly DestinationReason[] = ['unavailable', 'timed_out', 'throttled', 'full'];

export class DestinationError extends Error {
  readonly reason: DestinationReason;
  readonly destination: string;

  /** @param message what is wrong; no credential */
  constructor(destination: string, reason: DestinationReason, message: string, cause?: unknown) {
    super(`${destination}: ${message}`, cause === undefined ? {} : { cause });
    this.name = 'DestinationError';
    this.reason = reason;
    this.destination = destination;
  }

  get isRetryable(): boolean {
    return passing.includes(this.reason);
  }
}

const namePattern = /^keystead-[A-Za-z0-9_-]{1,120}\.(?:ksbackup|json)$/;

/** Whether a file may be one of ours: nothing else is listed, and nothing else is written. */
export function isBackupFileName(name: string): boolean {
  return namePattern.test(name);
}

export function requireFileName(name: string): void {
  if (!isBackupFileName(name)) throw new RangeError(`${JSON.stringify(name)} names no backup`);
}
