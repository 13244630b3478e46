/**
 * The wrapping key in a file of its own: one line of base64. Made at the first start, with mode 0600;
 * a file that others may read or change is refused. It belongs on another disk than the data, or into
 * a secret that the platform mounts.
 */

import { randomUUID } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
  type Stats,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import {
  type KeyContext,
  type KeyProvider,
  type KeyProviderDescription,
  KeyProviderError,
  type WrappedKey,
} from '../key-provider.ts';
import { SecretKey } from '../secret-key.ts';
import { LocalKey, localKeyId, parseKeyText } from './local-key.ts';

const kind = 'file';
/** A line of base64 and space around it. */
const maxFileBytes = 256;

export interface FileKeyOptions {
  path: string;
  /** Whether a missing file is made. False where losing it must not go unseen. */
  create: boolean;
}

/** @throws KeyProviderError where the file is missing, loose or no key */
export async function openFileKey(options: FileKeyOptions): Promise<FileKeyProvider> {
  const created = options.create && !exists(options.path) && create(options.path);
  return new FileKeyProvider(options.path, read(options.path), created);
}

export class FileKeyProvider implements KeyProvider {
  readonly kind = kind;
  readonly #path: string;
  readonly #local: LocalKey;
  /** Whether this start made the file. */
  readonly isNew: boolean;

  constructor(path: string, key: SecretKey, isNew: boolean) {
    this.#path = path;
    this.#local = new LocalKey(kind, key);
    this.isNew = isNew;
  }

  async wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey> {
    return this.#local.wrap(key, context);
  }

  async unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey> {
    return this.#local.unwrap(wrapped, context);
  }

  describe(): KeyProviderDescription {
    return { kind, keyId: this.#local.keyId, location: this.#path };
  }

  /**
   * Removes the file that this start made, where it opens nothing: the next start finds it missing too. What
   * somebody has put in its place meanwhile, as a restored key, stays.
   */
  takeBack(): void {
    if (!this.isNew || !this.#isOurs()) return;
    rmSync(this.#path, { force: true });
    syncFolder(dirname(this.#path));
  }

  #isOurs(): boolean {
    try {
      using there = read(this.#path);
      return localKeyId(there) === this.#local.keyId;
    } catch {
      return false;
    }
  }

  async close(): Promise<void> {
    this.#local.close();
  }
}

function exists(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw unreadable(path, error);
  }
}

/**
 * Written beside, synced and linked into place: after a crash the file is whole or not there, and of
 * two processes that start at once, one makes it and both read it.
 * @returns false where another process was faster
 */
function create(path: string): boolean {
  const folder = dirname(path);
  const temporary = `${path}.${randomUUID()}.tmp`;
  using key = SecretKey.generate();
  const line = Buffer.from(`${key.bytes.toString('base64')}\n`, 'latin1');
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const descriptor = openSync(temporary, 'wx', 0o600);
    try {
      writeFileSync(descriptor, line);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
      line.fill(0);
    }
    linkSync(temporary, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw new KeyProviderError(kind, 'misconfigured', `${path} cannot be made: ${codeOf(error)}`);
  } finally {
    rmSync(temporary, { force: true });
    syncFolder(folder);
  }
}

function read(path: string): SecretKey {
  let descriptor: number;
  try {
    // Not waiting: a named pipe would hang the start. Links are followed, as Kubernetes mounts secrets
    // through them; the mode looked at is that of the file they lead to.
    descriptor = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (error) {
    throw unreadable(path, error);
  }
  const bytes = Buffer.alloc(maxFileBytes);
  try {
    requireTight(path, fstatSync(descriptor));
    const length = readSync(descriptor, bytes, 0, maxFileBytes, 0);
    return parseKeyText(kind, bytes.toString('latin1', 0, length), path);
  } finally {
    bytes.fill(0);
    closeSync(descriptor);
  }
}

function requireTight(path: string, stats: Stats): void {
  const refuse = (message: string) => {
    throw new KeyProviderError(kind, 'misconfigured', `${path} ${message}`);
  };
  if (!stats.isFile()) refuse('is no ordinary file');
  if (stats.size > maxFileBytes) refuse('is too long for a key');
  // Windows has no such modes.
  const userId = process.getuid?.();
  if (userId === undefined) return;
  // A secret that Kubernetes mounts for a group belongs to root and is read through the group.
  const isMounted = stats.uid === 0 && userId !== 0 && (stats.mode & 0o337) === 0;
  if ((stats.mode & 0o077) !== 0 && !isMounted) {
    refuse(
      `can be read or changed by others (mode ${(stats.mode & 0o777).toString(8)}): chmod 600 it`,
    );
  }
  if (stats.uid !== userId && stats.uid !== 0) refuse('belongs to another user');
}

function unreadable(path: string, error: unknown): KeyProviderError {
  const code = codeOf(error);
  if (code === 'ENOENT') {
    return new KeyProviderError(kind, 'key_not_found', `${path} is missing`);
  }
  return new KeyProviderError(kind, 'misconfigured', `${path} cannot be read: ${code}`);
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'unknown error';
}

function syncFolder(folder: string): void {
  let descriptor: number;
  try {
    descriptor = openSync(folder, 'r');
  } catch {
    return;
  }
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
