/** What the destinations have: backups by their manifests, and their files brought to this machine. */
import { createHash, randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { ServiceError } from '@keystead/contracts/errors';
import { Corrupt } from '@keystead/envelope/sealed';
import { backupLimits as limits } from './backup-limits.ts';
import {
  type BackupManifest,
  backupFileName,
  manifestFileName,
  manifestIdOf,
  parseManifest,
} from './backup-manifest.ts';
import { type BackupDestination, DestinationError } from './destination.ts';

export interface StoredBackup {
  manifest: BackupManifest;
  destinations: BackupDestination[];
}

/** What a process works on carries its number, so that nobody takes it away while it lives. */
const workName = /^(?:fetched|drill|restoring)-(\d{1,10})-/;

export function workPath(folder: string, kind: 'fetched' | 'drill' | 'restoring'): string {
  return join(folder, `${kind}-${process.pid}-${randomBytes(8).toString('hex')}`);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

export class StoredBackups {
  readonly #destinations: readonly BackupDestination[];
  readonly #folder: string;

  constructor(destinations: readonly BackupDestination[], folder: string) {
    this.#destinations = destinations;
    this.#folder = folder;
  }

  /**
   * The newest first. A destination that does not answer is left out, unless none does.
   * @throws DestinationError
   */
  async list(signal: AbortSignal): Promise<StoredBackup[]> {
    const found = new Map<string, StoredBackup>();
    const failures: unknown[] = [];
    for (const destination of this.#destinations) {
      try {
        for (const { name } of await destination.list(signal)) {
          const named = manifestIdOf(name);
          if (named === undefined) continue;
          const known = found.get(named.id);
          if (known !== undefined) {
            known.destinations.push(destination);
            continue;
          }
          const manifest = parseManifest(await readSmall(destination, name, signal), name);
          if (manifest !== undefined) {
            found.set(manifest.id, { manifest, destinations: [destination] });
          }
        }
      } catch (error) {
        signal.throwIfAborted();
        failures.push(error);
      }
    }
    if (failures.length > 0 && failures.length === this.#destinations.length) throw failures[0];
    return [...found.values()].sort((one, other) => (one.manifest.id < other.manifest.id ? 1 : -1));
  }

  /** @throws ServiceError `not_found`, DestinationError */
  async find(id: string, signal: AbortSignal): Promise<StoredBackup> {
    const found = (await this.list(signal)).find(({ manifest }) => manifest.id === id);
    if (found === undefined) {
      throw new ServiceError('not_found', { detail: `No destination has the backup ${id}` });
    }
    return found;
  }

  /** The manifest goes first: a file without one is no backup. @throws DestinationError */
  async remove({ manifest, destinations }: StoredBackup, signal: AbortSignal): Promise<void> {
    for (const destination of destinations) {
      await destination.remove(manifestFileName(manifest), signal);
      await destination.remove(backupFileName(manifest), signal);
    }
  }

  /**
   * Brings the file here, from the first destination that has it undamaged, for the time of the work.
   * @throws Corrupt where all have it damaged, DestinationError where none answers
   */
  async withFile<T>(
    { manifest, destinations }: StoredBackup,
    signal: AbortSignal,
    work: (file: string) => Promise<T>,
  ): Promise<T> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const file = workPath(this.#folder, 'fetched');
    let failure: unknown;
    try {
      for (const destination of destinations) {
        try {
          await fetchFile(destination, manifest, file, signal);
          failure = undefined;
          break;
        } catch (error) {
          signal.throwIfAborted();
          failure ??= error;
        }
      }
      if (failure !== undefined) throw failure;
      return await work(file);
    } finally {
      await rm(file, { force: true });
    }
  }

  /** What killed processes left. At the start: what carries this one's number is an earlier one's. */
  async removeLeftOvers(): Promise<void> {
    const names = await readdir(this.#folder).catch(() => []);
    for (const name of names) {
      const pid = Number(workName.exec(name)?.[1] ?? '0');
      if (pid === 0 || (pid !== process.pid && isAlive(pid))) continue;
      await rm(join(this.#folder, name), { recursive: true, force: true });
    }
  }
}

async function fetchFile(
  destination: BackupDestination,
  manifest: BackupManifest,
  file: string,
  signal: AbortSignal,
): Promise<void> {
  const sha256 = createHash('sha256');
  let bytes = 0;
  await pipeline(
    await destination.read(backupFileName(manifest), signal),
    async function* (source: AsyncIterable<Buffer>) {
      for await (const chunk of source) {
        sha256.update(chunk);
        bytes += chunk.length;
        if (bytes > manifest.bytes) break;
        yield chunk;
      }
    },
    createWriteStream(file, { mode: 0o600 }),
    { signal },
  );
  if (bytes === manifest.bytes && sha256.digest('hex') === manifest.sha256) return;
  throw new Corrupt(
    'content',
    `${destination.label} has the backup ${manifest.id} damaged: its checksum is not the manifest's`,
  );
}

/** A manifest's text. @throws DestinationError */
export async function readSmall(
  destination: BackupDestination,
  name: string,
  signal: AbortSignal,
): Promise<string> {
  const stream = await destination.read(name, signal);
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of stream) {
      length += (chunk as Buffer).length;
      if (length > limits.manifestMaxBytes) break;
      chunks.push(chunk as Buffer);
    }
  } catch (error) {
    if (error instanceof DestinationError) throw error;
    signal.throwIfAborted();
    throw new DestinationError(destination.label, 'unavailable', `${name} was not read`, error);
  } finally {
    stream.destroy();
  }
  return Buffer.concat(chunks).toString('utf8');
}
