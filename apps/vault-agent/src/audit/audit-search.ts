/**
 * Finds entries in the log, newest first, page by page. The index of a file is made when it is first
 * needed: for every 64 KiB the offset, the first entry and the span of time, so that a page by time
 * reads what it shows. What is looked for is first searched as bytes; only lines that hold them are parsed.
 */
import { type FileHandle, open } from 'node:fs/promises';
import type { AuditHeadView } from '@keystead/contracts/agent-api/audit';
import { ServiceError } from '@keystead/contracts/errors';
import { LRUCache } from 'lru-cache';
import { PageWork } from '../store/visible-page.ts';
import {
  type AuditLine,
  type HeadLine,
  type OperationLine,
  parseLine,
  sequenceOf,
  timeOf,
  timeOffset,
} from './audit-entry.ts';
import { closedFiles, readFirst, readLines } from './audit-files.ts';
import { auditLimits } from './audit-limits.ts';

export interface AuditFilter {
  fromMs?: number | undefined;
  /** Exclusive. */
  toMs?: number | undefined;
  /** Id or name. */
  identity?: string | undefined;
  action?: string | undefined;
  operation?: string | undefined;
  namespace?: string | undefined;
  secret?: string | undefined;
  result?: string | undefined;
  requestId?: string | undefined;
  address?: string | undefined;
}

export interface AuditPage<T> {
  items: T[];
  nextCursor: string | null;
}

interface Block {
  offset: number;
  firstSequence: number;
  minMs: number;
  maxMs: number;
}

interface FileIndex {
  blocks: Block[];
  /** Bytes that are indexed: whole lines. */
  end: number;
  /** Tells a file that was replaced. */
  inode: number;
}

interface LogFile {
  path: string;
  firstSequence: number;
}

export class AuditSearch {
  readonly #logFile: string;
  readonly #indexes = new LRUCache<number, FileIndex>({ max: auditLimits.indexedFiles });
  #indexing: Promise<unknown> = Promise.resolve();

  constructor(logFile: string) {
    this.#logFile = logFile;
  }

  /**
   * Operations, newest first. A page may be short, even empty, when much had to be read for it; the
   * cursor goes on from there.
   * @throws ServiceError `invalid_cursor`
   */
  operations(
    filter: AuditFilter,
    page: { limit: number; cursor?: string | undefined },
    sees?: (entry: OperationLine) => boolean | Promise<boolean>,
  ): Promise<AuditPage<OperationLine>> {
    const accepts = (line: AuditLine): line is OperationLine =>
      line.type === 'operation' && matches(line, filter);
    return this.#page(needleOf(filter), filter, page, accepts, sees);
  }

  /** Signed heads, newest first. */
  async heads(page: {
    limit: number;
    cursor?: string | undefined;
  }): Promise<AuditPage<AuditHeadView>> {
    const found = await this.#page(
      Buffer.from('"type":"head"'),
      {},
      page,
      (line): line is HeadLine => line.type === 'head',
    );
    const files = await this.#files();
    const items: AuditHeadView[] = [];
    for (const { head, sequence } of found.items) {
      const file = files.findLast(({ firstSequence }) => firstSequence <= sequence);
      const first = file && (await readFirst(file.path).catch(() => undefined));
      if (first === undefined) continue;
      items.push({
        chain: first.chain,
        sequence: head.sequence,
        hash: head.hash,
        at: new Date(head.atUnixMs).toISOString(),
        signature: head.signature,
        signerKey: first.signerKey,
      });
    }
    return { items, nextCursor: found.nextCursor };
  }

  async #page<T extends AuditLine>(
    needle: Buffer | undefined,
    { fromMs = Number.NEGATIVE_INFINITY, toMs = Number.POSITIVE_INFINITY }: AuditFilter,
    { limit, cursor }: { limit: number; cursor?: string | undefined },
    accepts: (line: AuditLine) => line is T,
    sees?: (entry: T) => boolean | Promise<boolean>,
  ): Promise<AuditPage<T>> {
    const work = new PageWork();
    let before = cursor === undefined ? Number.POSITIVE_INFINITY : readCursor(cursor);
    const items: T[] = [];
    let readable: number = auditLimits.pageReadBytes;
    for (const file of (await this.#files()).reverse()) {
      if (file.firstSequence >= before) continue;
      let handle: FileHandle;
      try {
        handle = await open(file.path, 'r');
      } catch (error) {
        // Closed or retired since the list was made: its entries are found by its number, or gone.
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') continue;
        throw error;
      }
      try {
        const index = await this.#index(file, handle);
        for (let number = index.blocks.length - 1; number >= 0; number -= 1) {
          const block = index.blocks[number] as Block;
          if (block.firstSequence >= before || block.maxMs < fromMs || block.minMs >= toMs)
            continue;
          const end = index.blocks[number + 1]?.offset ?? index.end;
          const bytes = Buffer.allocUnsafe(end - block.offset);
          const { bytesRead } = await handle.read(bytes, 0, bytes.length, block.offset);
          readable -= bytesRead;
          for (const line of linesWith(bytes.subarray(0, bytesRead), needle)) {
            const sequence = sequenceOf(line);
            if (sequence === undefined || sequence >= before) continue;
            const atMs = timeOf(line);
            if (atMs === undefined || atMs < fromMs || atMs >= toMs) continue;
            const parsed = parseLine(line);
            if (parsed === undefined || !accepts(parsed)) continue;
            if (sees !== undefined) {
              await work.next();
              if (work.isSpent) return { items, nextCursor: makeCursor(sequence + 1) };
              if (!(await sees(parsed))) continue;
            }
            items.push(parsed);
            if (items.length === limit) return { items, nextCursor: makeCursor(sequence) };
          }
          before = Math.min(before, block.firstSequence);
          if (readable <= 0) return { items, nextCursor: makeCursor(before) };
        }
      } finally {
        await handle.close();
      }
    }
    return { items, nextCursor: null };
  }

  /** Oldest first. */
  async #files(): Promise<LogFile[]> {
    const [closed, first] = await Promise.all([
      closedFiles(this.#logFile),
      readFirst(this.#logFile).catch(() => undefined),
    ]);
    const current =
      first === undefined || closed.some(({ firstSequence }) => firstSequence === first.sequence)
        ? []
        : [{ path: this.#logFile, firstSequence: first.sequence }];
    return [...closed, ...current];
  }

  /** Made once, and continued for what was written since: by one reader at a time. */
  #index(file: LogFile, handle: FileHandle): Promise<FileIndex> {
    const made = this.#indexing.then(() => this.#continueIndex(file, handle));
    this.#indexing = made.catch(() => undefined);
    return made;
  }

  async #continueIndex(file: LogFile, handle: FileHandle): Promise<FileIndex> {
    const { size, ino } = await handle.stat();
    const known = this.#indexes.get(file.firstSequence);
    const usable = known !== undefined && known.inode === ino && known.end <= size;
    const index = usable ? known : { blocks: [], end: 0, inode: ino };
    let block = index.blocks.at(-1);
    let lastTime: Buffer = Buffer.alloc(0);
    for await (const { bytes, start, isUnfinished } of readLines(handle, index.end, size)) {
      if (isUnfinished) break;
      let at = 0;
      while (at < bytes.length) {
        const lineEnd = bytes.indexOf(0x0a, at);
        const lineStart = at;
        at = lineEnd + 1;
        const begins =
          block === undefined || start + lineStart - block.offset >= auditLimits.blockBytes;
        // Most lines have the time of the one before them.
        const time = timeOffset(bytes, lineStart);
        const isSameTime =
          lastTime.length > 0 &&
          time + 24 <= lineEnd &&
          bytes.compare(lastTime, 0, 24, time, time + 24) === 0;
        if (isSameTime && !begins) continue;
        const line = bytes.subarray(lineStart, lineEnd);
        const atMs = timeOf(line);
        if (atMs === undefined) continue;
        lastTime = bytes.subarray(time, time + 24);
        if (block === undefined || begins) {
          const firstSequence = sequenceOf(line);
          if (firstSequence === undefined) continue;
          block = { offset: start + lineStart, firstSequence, minMs: atMs, maxMs: atMs };
          index.blocks.push(block);
        } else {
          block.minMs = Math.min(block.minMs, atMs);
          block.maxMs = Math.max(block.maxMs, atMs);
        }
      }
      index.end = start + bytes.length;
    }
    this.#indexes.set(file.firstSequence, index);
    return index;
  }
}

/** Lines that hold the needle, the last one first. */
function* linesWith(bytes: Buffer, needle: Buffer | undefined): Generator<Buffer> {
  let end = bytes.lastIndexOf(0x0a);
  while (end > 0) {
    if (needle !== undefined) {
      const hit = bytes.subarray(0, end).lastIndexOf(needle);
      if (hit < 0) return;
      end = bytes.indexOf(0x0a, hit);
    }
    const start = bytes.subarray(0, end).lastIndexOf(0x0a) + 1;
    yield bytes.subarray(start, end);
    end = start - 1;
  }
}

/** What the bytes of a matching line hold for certain; the rarest first. */
function needleOf(filter: AuditFilter): Buffer | undefined {
  for (const field of [
    'requestId',
    'secret',
    'operation',
    'address',
    'namespace',
    'action',
    'result',
  ] as const) {
    const value = filter[field];
    if (value !== undefined) return Buffer.from(`"${field}":${JSON.stringify(value)}`);
  }
  return filter.identity === undefined ? undefined : Buffer.from(JSON.stringify(filter.identity));
}

export function matches(entry: OperationLine, filter: AuditFilter): boolean {
  const { identity } = filter;
  return (
    is(entry.action, filter.action) &&
    is(entry.operation, filter.operation) &&
    is(entry.namespace, filter.namespace) &&
    is(entry.secret, filter.secret) &&
    is(entry.result, filter.result) &&
    is(entry.requestId, filter.requestId) &&
    is(entry.address, filter.address) &&
    (identity === undefined || entry.identity.id === identity || entry.identity.name === identity)
  );
}

function is(value: string | undefined, wanted: string | undefined): boolean {
  return wanted === undefined || value === wanted;
}

function makeCursor(before: number): string {
  return Buffer.from(`before:${before}`).toString('base64url');
}

function readCursor(cursor: string): number {
  const match = /^before:(\d{1,15})$/.exec(Buffer.from(cursor, 'base64url').toString());
  if (match === null) throw new ServiceError('invalid_cursor');
  return Number(match[1]);
}
