/**
 * The agent's audit: what is recorded is on the disk when `record` answers, or it is refused.
 *
 * Cast: `audit-entry` is the form of a line, `audit-files` the files of a log and their end after a
 * crash, `audit-verification` checks what this wrote, `audit-search` reads it.
 *
 * Group commit: whatever waits is written in one piece and synced once, off the event loop. A sync costs
 * as much as several requests, so where many come at once half of them are waited for, while the other
 * half is being synced. The memory's end of the chain moves only with a sync, so that a failed write
 * leaves nothing behind but bytes that the next try cuts off. After a failure every entry is refused at once while the trail
 * tries by itself; the first entry that goes through again says how long it was.
 */
import { randomBytes } from 'node:crypto';
import { constants, fdatasync, write } from 'node:fs';
import { type FileHandle, open, rename, stat, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { promisify } from 'node:util';
import { ServiceError } from '@keystead/contracts/errors';
import type { Logger } from 'pino';
import { makePrivateFolder } from '../durable-file.ts';
import {
  type AuditFact,
  auditFormat,
  bookkeepingBody,
  chainLine,
  type FileLine,
  operationBody,
} from './audit-entry.ts';
import {
  beforeTheFirst,
  closedFilePath,
  closedFiles,
  isRegularFile,
  readEnd,
  readFirst,
  syncFolder,
} from './audit-files.ts';
import { auditLimits } from './audit-limits.ts';
import { AuditSigner } from './audit-signer.ts';

/** The audit cannot be written, so nothing was done. Comes within two seconds. */
export class AuditBlocked extends ServiceError {
  constructor(reason: string) {
    super('unavailable', {
      detail: 'the audit cannot be written, so nothing was done',
      retryAfterSeconds: 1,
      internal: `the audit is blocked: ${reason}`,
    });
    this.name = 'AuditBlocked';
  }
}

/** Another process writes this log. */
export class AuditInUse extends Error {
  constructor(file: string) {
    super(`${file} is in use: another agent writes its audit there`);
    this.name = 'AuditInUse';
  }
}

/** A signed point of the chain: whoever has it can tell a log that was rewritten before it. */
export interface AuditHead {
  /** 16 bytes. */
  chainId: Buffer;
  sequence: number;
  /** 32 bytes. */
  hash: Buffer;
  atUnixMs: number;
  /** By the audit's own key, whose public half is in every file. */
  signature: Buffer;
  /** SubjectPublicKeyInfo in DER. */
  signerKey: Buffer;
}

export type AuditNotice =
  | { kind: 'blocked'; reason: string }
  | { kind: 'resumed'; refused: number; blockedForMs: number }
  | { kind: 'broken'; reason: string };

/** How bytes get to the disk; the operating system's calls but in tests of slow disks. */
export interface AuditDisk {
  /** Of `open(2)`, besides those that say what is done with the file. */
  flags?: number;
  write(descriptor: number, bytes: Buffer, position: number): Promise<number>;
  /** Missing where a write comes back only when it is on the disk. */
  sync?: (descriptor: number) => Promise<void>;
}

/** In ms; those of `auditLimits` but in tests that would only wait. */
export interface AuditTimings {
  blockedAfterMs: number;
  gatherMs: number;
  probeMs: number;
  headsApartMs: number;
}

export interface AuditTrailOptions {
  /** Absolute. Closed files, the key and the lock stand beside it. */
  logFile: string;
  /** PEM (PKCS #8) of the audit's own key; made where it is missing. */
  keyFile: string;
  /** 16 bytes: of a log that is begun; made up where it is not given. */
  chainId?: Buffer | undefined;
  rotationBytes: number;
  retentionDays: number;
  log: Logger;
  now?: () => number;
  /** For the pace of heads; how long the disk may take is measured by the process's own clock. */
  monotonicNow?: () => number;
  disk?: AuditDisk;
  timings?: Partial<AuditTimings>;
}

interface Waiting {
  /** Undefined for a head, which is made when the end of the chain before it is known. */
  body: string | undefined;
  sinceMs: number;
  settle: ((error?: Error) => void) | undefined;
  isResumed?: boolean;
}

interface ChainEnd {
  sequence: number;
  hash: string;
}

interface OpenFile {
  handle: FileHandle;
  inode: number;
  device: number;
  size: number;
  firstSequence: number;
  firstAtMs: number;
}

const writeBytes: AuditDisk['write'] = (descriptor, bytes, position) =>
  new Promise((resolve, reject) => {
    write(descriptor, bytes, 0, bytes.length, position, (error, written) =>
      error === null ? resolve(written) : reject(error),
    );
  });

/** Linux writes and syncs in one call; elsewhere `O_DSYNC` may mean less than `fdatasync`. */
const operatingSystem: AuditDisk =
  process.platform === 'linux'
    ? { flags: constants.O_DSYNC, write: writeBytes }
    : { write: writeBytes, sync: promisify(fdatasync) };

const dayMs = 86_400_000;

export class AuditTrail {
  readonly #options: AuditTrailOptions;
  /** How long closed files are kept. */
  retentionDays: number;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #monotonicNow: () => number;
  readonly #disk: AuditDisk;
  readonly #timings: AuditTimings;
  readonly #startedAt: { wallMs: number; monotonicMs: number };
  #signer: AuditSigner | undefined;
  #chainId: Buffer = Buffer.alloc(0);
  #lock: DatabaseSync | undefined;
  #inUse: AuditInUse | undefined;
  #opening: Promise<OpenFile> | undefined;
  #file: OpenFile | undefined;
  /** Of the last line that is on the disk; unknown until the log was opened. */
  #end: ChainEnd | undefined;
  #waiting: Waiting[] = [];
  #inFlight: Waiting[] = [];
  /** About how many entries come at once: those of a sync, and those that wait when it is done. */
  #crowd = 0;
  #pumping: Promise<void> | undefined;
  #watch: NodeJS.Timeout | undefined;
  #blocked: { reason: string; sinceMs: number; refused: number } | undefined;
  #probe: NodeJS.Timeout | undefined;
  #timers: NodeJS.Timeout[] = [];
  #lastHead = { sequence: 0, atMs: Number.NEGATIVE_INFINITY };
  #operationsSinceHead = 0;
  #headWaits = false;
  #stopping = false;
  #stopped: Promise<void> | undefined;
  #factListeners: ((fact: AuditFact) => void)[] = [];
  #headListeners: ((head: AuditHead) => void)[] = [];
  #noticeListeners: ((notice: AuditNotice) => void)[] = [];
  readonly counters = { entries: 0, commits: 0, bytes: 0, refused: 0, blockings: 0, rotations: 0 };

  private constructor(options: AuditTrailOptions) {
    this.#options = options;
    this.retentionDays = options.retentionDays;
    this.#log = options.log;
    this.#now = options.now ?? Date.now;
    this.#monotonicNow = options.monotonicNow ?? (() => performance.now());
    this.#disk = options.disk ?? operatingSystem;
    this.#timings = { ...auditLimits, ...options.timings };
    this.#startedAt = { wallMs: this.#now(), monotonicMs: this.#monotonicNow() };
  }

  /**
   * Opens the log and mends what a crash left. Where the disk does not let it, the trail is there
   * all the same, blocked, and tries on.
   * @throws AuditInUse where another process writes it
   */
  static async open(options: AuditTrailOptions): Promise<AuditTrail> {
    const trail = new AuditTrail(options);
    await Promise.race([trail.#start(), pause(trail.#timings.blockedAfterMs)]);
    if (trail.#inUse !== undefined) throw trail.#inUse;
    if (trail.#file === undefined && trail.#blocked === undefined) {
      trail.#block('the log could not be opened in time');
    }
    return trail;
  }

  /**
   * Resolves when the entry is on the disk. Entries are in the order of the calls.
   * @throws AuditBlocked
   */
  record(fact: AuditFact): Promise<void> {
    for (const listener of this.#factListeners) listener(fact);
    if (this.#blocked !== undefined) return this.#refuse(this.#blocked.reason);
    if (this.#stopping) return this.#refuse('the agent stops');
    if (this.#waiting.length >= auditLimits.waitingMax)
      return this.#refuse('too many entries wait');
    const body = operationBody(fact, this.#now());
    return new Promise((resolve, reject) => {
      this.#queue(body, (error) => (error === undefined ? resolve() : reject(error)));
    });
  }

  /** Called for every fact, also for those that are refused; must be quick. */
  onFact(listener: (fact: AuditFact) => void): void {
    this.#factListeners.push(listener);
  }

  /** Called when a signed head is on the disk. */
  onHead(listener: (head: AuditHead) => void): void {
    this.#headListeners.push(listener);
  }

  onNotice(listener: (notice: AuditNotice) => void): void {
    this.#noticeListeners.push(listener);
  }

  get logFile(): string {
    return this.#options.logFile;
  }

  get keyFile(): string {
    return this.#options.keyFile;
  }

  /** Undefined while entries are written. */
  get blocked(): { reason: string; sinceMs: number } | undefined {
    return this.#blocked;
  }

  /** Entries that wait for the disk. */
  get waiting(): number {
    return this.#waiting.length + this.#inFlight.length;
  }

  /** The last entry on the disk; undefined until the log could be opened. */
  get sequence(): number | undefined {
    return this.#end?.sequence;
  }

  /** Writes what waits and a last head, and gives the log free; also for whoever asks while that goes on. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#stopping = true;
    for (const timer of this.#timers) clearInterval(timer);
    clearTimeout(this.#probe);
    if (this.#blocked === undefined) {
      this.#takeHead();
      await Promise.race([this.#pump(), pause(auditLimits.stopWithinMs)]);
    }
    clearInterval(this.#watch);
    for (const waiting of this.#waiting.splice(0)) waiting.settle?.(new AuditBlocked('it stops'));
    await this.#close();
    this.#lock?.close();
    this.#lock = undefined;
  }

  // Opening

  async #start(): Promise<void> {
    try {
      await this.#openOnce();
    } catch (error) {
      if (error instanceof AuditInUse) {
        this.#inUse = error;
        return;
      }
      this.#block(reasonOf(error));
    }
    if (this.#stopping) return;
    this.#timers.push(
      setInterval(() => this.#headWhenDue(), this.#timings.headsApartMs).unref(),
      setInterval(() => void this.retire(), auditLimits.retentionEveryMs).unref(),
    );
    void this.#pump();
  }

  /** One at a time, also where one hangs. */
  #openOnce(): Promise<OpenFile> {
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  /** Takes the lock and the key, finds the end of the log, and cuts off what a crash left. */
  async #open(): Promise<OpenFile> {
    const { logFile, keyFile } = this.#options;
    if (this.#end === undefined) makePrivateFolder(dirname(logFile));
    this.#takeLock();
    this.#signer ??= AuditSigner.atFile(keyFile);
    const found = await this.#findFile(logFile);
    if (found === undefined) return this.#begin();
    if (this.#end === undefined) {
      this.#end = { sequence: found.sequence, hash: found.hash };
      this.#chainId = Buffer.from(found.first.chain, 'hex');
    } else if (found.sequence < this.#end.sequence || found.first.chain !== this.#chain) {
      this.#notify({ kind: 'broken', reason: `${logFile} is not the log that was written` });
    } else if (found.sequence === this.#end.sequence) {
      if (found.hash !== this.#end.hash) {
        this.#notify({ kind: 'broken', reason: `the entry ${found.sequence} was changed` });
      }
    } else {
      // Of a write that failed half-way: these entries chain on, and their operations were refused.
      this.#end = { sequence: found.sequence, hash: found.hash };
    }
    if (found.broken !== undefined) this.#notify({ kind: 'broken', reason: found.broken });
    const handle = await open(logFile, constants.O_RDWR | (this.#disk.flags ?? 0));
    try {
      if (found.torn !== undefined) {
        await handle.truncate(found.size);
        this.#queueFirst('mended', found.torn);
      }
      const { ino, dev } = await handle.stat();
      this.#file = {
        handle,
        inode: ino,
        device: dev,
        size: found.size,
        firstSequence: found.first.sequence,
        firstAtMs: Date.parse(found.first.at),
      };
    } catch (error) {
      await handle.close();
      throw error;
    }
    if (found.first.signerKey !== this.#signer.publicKey.toString('base64')) {
      await this.#closeCurrent();
      return this.#begin();
    }
    return this.#file;
  }

  /** The current file, where it is one; one without a first line is put out of the way. */
  async #findFile(logFile: string) {
    try {
      if (!(await isRegularFile(logFile))) throw new Error(`${logFile} is not a file`);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
    const found = await readEnd(logFile);
    if (found !== undefined) return found;
    const { size } = await stat(logFile);
    if (size > auditLimits.lineBytes) {
      this.#notify({ kind: 'broken', reason: `${logFile} is no audit log` });
      await rename(logFile, `${logFile}.damaged.${this.#now()}`);
    } else {
      // The crash was at its birth: nothing in it was acknowledged.
      await unlink(logFile);
    }
    return undefined;
  }

  /** Begins a file: the next of the chain, or the first. */
  async #begin(): Promise<OpenFile> {
    const { logFile } = this.#options;
    if (this.#end === undefined) await this.#findEndOfClosedFiles();
    const before = this.#end ?? beforeTheFirst;
    if (this.#chainId.length === 0) this.#chainId = this.#options.chainId ?? randomBytes(16);
    const nowMs = this.#now();
    const body = bookkeepingBody('file', nowMs, {
      format: auditFormat,
      chain: this.#chain,
      previous: before.hash,
      signerKey: this.#signer?.publicKey.toString('base64'),
    });
    const { line, hash } = chainLine(body, before.sequence + 1, before.hash);
    const bytes = Buffer.from(line);
    const create = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
    const handle = await open(logFile, create | (this.#disk.flags ?? 0), 0o600);
    try {
      await this.#writeAll(handle.fd, bytes, 0);
      await this.#disk.sync?.(handle.fd);
      await syncFolder(dirname(logFile));
      const { ino, dev } = await handle.stat();
      this.#end = { sequence: before.sequence + 1, hash };
      this.#file = {
        handle,
        inode: ino,
        device: dev,
        size: bytes.length,
        firstSequence: before.sequence + 1,
        firstAtMs: nowMs,
      };
      return this.#file;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  async #findEndOfClosedFiles(): Promise<void> {
    const last = (await closedFiles(this.#options.logFile)).at(-1);
    if (last === undefined) return;
    const end = await readEnd(last.path);
    if (end === undefined) {
      this.#notify({ kind: 'broken', reason: `${last.path} is no audit log` });
      return;
    }
    if (end.broken !== undefined) this.#notify({ kind: 'broken', reason: end.broken });
    this.#end = { sequence: end.sequence, hash: end.hash };
    this.#chainId = Buffer.from(end.first.chain, 'hex');
  }

  /** An open transaction is a lock of the operating system's: it goes with the process. */
  #takeLock(): void {
    if (this.#lock !== undefined) return;
    const lock = new DatabaseSync(`${this.#options.logFile}.lock`, { timeout: 500 });
    try {
      lock.exec('begin exclusive');
    } catch (error) {
      lock.close();
      if (/locked|busy/i.test((error as Error).message)) {
        throw new AuditInUse(this.#options.logFile);
      }
      throw error;
    }
    this.#lock = lock;
  }

  get #chain(): string {
    return this.#chainId.toString('hex');
  }

  // Writing

  #queue(body: Waiting['body'], settle: Waiting['settle']): void {
    this.#waiting.push({ body, sinceMs: performance.now(), settle });
    this.#watch ??= setInterval(() => this.#watchWaiting(), auditLimits.watchMs);
    void this.#pump();
  }

  #queueFirst(type: 'mended' | 'resumed', fields: Record<string, unknown>): void {
    this.#waiting.unshift({
      body: bookkeepingBody(type, this.#now(), fields),
      sinceMs: performance.now(),
      settle: undefined,
      isResumed: type === 'resumed',
    });
  }

  /** At the end of this turn of the event loop, with whatever else it brings. */
  #pump(): Promise<void> {
    this.#pumping ??= nextTurn().then(() => this.#run());
    return this.#pumping;
  }

  async #run(): Promise<void> {
    try {
      while (this.#waiting.length > 0) {
        await this.#gather();
        if (this.#waiting.length > 0) await this.#commit();
      }
    } catch (error) {
      await this.#failed(error);
    } finally {
      this.#pumping = undefined;
      if (this.#waiting.length === 0) {
        clearInterval(this.#watch);
        this.#watch = undefined;
      }
    }
  }

  /** Waits for half of a crowd, as long as every turn of the event loop brings some of it. */
  async #gather(): Promise<void> {
    const enough = Math.min(this.#crowd, auditLimits.batchEntries) / 2;
    const startedMs = performance.now();
    let before = 0;
    while (this.#waiting.length > before && this.#waiting.length < enough) {
      before = this.#waiting.length;
      await nextTurn();
      if (performance.now() - startedMs >= this.#timings.gatherMs) return;
    }
  }

  async #commit(): Promise<void> {
    let file = this.#file ?? (await this.#openOnce());
    if (this.#isFull(file)) {
      await this.#closeCurrent();
      file = await this.#begin();
      this.counters.rotations += 1;
    }
    const batch = this.#takeBatch();
    this.#inFlight = batch.entries;
    const { logFile } = this.#options;
    const looked = stat(logFile).catch((error: Error) => error);
    await this.#writeAll(file.handle.fd, batch.bytes, file.size);
    await this.#disk.sync?.(file.handle.fd);
    const there = await looked;
    if (there instanceof Error) throw there;
    if (there.ino !== file.inode || there.dev !== file.device) {
      throw new Error(`${logFile} was replaced`);
    }
    file.size += batch.bytes.length;
    this.#end = batch.end;
    this.counters.commits += 1;
    this.counters.entries += batch.entries.length;
    this.counters.bytes += batch.bytes.length;
    this.#inFlight = [];
    const crowd = batch.entries.length + this.#waiting.length;
    this.#crowd = Math.max(crowd, this.#crowd * auditLimits.crowdKept);
    if (this.#blocked !== undefined) this.#resumed(batch.tellsResumed);
    for (const { settle } of batch.entries) settle?.();
    for (const head of batch.heads) for (const listener of this.#headListeners) listener(head);
    this.#operationsSinceHead += batch.operations;
    this.#headWhenDue();
  }

  #takeBatch() {
    const lines: string[] = [];
    const heads: AuditHead[] = [];
    let end = this.#end ?? beforeTheFirst;
    let length = 0;
    let operations = 0;
    let tellsResumed = false;
    for (const { body, isResumed } of this.#waiting) {
      if (lines.length >= auditLimits.batchEntries || length >= auditLimits.batchBytes / 2) break;
      if (body === undefined) {
        heads.push(this.#sign(end));
        this.#headWaits = false;
      } else {
        operations += 1;
      }
      tellsResumed ||= isResumed === true;
      const { line, hash } = chainLine(
        body ?? headBody(heads.at(-1) as AuditHead),
        end.sequence + 1,
        end.hash,
      );
      end = { sequence: end.sequence + 1, hash };
      length += line.length;
      lines.push(line);
    }
    const entries = this.#waiting.splice(0, lines.length);
    return { entries, bytes: Buffer.from(lines.join('')), end, heads, operations, tellsResumed };
  }

  async #writeAll(descriptor: number, bytes: Buffer, position: number): Promise<void> {
    let written = 0;
    while (written < bytes.length) {
      const more = await this.#disk.write(descriptor, bytes.subarray(written), position + written);
      if (more === 0) throw new Error('the disk takes no more bytes');
      written += more;
    }
  }

  #isFull(file: OpenFile): boolean {
    const { rotationBytes } = this.#options;
    const { retentionDays } = this;
    if (file.size >= rotationBytes) return true;
    const ageMs = Math.max(dayMs, retentionDays * dayMs * auditLimits.fileAgeShare);
    return this.#now() - file.firstAtMs >= ageMs && this.#end?.sequence !== file.firstSequence;
  }

  async #closeCurrent(): Promise<void> {
    const file = this.#file;
    if (file === undefined) return;
    const { logFile } = this.#options;
    await rename(logFile, closedFilePath(logFile, file.firstSequence));
    await this.#close();
    await syncFolder(dirname(logFile));
  }

  async #close(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    await file?.handle.close().catch(() => undefined);
  }

  // Blocked and back

  async #failed(error: unknown): Promise<void> {
    this.#block(reasonOf(error));
    await this.#close();
  }

  /** Refuses whatever waits; what comes is refused at once until a try goes through. */
  #block(reason: string): void {
    if (this.#blocked === undefined) {
      this.#blocked = { reason, sinceMs: this.#now(), refused: 0 };
      this.counters.blockings += 1;
      this.#log.error({ reason }, 'the audit is blocked: operations are refused');
      this.#notify({ kind: 'blocked', reason });
    }
    const refused = [...this.#inFlight, ...this.#waiting];
    this.#waiting = [];
    this.#inFlight = [];
    this.#headWaits = false;
    for (const { settle } of refused) {
      if (settle === undefined) continue;
      this.#blocked.refused += 1;
      this.counters.refused += 1;
      settle(new AuditBlocked(reason));
    }
    if (this.#stopping) return;
    clearTimeout(this.#probe);
    this.#probe = setTimeout(() => this.#tryAgain(), this.#timings.probeMs).unref();
  }

  /** Writes the line that says since when; a try that hangs is the next try as well. */
  #tryAgain(): void {
    const blocked = this.#blocked;
    if (blocked === undefined || this.#stopping) return;
    if (this.#pumping !== undefined) {
      this.#probe = setTimeout(() => this.#tryAgain(), this.#timings.probeMs).unref();
      return;
    }
    this.#queueResumed(blocked);
    void this.#pump();
  }

  #queueResumed(blocked: { sinceMs: number; refused: number }): void {
    this.#queueFirst('resumed', {
      blockedSince: new Date(blocked.sinceMs).toISOString(),
      refused: blocked.refused,
    });
  }

  /** A write that hung says nothing of it when it goes through: then the line of it comes next. */
  #resumed(isTold: boolean): void {
    const blocked = this.#blocked;
    if (blocked === undefined) return;
    this.#blocked = undefined;
    clearTimeout(this.#probe);
    if (!isTold) this.#queueResumed(blocked);
    const facts = { refused: blocked.refused, blockedForMs: this.#now() - blocked.sinceMs };
    this.#log.warn(facts, 'the audit is written again');
    this.#notify({ kind: 'resumed', ...facts });
  }

  #watchWaiting(): void {
    const oldest = this.#inFlight[0] ?? this.#waiting[0];
    if (oldest === undefined || this.#blocked !== undefined) return;
    if (performance.now() - oldest.sinceMs < this.#timings.blockedAfterMs) return;
    this.#block(`the disk has not answered for ${this.#timings.blockedAfterMs} ms`);
  }

  #refuse(reason: string): Promise<never> {
    if (this.#blocked !== undefined) this.#blocked.refused += 1;
    this.counters.refused += 1;
    return Promise.reject(new AuditBlocked(reason));
  }

  #notify(notice: AuditNotice): void {
    if (notice.kind === 'broken') this.#log.error({ reason: notice.reason }, 'the audit is broken');
    for (const listener of this.#noticeListeners) listener(notice);
  }

  // Heads and retention

  #headWhenDue(): void {
    if (this.#operationsSinceHead === 0 || this.#blocked !== undefined || this.#stopping) return;
    const elapsedMs = this.#monotonicNow() - this.#lastHead.atMs;
    const due =
      elapsedMs >= auditLimits.headEveryMs ||
      (this.#operationsSinceHead >= auditLimits.headEveryEntries &&
        elapsedMs >= this.#timings.headsApartMs);
    if (due) this.#takeHead();
  }

  #takeHead(): void {
    if (this.#headWaits || this.#operationsSinceHead + this.#waiting.length === 0) return;
    this.#headWaits = true;
    this.#operationsSinceHead = 0;
    this.#lastHead = { sequence: this.#end?.sequence ?? 0, atMs: this.#monotonicNow() };
    this.#queue(undefined, undefined);
  }

  #sign(end: ChainEnd): AuditHead {
    const signer = this.#signer;
    if (signer === undefined) throw new Error('the audit has no key');
    const facts = {
      chainId: this.#chainId,
      sequence: end.sequence,
      hash: Buffer.from(end.hash, 'hex'),
      atUnixMs: this.#now(),
    };
    return { ...facts, signature: signer.sign(facts), signerKey: signer.publicKey };
  }

  /**
   * Removes closed files whose youngest entry is older than the retention, after a signed line says so
   * and a head covers that. A few
   * at a time, and none while the wall clock has jumped: a wrong clock must not wipe the history.
   */
  async retire(): Promise<number> {
    const { logFile } = this.#options;
    const { retentionDays } = this;
    if (this.#blocked !== undefined || this.#stopping || this.#clockJumped) return 0;
    try {
      const closed = await closedFiles(logFile);
      const limitMs = this.#now() - retentionDays * dayMs;
      const most = Math.ceil(closed.length / auditLimits.retiredShare);
      const due: string[] = [];
      let through = 0;
      let next: FileLine | undefined;
      for (const [index, { path }] of closed.slice(0, most).entries()) {
        const follows = await readFirst(closed[index + 1]?.path ?? logFile);
        if (follows === undefined || Date.parse(follows.at) > limitMs) break;
        due.push(path);
        next = follows;
        through = follows.sequence - 1;
      }
      if (next === undefined) return 0;
      const facts = { through, lastHash: next.previous, before: next.at, retentionDays };
      const signature = this.#signer?.signRetirement({ chain: this.#chain, ...facts });
      const fields = { ...facts, signature: signature?.toString('base64') };
      await new Promise<void>((resolve, reject) => {
        this.#queue(bookkeepingBody('retired', this.#now(), fields), (error) =>
          error === undefined ? resolve() : reject(error),
        );
      });
      await this.#headOnDisk();
      for (const path of due) await unlink(path);
      await syncFolder(dirname(logFile));
      this.#log.info({ through, files: due.length }, 'old audit entries were retired');
      return due.length;
    } catch (error) {
      this.#log.error({ error: String(error) }, 'old audit entries could not be retired');
      return 0;
    }
  }

  /** Signs what is written, without waiting for its time. */
  #headOnDisk(): Promise<void> {
    this.#operationsSinceHead = 0;
    this.#lastHead = { sequence: this.#end?.sequence ?? 0, atMs: this.#monotonicNow() };
    return new Promise((resolve, reject) => {
      this.#queue(undefined, (error) => (error === undefined ? resolve() : reject(error)));
    });
  }

  get #clockJumped(): boolean {
    const { wallMs, monotonicMs } = this.#startedAt;
    const driftMs = this.#now() - wallMs - (this.#monotonicNow() - monotonicMs);
    return Math.abs(driftMs) > auditLimits.clockJumpMs;
  }
}

function headBody({ sequence, hash, atUnixMs, signature }: AuditHead): string {
  return bookkeepingBody('head', atUnixMs, {
    head: {
      sequence,
      hash: hash.toString('hex'),
      atUnixMs,
      signature: signature.toString('base64'),
    },
  });
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
