/**
 * The files of one audit log: `audit.log` is written to; `audit.log.000000000042` is closed and begins
 * with the entry 42. What the end of the log is after a crash is found here.
 */
import { hash } from 'node:crypto';
import { type FileHandle, open, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type FileLine, hashOf, noHash, parseLine, sequenceOf, splitLine } from './audit-entry.ts';
import { auditLimits } from './audit-limits.ts';

export interface ClosedFile {
  path: string;
  firstSequence: number;
}

export function closedFilePath(logFile: string, firstSequence: number): string {
  return `${logFile}.${String(firstSequence).padStart(12, '0')}`;
}

/** Oldest first. */
export async function closedFiles(logFile: string): Promise<ClosedFile[]> {
  const prefix = `${basename(logFile)}.`;
  const names = await readdir(dirname(logFile));
  return names
    .filter((name) => name.startsWith(prefix) && /^\d{12,15}$/.test(name.slice(prefix.length)))
    .map((name) => ({
      path: join(dirname(logFile), name),
      firstSequence: Number(name.slice(prefix.length)),
    }))
    .sort((one, other) => one.firstSequence - other.firstSequence);
}

/** Files that could not be read as an audit log and were put aside. */
export async function damagedFiles(logFile: string): Promise<string[]> {
  const prefix = `${basename(logFile)}.damaged.`;
  return (await readdir(dirname(logFile)))
    .filter((name) => name.startsWith(prefix))
    .map((name) => join(dirname(logFile), name))
    .sort();
}

export interface FileEnd {
  first: FileLine;
  /** The last line that has the form. */
  sequence: number;
  hash: string;
  /** Bytes up to the end of the last line. */
  size: number;
  /** An unfinished line behind it: what a crash leaves. */
  torn: { bytes: number; sha256: string } | undefined;
  /** What does not chain in the part that was read: no crash leaves that. */
  broken: string | undefined;
}

export async function isRegularFile(path: string): Promise<boolean> {
  return (await stat(path)).isFile();
}

/** The first line of a file; undefined where it is not there or not whole. */
export async function readFileLine(handle: FileHandle): Promise<FileLine | undefined> {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(4_096), 0, 4_096, 0);
  const end = buffer.subarray(0, bytesRead).indexOf(0x0a);
  if (end < 0) return undefined;
  const line = buffer.subarray(0, end);
  const parts = splitLine(line);
  const parsed = parts && parseLine(line);
  if (parts === undefined || parsed?.type !== 'file') return undefined;
  return hashOf(parsed.previous, parts.open) === parts.hash ? parsed : undefined;
}

export async function readFirst(path: string): Promise<FileLine | undefined> {
  const handle = await open(path, 'r');
  try {
    return await readFileLine(handle);
  } finally {
    await handle.close();
  }
}

/**
 * Where the next line goes. Undefined where the file has not even a first line: a crash at its birth
 * when it is shorter than a line, damage otherwise.
 */
export async function readEnd(path: string): Promise<FileEnd | undefined> {
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    const first = await readFileLine(handle);
    if (first === undefined) return undefined;
    const window = Math.min(size, auditLimits.batchBytes + 2 * auditLimits.lineBytes);
    const start = size - window;
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(window), 0, window, start);
    return endOf(buffer.subarray(0, bytesRead), start, first);
  } finally {
    await handle.close();
  }
}

/** The first line of a window that starts inside the file may be cut: it is passed over. */
function endOf(window: Buffer, start: number, first: FileLine): FileEnd | undefined {
  const lastEnd = window.lastIndexOf(0x0a) + 1;
  const remainder = window.subarray(lastEnd);
  let previousHash = start === 0 ? first.previous : undefined;
  let previousSequence = start === 0 ? first.sequence - 1 : undefined;
  let broken: string | undefined;
  let last: { sequence: number; hash: string } | undefined;
  let at = start === 0 ? 0 : window.indexOf(0x0a) + 1;
  while (at < lastEnd) {
    const end = window.indexOf(0x0a, at);
    const line = window.subarray(at, end);
    at = end + 1;
    const parts = splitLine(line);
    const sequence = sequenceOf(line);
    if (parts === undefined || sequence === undefined) {
      broken ??= `a line after the entry ${previousSequence ?? '?'} is no entry`;
      previousHash = undefined;
      continue;
    }
    const chains =
      (previousHash === undefined || hashOf(previousHash, parts.open) === parts.hash) &&
      (previousSequence === undefined || sequence === previousSequence + 1);
    if (!chains) broken ??= `the entry ${sequence} does not follow the one before it`;
    previousHash = parts.hash;
    previousSequence = sequence;
    last = { sequence, hash: parts.hash };
  }
  if (last === undefined) return undefined;
  return {
    first,
    ...last,
    size: start + lastEnd,
    torn:
      remainder.length === 0
        ? undefined
        : { bytes: remainder.length, sha256: hash('sha256', remainder, 'hex') },
    broken,
  };
}

/** Syncs what was renamed, made or removed in a folder. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export const beforeTheFirst = { sequence: 0, hash: noHash };

/** Whole lines of a file, a piece at a time, and what is behind the last one. */
export interface Lines {
  /** Offset of the first byte in the file. */
  start: number;
  /** Ends with the end of a line, but in the last piece of a file whose last line is unfinished. */
  bytes: Buffer;
  isUnfinished: boolean;
}

/** Reads forward from a line's first byte up to `end`. A line that is longer than any may be comes in pieces. */
export async function* readLines(
  handle: FileHandle,
  start: number,
  end: number,
  pieceBytes: number = auditLimits.readBytes,
): AsyncGenerator<Lines> {
  let carried = Buffer.alloc(0);
  let at = start;
  while (at < end) {
    const piece = Buffer.allocUnsafe(Math.min(pieceBytes, end - at));
    const { bytesRead } = await handle.read(piece, 0, piece.length, at);
    if (bytesRead === 0) break;
    const bytes = Buffer.concat([carried, piece.subarray(0, bytesRead)]);
    const from = at - carried.length;
    at += bytesRead;
    const lastEnd = bytes.lastIndexOf(0x0a) + 1;
    carried = bytes.subarray(lastEnd);
    if (lastEnd > 0) yield { start: from, bytes: bytes.subarray(0, lastEnd), isUnfinished: false };
    if (carried.length > auditLimits.lineBytes) {
      yield { start: from + lastEnd, bytes: carried, isUnfinished: true };
      return;
    }
  }
  if (carried.length > 0) yield { start: at - carried.length, bytes: carried, isUnfinished: true };
}
