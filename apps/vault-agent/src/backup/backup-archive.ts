/**
 * A backup is one file: a clear start that says whose it is and what opens it, then a sealed stream of
 * compressed frames.
 *
 * ```text
 * offset  bytes  content
 *      0      8  "KSBACKUP"
 *      8      1  version, 1
 *      9      4  length of the header, big-endian
 *     13      n  header, JSON: id, vault, time, contents, the backup's key as the key provider wrapped it
 * 13 + n      …  sealed stream; its context is "backup" and the SHA-256 of everything before it
 *
 * in the stream, compressed with Zstandard, frames: kind (1) | length (4, big-endian) | content
 *   1 a section begins: JSON with its name, and a file's name where it is one
 *   2 a piece of it
 *   3 it ends
 *   4 the summary, last: counts, the content root, the revisions of the namespaces
 * ```
 *
 * A changed header does not open; neither does anything cut off, added or moved in the stream. Without
 * the summary a backup is not whole.
 */
import { createHash, hash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { PassThrough, Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { backupContents } from '@keystead/contracts/agent-api/backup';
import { associatedData } from '@keystead/envelope/aad';
import { Corrupt } from '@keystead/envelope/sealed';
import {
  openStream,
  type StreamIdentity,
  type StreamRecipient,
  sealStream,
} from '@keystead/envelope/sealed-stream';
import { z } from 'zod';
import { backupLimits as limits } from './backup-limits.ts';
import { ContentRoot, rootedSections } from './content-root.ts';

const magic = Buffer.from('KSBACKUP', 'latin1');
const version = 1;
const startBytes = 13;

const time = z.number().int().min(0).max(8.64e15);
const count = z.number().int().min(0);
const hexHash = z.string().regex(/^[0-9a-f]{64}$/);

export const backupHeader = z.strictObject({
  id: z.string().regex(/^bkp_[0-9a-z]{26}$/),
  vaultId: z.string().regex(/^vlt_[0-9a-z]{26}$/),
  createdAtMs: time,
  agentVersion: z.string().max(64),
  contents: z.array(z.enum(backupContents)).max(backupContents.length),
  /** Whose signature the manifest has: bound to the wrapped key, so that the key provider vouches for it. */
  author: z.string().max(100).optional(),
  /** The backup's key, for the vault's own key provider; null where only other recipients open it. */
  wrappedKey: z
    .strictObject({
      provider: z.string().max(64),
      keyId: z.string().max(2_048),
      version: z.string().max(256),
      bytes: z.string().max(32 * 1_024),
    })
    .nullable(),
});
export type BackupHeader = z.output<typeof backupHeader>;

export const backupSummary = z.strictObject({
  namespaces: count,
  secrets: count,
  versions: count,
  rotations: count.optional(),
  records: count.optional(),
  /** SHA-256 over the sections of the store; null where there is none. */
  contentRoot: hexHash.nullable(),
  /** Which; without it, the secrets alone, by themselves. */
  rooted: z.array(z.enum(rootedSections)).max(rootedSections.length).optional(),
  /** As they were when the backup was made. */
  revisions: z.array(z.strictObject({ id: z.string().max(64), revision: count })),
});
export type BackupSummary = z.output<typeof backupSummary>;

const sectionName = z.strictObject({
  /** `rotations` go with the secrets. */
  name: z.enum([...backupContents, 'rotations']),
  /** Of a file: no path. */
  file: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$/)
    .optional(),
});

/** Something that goes into a backup. */
export interface Section {
  name: z.output<typeof sectionName>['name'];
  file?: string | undefined;
  content: AsyncIterable<Uint8Array>;
}

const kinds = { begin: 1, piece: 2, end: 3, summary: 4 } as const;

export interface WrittenFile {
  bytes: number;
  sha256: string;
}

/**
 * Writes a backup beside the file and moves it into place: it is there whole or not at all.
 * @param summary asked for after the last section
 */
export async function writeBackup(
  file: string,
  header: BackupHeader,
  recipients: readonly StreamRecipient[],
  sections: AsyncIterable<Section>,
  summary: () => BackupSummary,
  signal: AbortSignal,
): Promise<WrittenFile> {
  const start = encodeStart(header);
  const unfinished = `${file}.part`;
  const sha256 = createHash('sha256');
  let bytes = 0;
  try {
    await pipeline(
      Readable.from(encodeFrames(sections, summary), { objectMode: false }),
      createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: 3 } }),
      async function* (source: AsyncIterable<Buffer>) {
        yield start;
        yield* sealStream(source, recipients, { context: contextOf(start) });
      },
      async function* (source: AsyncIterable<Buffer>) {
        for await (const chunk of source) {
          sha256.update(chunk);
          bytes += chunk.length;
          yield chunk;
        }
      },
      createWriteStream(unfinished, { mode: 0o600, flush: true }),
      { signal },
    );
    await rename(unfinished, file);
    return { bytes, sha256: sha256.digest('hex') };
  } catch (error) {
    await rm(unfinished, { force: true });
    throw error;
  }
}

/** What the clear start says; whether it is true shows when the rest is opened. @throws Corrupt */
export async function readHeader(file: string): Promise<BackupHeader> {
  return (await readStart(file)).header;
}

/**
 * Reads a backup to its end. Sections come one after the other; what is not read of one is skipped. What
 * came out is whole only when `summary` was reached.
 */
export class BackupReader {
  readonly header: BackupHeader;
  readonly #file: string;
  readonly #start: Buffer;
  #summary: BackupSummary | undefined;

  private constructor(file: string, header: BackupHeader, start: Buffer) {
    this.#file = file;
    this.header = header;
    this.#start = start;
  }

  /** @throws Corrupt where it is no backup */
  static async open(file: string): Promise<BackupReader> {
    const { header, start } = await readStart(file);
    return new BackupReader(file, header, start);
  }

  /** After the last section. @throws Corrupt where the end was not reached */
  get summary(): BackupSummary {
    if (this.#summary === undefined) throw new Corrupt('too_short', 'the backup has no end');
    return this.#summary;
  }

  /** @throws Corrupt, WrongKey */
  async *sections(identities: readonly StreamIdentity[]): AsyncGenerator<Section, void, undefined> {
    this.#summary = undefined;
    const frames = decodeFrames(this.#inflated(identities));
    try {
      for (;;) {
        const { value: frame } = await frames.next();
        if (frame === undefined) throw new Corrupt('too_short', 'the backup has no end');
        if (frame.kind === kinds.summary) {
          const summary = parsed(backupSummary, frame.content);
          const after = await frames.next();
          if (!after.done) throw new Corrupt('content', 'something follows the end of the backup');
          this.#summary = summary;
          return;
        }
        if (frame.kind !== kinds.begin) throw new Corrupt('content');
        const pieces = sectionPieces(frames);
        yield { ...parsed(sectionName, frame.content), content: pieces };
        for await (const _ of pieces);
      }
    } finally {
      await frames.return();
    }
  }

  /** As `sections`; and what comes from the store is what the backup says, or it ends in an error. */
  async *checkedSections(
    identities: readonly StreamIdentity[],
  ): AsyncGenerator<Section, void, undefined> {
    const root = new ContentRoot();
    for await (const section of this.sections(identities)) {
      const content = root.over(section.name, section.content);
      yield { ...section, content };
      for await (const _ of content);
    }
    root.require(this.summary);
  }

  async *#inflated(identities: readonly StreamIdentity[]): AsyncGenerator<Buffer> {
    const source = createReadStream(this.#file, { start: this.#start.length });
    const opened = openStream(source, identities, { context: contextOf(this.#start) });
    const inflate = createZstdDecompress();
    const through = new PassThrough();
    let failure: unknown;
    const flow = pipeline(Readable.from(opened, { objectMode: false }), inflate, through).catch(
      (error: unknown) => {
        failure = error;
      },
    );
    try {
      for await (const chunk of through) yield chunk as Buffer;
    } catch (error) {
      await flow;
      throw asCorrupt(failure ?? error);
    } finally {
      through.destroy();
      source.destroy();
      await flow;
    }
  }
}

function asCorrupt(error: unknown): unknown {
  const { code } = (error ?? {}) as { code?: unknown };
  return typeof code === 'string' && code.startsWith('ZSTD_')
    ? new Corrupt('content', 'what the backup holds does not unpack')
    : error;
}

async function* sectionPieces(
  frames: AsyncGenerator<Frame, void, undefined>,
): AsyncGenerator<Buffer, void, undefined> {
  for (;;) {
    const { value: frame } = await frames.next();
    if (frame?.kind === kinds.end) return;
    if (frame?.kind !== kinds.piece) throw new Corrupt('content', 'a section has no end');
    yield frame.content;
  }
}

function encodeStart(header: BackupHeader): Buffer {
  const json = Buffer.from(JSON.stringify(header));
  if (json.length > limits.headerMaxBytes) throw new RangeError('the header is too long');
  const start = Buffer.alloc(startBytes);
  magic.copy(start);
  start[8] = version;
  start.writeUInt32BE(json.length, 9);
  return Buffer.concat([start, json]);
}

async function readStart(file: string): Promise<{ header: BackupHeader; start: Buffer }> {
  const handle = await open(file, 'r');
  try {
    const head = Buffer.alloc(startBytes);
    const { bytesRead } = await handle.read(head, 0, startBytes, 0);
    if (bytesRead < startBytes) throw new Corrupt('too_short', 'the backup is cut off');
    if (!head.subarray(0, magic.length).equals(magic)) {
      throw new Corrupt('magic', 'this is no backup');
    }
    if (head[8] !== version) {
      throw new Corrupt('version', 'the backup is of a version that is not known here');
    }
    const length = head.readUInt32BE(9);
    if (length > limits.headerMaxBytes) throw new Corrupt('header');
    const json = Buffer.alloc(length);
    const read = await handle.read(json, 0, length, startBytes);
    if (read.bytesRead < length) throw new Corrupt('too_short', 'the backup is cut off');
    return { header: parsed(backupHeader, json), start: Buffer.concat([head, json]) };
  } finally {
    await handle.close();
  }
}

function contextOf(start: Buffer): Buffer {
  return associatedData('backup', hash('sha256', start, 'buffer'));
}

function parsed<T>(schema: z.ZodType<T>, json: Buffer): T {
  let content: unknown;
  try {
    content = JSON.parse(json.toString('utf8'));
  } catch {
    throw new Corrupt('header', 'the backup says what is no JSON');
  }
  const result = schema.safeParse(content);
  if (!result.success) throw new Corrupt('header', 'the backup says what is not understood here');
  return result.data;
}

// Frames

interface Frame {
  kind: number;
  content: Buffer;
}

async function* encodeFrames(
  sections: AsyncIterable<Section>,
  summary: () => BackupSummary,
): AsyncGenerator<Buffer> {
  for await (const { name, file, content } of sections) {
    const begin = file === undefined ? { name } : { name, file };
    yield frameOf(kinds.begin, Buffer.from(JSON.stringify(begin)));
    for await (const chunk of content) {
      for (let offset = 0; offset < chunk.length; offset += limits.frameMaxBytes) {
        yield frameOf(kinds.piece, chunk.subarray(offset, offset + limits.frameMaxBytes));
      }
    }
    yield frameOf(kinds.end, Buffer.alloc(0));
  }
  yield frameOf(kinds.summary, Buffer.from(JSON.stringify(summary())));
}

function frameOf(kind: number, content: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head[0] = kind;
  head.writeUInt32BE(content.length, 1);
  return Buffer.concat([head, content]);
}

async function* decodeFrames(
  source: AsyncIterable<Buffer>,
): AsyncGenerator<Frame, void, undefined> {
  let waiting: Buffer = Buffer.alloc(0);
  for await (const chunk of source) {
    waiting = waiting.length === 0 ? chunk : Buffer.concat([waiting, chunk]);
    for (;;) {
      if (waiting.length < 5) break;
      const kind = waiting[0] as number;
      const length = waiting.readUInt32BE(1);
      const most = kind === kinds.summary ? limits.summaryMaxBytes : limits.frameMaxBytes;
      if (kind < kinds.begin || kind > kinds.summary || length > most) {
        throw new Corrupt('content', 'the backup is not well-formed');
      }
      if (waiting.length < 5 + length) break;
      yield { kind, content: waiting.subarray(5, 5 + length) };
      waiting = waiting.subarray(5 + length);
    }
  }
  if (waiting.length > 0) throw new Corrupt('too_short', 'the backup is cut off');
}
