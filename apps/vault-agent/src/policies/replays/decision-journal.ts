/**
 * What the door decided by policies in the last weeks, for replays: the audit says who did what, but not
 * the roles, the network's details or the tags that a policy reads. Equal decisions of a minute are one
 * entry with a count. Closed files are compressed; the oldest go when there is no more room.
 *
 * It is no proof of anything, that is the audit: a crash may lose the last minute of it, and a full disk
 * what could not be written. Neither holds up a decision.
 */
import { appendFile, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import type { AccessRequest } from '@keystead/policy-engine/facts';
import type { Logger } from 'pino';
import { makePrivateFolder } from '../../durable-file.ts';
import { type JournalEntry, keyOf } from './journal-entry.ts';
import { replayLimits } from './replay-limits.ts';

export interface DecisionJournalOptions {
  folder: string;
  now: () => number;
  log: Pick<Logger, 'warn'>;
  limits?: Partial<
    Record<'entriesPerWindow' | 'entriesWaitingMax' | 'fileBytes' | 'closedBytesMax', number>
  >;
  /** The operating system's but in tests of disks that hang. */
  append?: typeof appendFile;
}

export interface Decided {
  allowed: boolean;
  needsApproval: boolean;
  /** The request tells what the store knew of the resource. */
  isKnown: boolean;
}

interface Window {
  startMs: number;
  entries: Map<string, JournalEntry>;
  notKept: number;
}

const compress = promisify(gzip);
const decompress = promisify(gunzip);
const closedName = /^decisions-(\d{15})\.jsonl(\.gz)?$/;
const linesPerPiece = 200;
const gzipMagic = Buffer.from([0x1f, 0x8b]);
const noop = () => undefined;

export class DecisionJournal {
  readonly #options: DecisionJournalOptions;
  readonly #limits: Required<NonNullable<DecisionJournalOptions['limits']>>;
  readonly #file: string;
  #window: Window | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Writes follow each other. */
  #writing: Promise<void> = Promise.resolve();
  #entriesWaiting = 0;
  /** Decisions that no window was written for, told by the next one that is. */
  #dropped = 0;
  #hasFailed = false;
  /** What was written last may have no end: a crash, a full disk. */
  #mayBeTorn = true;

  /** @throws where the folder cannot be made */
  constructor(options: DecisionJournalOptions) {
    this.#options = options;
    const { entriesPerWindow, entriesWaitingMax, fileBytes, closedBytesMax } = replayLimits;
    this.#limits = {
      ...{ entriesPerWindow, entriesWaitingMax, fileBytes, closedBytesMax },
      ...options.limits,
    };
    makePrivateFolder(options.folder);
    this.#file = join(options.folder, 'decisions.jsonl');
  }

  start(): void {
    this.#timer = setInterval(() => void this.#look(), replayLimits.windowMs / 4);
    this.#timer.unref();
  }

  /** The last minute is written. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.flush();
  }

  /** A decision was made. Synchronous, some microseconds, never throws. */
  note(request: AccessRequest, { allowed, needsApproval, isKnown }: Decided): void {
    const startMs = windowOf(request.context.atMs);
    if (this.#window !== undefined && this.#window.startMs !== startMs) void this.flush();
    this.#window ??= { startMs, entries: new Map(), notKept: 0 };
    const { entries } = this.#window;
    const key = keyOf(request, allowed, needsApproval);
    const known = entries.get(key);
    if (known !== undefined) {
      known.count += 1;
      return;
    }
    if (entries.size >= this.#limits.entriesPerWindow) {
      this.#window.notKept += 1;
      return;
    }
    const { vault: _, ...resource } = request.resource;
    entries.set(key, {
      atMs: request.context.atMs,
      count: 1,
      allowed,
      needsApproval,
      isKnown,
      request: { ...request, resource },
    });
  }

  /** Resolves when everything that was noted is in the file, or could not be written. */
  flush(): Promise<void> {
    const window = this.#window;
    this.#window = undefined;
    const { size = 0 } = window?.entries ?? {};
    if (window !== undefined && this.#entriesWaiting + size > this.#limits.entriesWaitingMax) {
      this.#dropped += countOf(window);
    } else if (window !== undefined) {
      this.#entriesWaiting += size;
      this.#writing = this.#writing
        .then(() => {
          window.notKept += this.#dropped;
          this.#dropped = 0;
          return this.#write(window);
        })
        .catch((error) => {
          if (!this.#hasFailed) {
            this.#options.log.warn({ err: error }, 'the journal of decisions cannot be written');
          }
          this.#hasFailed = true;
          this.#mayBeTorn = true;
        })
        .finally(() => {
          this.#entriesWaiting -= size;
        });
    }
    return this.#writing;
  }

  /**
   * Whole files, the newest first: each the bytes of its lines. A file that cannot be read is undefined.
   * What is noted meanwhile may be in it or not.
   */
  async *read(): AsyncGenerator<Buffer | undefined> {
    void this.flush();
    // Between two writes, so that no file is closed between the listing and the reading.
    const begun = this.#writing.then(async () => ({
      closed: (await this.#closed()).reverse(),
      open: await readOrNothing(this.#file),
    }));
    this.#writing = begun.then(noop, noop);
    const { closed, open: newest } = await begun;
    yield newest;
    for (const { path } of closed) {
      const found = await readOrNothing(path);
      // Compressed since it was listed.
      const content = found?.length === 0 ? await readOrNothing(`${path}.gz`) : found;
      yield content?.subarray(0, 2).equals(gzipMagic)
        ? await decompress(content).catch(noop)
        : content;
    }
  }

  async #look(): Promise<void> {
    if (this.#window !== undefined && this.#window.startMs !== windowOf(this.#options.now())) {
      await this.flush();
    }
  }

  async #write({ startMs, entries, notKept }: Window): Promise<void> {
    let lines: string[] = notKept === 0 ? [] : [JSON.stringify({ atMs: startMs, notKept })];
    for (const entry of entries.values()) {
      lines.push(JSON.stringify(entry));
      if (lines.length < linesPerPiece) continue;
      await this.#append(lines);
      lines = [];
    }
    await this.#append(lines);
    this.#hasFailed = false;
    await this.#close(startMs);
  }

  async #append(lines: readonly string[]): Promise<void> {
    if (lines.length === 0) return;
    const start = this.#mayBeTorn ? '\n' : '';
    const { append = appendFile } = this.#options;
    await append(this.#file, `${start}${lines.join('\n')}\n`, { mode: 0o600 });
    this.#mayBeTorn = false;
    await pause(0);
  }

  /** Closes the file where it is large or old, compresses it, and makes room. */
  async #close(nowMs: number): Promise<void> {
    const { size } = await stat(this.#file);
    const firstMs = await firstOf(this.#file);
    const isOld = firstMs === undefined || nowMs - firstMs >= replayLimits.fileMaxAgeMs;
    if (size < this.#limits.fileBytes && !isOld) return;
    const taken = new Set((await this.#closed()).map((each) => each.firstMs));
    let number = firstMs ?? nowMs;
    while (taken.has(number)) number += 1;
    const name = `decisions-${String(number).padStart(15, '0')}.jsonl`;
    await rename(this.#file, join(this.#options.folder, name));
    for (const { path } of await this.#closed()) {
      if (path.endsWith('.gz')) continue;
      const temporary = `${path}.tmp`;
      const handle = await open(temporary, 'w', 0o600);
      try {
        await handle.writeFile(await compress(await readFile(path)));
      } finally {
        await handle.close();
      }
      await rename(temporary, `${path}.gz`);
      await rm(path);
    }
    await this.#makeRoom(nowMs);
  }

  async #makeRoom(nowMs: number): Promise<void> {
    const closed = await this.#closed();
    const keptFromMs = nowMs - replayLimits.keepDays * 86_400_000;
    const [oldest, next] = closed;
    // One at a time, as they came: a clock that is wrong for a while takes little away.
    if (oldest !== undefined && (next?.firstMs ?? nowMs) < keptFromMs) await rm(oldest.path);
    let bytes = 0;
    for (const { path } of (await this.#closed()).reverse()) {
      bytes += (await stat(path)).size;
      if (bytes > this.#limits.closedBytesMax) await rm(path);
    }
  }

  /** Oldest first; of one that a crash has left twice, the compressed one. */
  async #closed(): Promise<{ path: string; firstMs: number }[]> {
    const names = new Map<string, string>();
    for (const name of (await readdir(this.#options.folder)).sort()) {
      const [, firstMs] = closedName.exec(name) ?? [];
      if (firstMs !== undefined) names.set(firstMs, name);
    }
    return [...names].map(([firstMs, name]) => ({
      path: join(this.#options.folder, name),
      firstMs: Number(firstMs),
    }));
  }
}

function countOf({ entries, notKept }: Window): number {
  return [...entries.values()].reduce((sum, { count }) => sum + count, notKept);
}

function windowOf(atMs: number): number {
  return Math.floor(atMs / replayLimits.windowMs) * replayLimits.windowMs;
}

/** Undefined where it cannot be read; nothing where it is not there. */
async function readOrNothing(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? Buffer.alloc(0) : undefined;
  }
}

/** When the file begins, by its first line. */
async function firstOf(path: string): Promise<number | undefined> {
  const handle = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(64), 0, 64, 0);
    const [, atMs] = /^\s*\{"atMs":(\d{1,15}),/.exec(buffer.toString('latin1', 0, bytesRead)) ?? [];
    return atMs === undefined ? undefined : Number(atMs);
  } finally {
    await handle.close();
  }
}
