/**
 * Namespaces out of the vault and into it, as encrypted archives that flow: neither side holds more than
 * a batch in memory. An import reads the archive twice, first to check all of it and then to write all of
 * it in one transaction; what came in lies on the disk meanwhile, still sealed.
 */
import { randomBytes } from 'node:crypto';
import {
  createReadStream,
  createWriteStream,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { PassThrough, type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ImportResult } from '@keystead/contracts/agent-api/namespaces';
import { secretLimits } from '@keystead/contracts/agent-api/secret-limits';
import { ServiceError } from '@keystead/contracts/errors';
import { DerivedKeys } from '@keystead/envelope/password';
import { Corrupt, WrongKey } from '@keystead/envelope/sealed';
import {
  openStream,
  type StreamIdentity,
  type StreamRecipient,
  sealStream,
} from '@keystead/envelope/sealed-stream';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import type { Caller } from '../access/caller.ts';
import { type KeyRing, MasterChanged } from '../keys/key-ring.ts';
import type { AgentStore } from '../store/agent-store.ts';
import type { AgentSchema } from '../store/agent-tables.ts';
import { storeLimits } from '../store/store-limits.ts';
import { type ExportSelection, exportRows } from './archive-export.ts';
import {
  ArchiveImport,
  type ImportChoices,
  type ImportCounts,
  type Replaced,
} from './archive-import.ts';
import { type ArchiveRow, decodeRows, encodeRows } from './archive-rows.ts';
import { identityText } from './namespace-change.ts';
import type { NamespaceDirectory } from './namespace-directory.ts';

export interface TransferOptions {
  store: AgentStore;
  keys: KeyRing;
  directory: NamespaceDirectory;
  /** Where archives lie, sealed, while they are checked. */
  folder: string;
  now?: () => number;
}

export interface ImportOrder extends ImportChoices {
  dryRun: boolean;
  /** Done first in the transaction that writes. */
  before?: (queries: Queries<AgentSchema>) => Promise<void>;
  /** Done last in it. @param changed names of the namespaces that were written to */
  after?: (queries: Queries<AgentSchema>, changed: readonly string[]) => Promise<void>;
  onProgress?: (phase: 'checking' | 'writing', counts: Readonly<ImportCounts>) => void;
}

/** An export does not open as a backup, nor the other way round. */
const exportContext = Buffer.from('keystead namespace export v1');
const leftOverAfterMs = 2 * storeLimits.transferTimeoutMs + 60 * 60_000;
const spoolName = /^import-[0-9a-f]{16}\.sealed$/;

export class Transfer {
  readonly #store: AgentStore;
  readonly #keys: KeyRing;
  readonly #directory: NamespaceDirectory;
  readonly #folder: string;
  readonly #now: () => number;
  readonly #underWay = { exports: 0, imports: 0 };
  /** Of whoever keeps something about secrets by their ids. */
  onReplaced: Replaced = async () => undefined;

  constructor(options: TransferOptions) {
    this.#store = options.store;
    this.#keys = options.keys;
    this.#directory = options.directory;
    this.#folder = options.folder;
    this.#now = options.now ?? Date.now;
    this.#removeLeftOvers();
  }

  /** A sealed archive of one namespace, as it is now. @throws ServiceError `not_found`, `rate_limited` */
  async export(
    name: string,
    recipient: StreamRecipient,
    onRow?: (row: ArchiveRow) => void,
  ): Promise<Readable> {
    await this.#directory.find(name);
    const done = this.#takeTurn('exports');
    const archive = new PassThrough();
    const signal = AbortSignal.timeout(storeLimits.transferTimeoutMs);
    this.exportRows({ namespaces: [name] }, async (rows) => {
      const told = onRow === undefined ? rows : telling(rows, onRow);
      const sealed = sealStream(encodeRows(told), [recipient], { context: exportContext });
      await pipeline(sealed, archive, { signal });
    })
      .catch((error) => archive.destroy(error as Error))
      .finally(done);
    return archive;
  }

  /** Each holds a snapshot of the store, or a file as large as an archive may be. @throws ServiceError */
  #takeTurn(kind: 'exports' | 'imports'): () => void {
    if (this.#underWay[kind] >= secretLimits.transfersAtOnce) {
      throw new ServiceError('rate_limited', {
        detail: `${secretLimits.transfersAtOnce} ${kind} are under way`,
        retryAfterSeconds: 10,
      });
    }
    this.#underWay[kind] += 1;
    return () => {
      this.#underWay[kind] -= 1;
    };
  }

  /** Hands the rows of one state of the store to the work; they are gone when it ends. */
  exportRows<T>(
    selection: ExportSelection,
    work: (rows: AsyncIterable<ArchiveRow>) => Promise<T>,
  ): Promise<T> {
    return this.#store.snapshot((queries) => work(exportRows(queries, this.#keys, selection)));
  }

  /**
   * Takes a sealed archive of one namespace into the namespace of this name, all or nothing.
   * @throws ServiceError `conflict` naming what is there already, `invalid_request` for what is no such
   * archive or does not open, `limit_reached`, `payload_too_large`, `not_found`
   */
  async import(
    caller: Caller,
    name: string,
    source: Readable,
    identity: StreamIdentity,
    order: Omit<ImportOrder, 'nameHere'>,
  ): Promise<ImportResult> {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const file = join(this.#folder, `import-${randomBytes(8).toString('hex')}.sealed`);
    // Nobody waits for an Argon2id inside the transaction: the check before it derives the key.
    using derived = new DerivedKeys();
    const opens = identity.kind === 'passphrase' ? { ...identity, derived } : identity;
    const done = this.#takeTurn('imports');
    try {
      await pipeline(
        source,
        upTo(secretLimits.archiveMaxBytes),
        createWriteStream(file, { mode: 0o600 }),
      );
      const rows = () => oneNamespace(openArchive(createReadStream(file), opens));
      const counts = await this.importRows(caller, rows, { ...order, nameHere: () => name });
      const { namespaces: _namespaces, ...counted } = counts;
      return { namespace: name, dryRun: order.dryRun, ...counted };
    } finally {
      done();
      rmSync(file, { force: true });
    }
  }

  /**
   * Checks every row, and only then writes every row, in one transaction.
   * @param open the rows from the first one, each time it is called
   */
  async importRows(
    caller: Caller,
    open: () => AsyncIterable<ArchiveRow>,
    order: ImportOrder,
  ): Promise<ImportCounts> {
    const parts = {
      kind: this.#store.kind,
      keys: this.#keys,
      identity: identityText(caller.identity),
      nowMs: this.#now(),
      choices: order,
    };
    const progress = (phase: 'checking' | 'writing') =>
      order.onProgress === undefined
        ? {}
        : { onProgress: (counts: Readonly<ImportCounts>) => order.onProgress?.(phase, counts) };
    const checked = await this.#store.snapshot(async (queries) => {
      const check = new ArchiveImport({
        ...parts,
        queries,
        writes: false,
        ...progress('checking'),
      });
      await takeAll(check, open());
      return check.counts;
    });
    if (order.dryRun) return checked;
    for (let attempt = 1; ; attempt += 1) {
      try {
        const written = await this.#store.writeInBulk(async (queries) => {
          await order.before?.(queries);
          const write = new ArchiveImport({
            ...parts,
            queries,
            writes: true,
            onReplaced: this.onReplaced,
            ...progress('writing'),
          });
          await takeAll(write, open());
          await order.after?.(queries, write.changed);
          return write;
        }, storeLimits.transferTimeoutMs);
        for (const [id, key] of written.newKeys) this.#keys.keep(id, key);
        for (const name of written.changed) {
          const known = this.#directory.known(name);
          if (known !== undefined) this.#directory.changedAll(known);
        }
        return written.counts;
      } catch (error) {
        if (!(error instanceof MasterChanged) || attempt >= 5) throw error;
        await this.#keys.refresh();
      }
    }
  }

  /** What a killed import left. */
  #removeLeftOvers(): void {
    let names: string[] = [];
    try {
      names = readdirSync(this.#folder);
    } catch {
      return;
    }
    for (const name of names) {
      const file = join(this.#folder, name);
      if (!spoolName.test(name)) continue;
      // Another process may be reading one: none takes longer than this.
      const { mtimeMs } = statSync(file, { throwIfNoEntry: false }) ?? { mtimeMs: Date.now() };
      if (Date.now() - mtimeMs > leftOverAfterMs) rmSync(file, { force: true });
    }
  }
}

async function* telling(
  rows: AsyncIterable<ArchiveRow>,
  onRow: (row: ArchiveRow) => void,
): AsyncGenerator<ArchiveRow> {
  for await (const row of rows) {
    onRow(row);
    yield row;
  }
}

async function takeAll(taken: ArchiveImport, rows: AsyncIterable<ArchiveRow>): Promise<void> {
  for await (const row of rows) await taken.take(row);
  await taken.finish();
}

/** @throws ServiceError `invalid_request` for an archive of several or none */
async function* oneNamespace(rows: AsyncIterable<ArchiveRow>): AsyncGenerator<ArchiveRow> {
  let namespaces = 0;
  for await (const row of rows) {
    if (row.kind === 'namespace') namespaces += 1;
    if (namespaces > 1) break;
    yield row;
  }
  if (namespaces === 1) return;
  throw new ServiceError('invalid_request', { detail: 'The archive is not one of one namespace' });
}

/** @throws ServiceError `invalid_request` */
async function* openArchive(
  source: Readable,
  identity: StreamIdentity,
): AsyncGenerator<ArchiveRow> {
  try {
    yield* decodeRows(openStream(source, [identity], { context: exportContext }));
  } catch (error) {
    if (error instanceof WrongKey) {
      throw new ServiceError('invalid_request', {
        detail: 'The archive does not open with this passphrase or identity',
      });
    }
    if (error instanceof Corrupt) {
      throw new ServiceError('invalid_request', {
        detail: `The archive is damaged, or no export of a namespace: ${error.message}`,
      });
    }
    throw error;
  } finally {
    source.destroy();
  }
}

function upTo(maxBytes: number): Transform {
  let total = 0;
  return new Transform({
    transform: (chunk: Buffer, _encoding, done) => {
      total += chunk.length;
      if (total <= maxBytes) return done(null, chunk);
      done(
        new ServiceError('payload_too_large', {
          detail: `The archive has more than ${maxBytes} bytes`,
        }),
      );
    },
  });
}
