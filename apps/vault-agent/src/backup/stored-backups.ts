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
import {
  type BackupDestination,
  DestinationError,
  type DestinationSession,
} from './destination.ts';
import { openSession } from './destination-session.ts';

export interface StoredBackup {
  manifest: BackupManifest;
  destinations: BackupDestination[];
}

/** What a process works on carries its number, so that nobody takes it away while it lives. */
const workName = /^(?:fetched|drill|restoring)-(\d{1,10})-/;

export function workPath(folder: string, kind: 'fetched' | 'drill' | 'restoring'): string {
  return join(folder, `${kind}-${process.pid}-${randomBytes(8).toString('hex')}`);
}

/** Whether there is a process of this number on this machine. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** A backup by the names of its files: nothing of it is read yet. */
interface Named {
  id: string;
  manifestName: string;
  places: Place[];
}

/** A destination that answered, for the time of one look. */
interface Place {
  destination: BackupDestination;
  session: DestinationSession;
  failure: unknown;
}

export class StoredBackups {
  readonly #destinations: readonly BackupDestination[];
  readonly #folder: string;

  constructor(destinations: readonly BackupDestination[], folder: string) {
    this.#destinations = destinations;
    this.#folder = folder;
  }

  /**
   * The newest first. Of what is named by the files the manifests of this page alone are read. A
   * destination that does not answer is left out, unless none does.
   * @throws DestinationError
   */
  async page(
    query: { limit: number; before?: string | undefined },
    signal: AbortSignal,
  ): Promise<{ items: StoredBackup[]; isMore: boolean }> {
    return this.#look(signal, async (named) => {
      const { before } = query;
      const left = named
        .filter(({ id }) => before === undefined || id < before)
        .sort((one, other) => (one.id < other.id ? 1 : -1));
      const items: StoredBackup[] = [];
      while (items.length < query.limit && left.length > 0) {
        const next = left.splice(0, query.limit - items.length);
        const read = await inParallel(next, (each) => readManifest(each, signal));
        items.push(...read.filter((each) => each !== undefined));
      }
      return { items, isMore: left.length > 0 };
    });
  }

  /** Reads the one manifest. @throws ServiceError `not_found`, DestinationError */
  async find(id: string, signal: AbortSignal): Promise<StoredBackup> {
    return this.#look(signal, async (named) => {
      const wanted = named.find((each) => each.id === id);
      const found = wanted && (await readManifest(wanted, signal));
      if (found !== undefined) return found;
      throw new ServiceError('not_found', { detail: `No destination has the backup ${id}` });
    });
  }

  /** One session a destination for all that is listed and read. */
  async #look<T>(signal: AbortSignal, work: (named: Named[]) => Promise<T>): Promise<T> {
    const places: Place[] = [];
    const failures: unknown[] = [];
    const named = new Map<string, Named>();
    try {
      await Promise.all(
        this.#destinations.map(async (destination) => {
          try {
            const session = await openSession(destination, signal);
            const place: Place = { destination, session, failure: undefined };
            places.push(place);
            for (const { name } of await session.list()) {
              const of = manifestIdOf(name);
              if (of === undefined) continue;
              const known = named.get(of.id);
              if (known === undefined) {
                named.set(of.id, { id: of.id, manifestName: name, places: [place] });
              } else if (known.manifestName === name) known.places.push(place);
            }
          } catch (error) {
            signal.throwIfAborted();
            failures.push(error);
          }
        }),
      );
      if (failures.length > 0 && failures.length === this.#destinations.length) throw failures[0];
      // As they are configured, whichever answered first.
      const order = (place: Place) => this.#destinations.indexOf(place.destination);
      for (const each of named.values()) each.places.sort((a, b) => order(a) - order(b));
      const result = await work([...named.values()]);
      const broken = places.filter(({ failure }) => failure !== undefined);
      if (broken.length > 0 && broken.length + failures.length === this.#destinations.length) {
        throw broken[0]?.failure;
      }
      return result;
    } finally {
      for (const { session } of places) session.close();
    }
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

/** From the first of its places that has it undamaged; undefined where none has. */
async function readManifest(named: Named, signal: AbortSignal): Promise<StoredBackup | undefined> {
  for (const [index, place] of named.places.entries()) {
    try {
      const text = await place.session.readText(named.manifestName, limits.manifestMaxBytes);
      const manifest = parseManifest(text, named.manifestName);
      if (manifest === undefined) continue;
      const places = named.places.slice(index);
      return { manifest, destinations: places.map(({ destination }) => destination) };
    } catch (error) {
      signal.throwIfAborted();
      // Removed since it was listed.
      if (error instanceof DestinationError && error.reason === 'not_found') continue;
      place.failure ??= error;
    }
  }
  return undefined;
}

/** Several at once, in their order: what is far away answers slowly, not seldom. */
export async function inParallel<T, R>(
  items: readonly T[],
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const index = next;
      next += 1;
      results[index] = await work(items[index] as T);
    }
  };
  await Promise.all(Array.from({ length: limits.manifestsAtOnce }, worker));
  return results;
}
