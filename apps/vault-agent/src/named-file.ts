/** Files that somebody named, on the command line or in vault.yaml: what is wrong with one, as a sentence. */
import {
  accessSync,
  closeSync,
  constants,
  createReadStream,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  statSync,
} from 'node:fs';
import { dirname } from 'node:path';
import type { Readable } from 'node:stream';

/** The message begins with the file as it was named, and holds nothing of its content. */
export class NamedFileError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'NamedFileError';
  }
}

/** @throws NamedFileError */
export function readNamedFile(file: string, maxBytes = Number.POSITIVE_INFINITY): Buffer {
  try {
    if (statSync(file).size <= maxBytes) return readFileSync(file);
  } catch (error) {
    throw unusable(file, error, 'read');
  }
  throw new NamedFileError(`${file} has more than ${maxBytes} bytes`);
}

/** Opened at once, so that a file that is not there is told before anything is done. @throws NamedFileError */
export function streamNamedFile(file: string): Readable {
  let descriptor: number;
  try {
    descriptor = openSync(file, 'r');
  } catch (error) {
    throw unusable(file, error, 'read');
  }
  if (fstatSync(descriptor).isDirectory()) {
    closeSync(descriptor);
    throw new NamedFileError(`${file} is a folder`);
  }
  return createReadStream(file, { fd: descriptor });
}

/** For a file that is written later: it is not there yet, and its folder takes it. @throws NamedFileError */
export function requireNewFile(file: string): void {
  if (existsSync(file)) throw new NamedFileError(`${file} is there already`);
  const folder = dirname(file);
  try {
    if (statSync(folder).isDirectory()) {
      accessSync(folder, constants.W_OK | constants.X_OK);
      return;
    }
  } catch (error) {
    throw unusable(folder, error, 'written');
  }
  throw new NamedFileError(`${folder} is no folder`);
}

function unusable(file: string, error: unknown, purpose: 'read' | 'written'): NamedFileError {
  const { code } = error as NodeJS.ErrnoException;
  const options = { cause: error };
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return new NamedFileError(`${file} does not exist`, options);
  }
  if (code === 'EISDIR') return new NamedFileError(`${file} is a folder`, options);
  const reason = reasons[code ?? ''] ?? code ?? 'unknown error';
  return new NamedFileError(`${file} cannot be ${purpose}: ${reason}`, options);
}

const reasons: Record<string, string> = {
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EROFS: 'the file system is read-only',
  ELOOP: 'its links go round in a circle',
  ENAMETOOLONG: 'its name is too long',
  EMFILE: 'too many files are open',
  ENFILE: 'too many files are open',
};
