/** A folder: on another disk, or on a share that is mounted. */
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { backupLimits } from './backup-limits.ts';
import {
  type BackupDestination,
  DestinationError,
  type DestinationReason,
  isBackupFileName,
  requireFileName,
  type StoredFile,
} from './destination.ts';

const unfinishedEnding = '.part';

export class DirectoryDestination implements BackupDestination {
  readonly label: string;
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
    this.label = `local:${folder}`;
  }

  async put(name: string, file: string, signal: AbortSignal): Promise<void> {
    requireFileName(name);
    const target = join(this.#folder, name);
    const unfinished = target + unfinishedEnding;
    await this.#explained(async () => {
      await mkdir(this.#folder, { recursive: true, mode: 0o700 });
      try {
        await rm(unfinished, { force: true });
        await pipeline(
          createReadStream(file),
          createWriteStream(unfinished, { flags: 'wx', mode: 0o600, flush: true }),
          { signal },
        );
        await rename(unfinished, target);
      } catch (error) {
        await rm(unfinished, { force: true }).catch(() => undefined);
        throw error;
      }
      await this.#syncFolder();
    });
  }

  async read(name: string, signal: AbortSignal): Promise<Readable> {
    requireFileName(name);
    return this.#explained(async () => {
      const handle = await open(join(this.#folder, name), 'r');
      return handle.createReadStream({ signal });
    });
  }

  async list(): Promise<StoredFile[]> {
    return this.#explained(async () => {
      const files: StoredFile[] = [];
      for (const entry of await this.#entries()) {
        if (!entry.isFile() || !isBackupFileName(entry.name)) continue;
        const found = await stat(join(this.#folder, entry.name)).catch(() => undefined);
        if (found !== undefined) files.push({ name: entry.name, bytes: found.size });
        if (files.length > backupLimits.filesListedMax) {
          throw new DestinationError(this.label, 'misconfigured', 'holds too many files');
        }
      }
      return files;
    });
  }

  async remove(name: string): Promise<void> {
    requireFileName(name);
    await this.#explained(async () => {
      await rm(join(this.#folder, name), { force: true });
      await this.#syncFolder();
    });
  }

  async removeUnfinished(start: string): Promise<void> {
    await this.#explained(async () => {
      for (const { name } of await this.#entries()) {
        if (!name.startsWith(start) || !name.endsWith(unfinishedEnding)) continue;
        if (!isBackupFileName(name.slice(0, -unfinishedEnding.length))) continue;
        await rm(join(this.#folder, name), { force: true });
      }
    });
  }

  async close(): Promise<void> {}

  async #entries() {
    try {
      return await readdir(this.#folder, { withFileTypes: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  }

  /** Not every share can. */
  async #syncFolder(): Promise<void> {
    const handle = await open(this.#folder, 'r').catch(() => undefined);
    if (handle === undefined) return;
    await handle.sync().catch(() => undefined);
    await handle.close();
  }

  async #explained<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const { code, name } = error as NodeJS.ErrnoException;
      if (error instanceof DestinationError || name === 'AbortError') throw error;
      throw new DestinationError(
        this.label,
        reasons[code ?? ''] ?? 'unavailable',
        code ?? 'it failed',
        error,
      );
    }
  }
}

const reasons: Record<string, DestinationReason | undefined> = {
  ENOENT: 'not_found',
  EACCES: 'denied',
  EPERM: 'denied',
  EROFS: 'denied',
  ENOSPC: 'full',
  EDQUOT: 'full',
  EFBIG: 'full',
  ENOTDIR: 'misconfigured',
  EISDIR: 'misconfigured',
  ELOOP: 'misconfigured',
  ENAMETOOLONG: 'misconfigured',
};
