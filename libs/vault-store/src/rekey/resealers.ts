/** Who encrypts a page anew: worker threads, this thread, or an encryptor of the caller's own. */
import { availableParallelism } from 'node:os';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Piscina } from 'piscina';
import type { Encryptor, PasswordEncryptor } from '../encryptor.ts';
import { vaultLimits } from '../limits.ts';
import { makeKey } from '../password-keys.ts';
import {
  asBuffer,
  decodeDerivation,
  derivationBytes,
  fingerprint,
  isIntact,
} from '../record-format.ts';
import { CorruptRecord, InvalidPassword } from '../vault-error.ts';
import {
  type DerivedKeys,
  type PageRow,
  type ResealedPage,
  type ResealTask,
  type RowPage,
  rowPlan,
  rowState,
  type SpareBytes,
} from './packed-page.ts';
import type { Fingerprint } from './rekey-rows.ts';
import { resealPage } from './reseal-page.ts';

export interface Resealer {
  /** Records of a page: few where each costs much. */
  readonly pageRecords: number;
  readonly fingerprint: Fingerprint;
  /** @throws the reason of the signal */
  reseal(page: RowPage, signal: AbortSignal): Promise<ResealedPage>;
  close(): Promise<void>;
}

export interface Passwords {
  oldPassword: string;
  newPassword: string;
}

/** Below this many records a thread takes longer to start than to work. */
const recordsForThreads = 5_000;
const dearPageRecords = 32;
/** Reading and writing, in one thread, keep up with no more. */
const usefulThreads = 4;

export class PasswordResealer implements Resealer {
  readonly pageRecords: number;
  readonly fingerprint = fingerprint;
  readonly #encryptor: PasswordEncryptor;
  readonly #passwords: Passwords;
  readonly #upgrades: boolean;
  readonly #threads: number;
  readonly #spare: SpareBytes;
  /** Started with the first page, when the memory of Argon2id is free again. */
  #pool: Promise<Piscina<ResealTask, ResealedPage>> | undefined;
  /** Of the vault's salts: few. Those of single records are used once. */
  readonly #keys = new Map<string, Promise<DerivedKeys>>();

  constructor(options: {
    encryptor: PasswordEncryptor;
    passwords: Passwords;
    /** To the current parameters, instead of to another password. */
    upgrades: boolean;
    /** Expected. */
    records: number;
    workers: number | undefined;
    /** Where the bytes of new values come from; whoever has written them gives them back. */
    spare: SpareBytes;
  }) {
    const { encryptor, passwords, upgrades, records, spare } = options;
    this.#spare = spare;
    this.#encryptor = encryptor;
    this.#passwords = passwords;
    this.#upgrades = upgrades;
    this.pageRecords =
      encryptor.saltScope === 'record' ? dearPageRecords : vaultLimits.rekeyPageRecords;
    const workers =
      options.workers ??
      (records < recordsForThreads ? 0 : Math.min(availableParallelism(), usefulThreads));
    this.#threads =
      encryptor.random === undefined ? Math.min(workers, vaultLimits.maxRekeyWorkers) : 0;
  }

  async reseal(page: RowPage, signal: AbortSignal): Promise<ResealedPage> {
    const plan = new Uint16Array(page.count);
    const derivations: DerivedKeys[] = [];
    const known = new Map<string, number>();
    /** A row whose keys are known: what begins as it does has the same. */
    let last: number | undefined;
    for (let index = 0; index < page.count; index += 1) {
      if (last !== undefined && page.beginsAs(index, last, derivationBytes)) {
        plan[index] = plan[last] as number;
        continue;
      }
      const name = latin(page.value(index).subarray(0, derivationBytes));
      const place = known.get(name) ?? (await this.#place(page.row(index), derivations, signal));
      plan[index] = place;
      if (place >= rowPlan.alreadyCurrent) continue;
      known.set(name, place);
      last = index;
    }
    const room = this.#spare.take(page.bytes.length);
    const resealed = await this.#run({ rows: page.bytes, plan, derivations, room });
    page.bytes = resealed.rows;
    return resealed;
  }

  /** Once for a salt and page: keys for it, or what is known of the row without any. */
  async #place(row: PageRow, derivations: DerivedKeys[], signal: AbortSignal): Promise<number> {
    // First of all: what is damaged names a salt that never was.
    if (!isIntact(row.value, row)) return rowPlan.corrupt;
    signal.throwIfAborted();
    if (this.#upgrades && this.#encryptor.isCurrent(row.value)) return rowPlan.alreadyCurrent;
    const { oldKey, newKey, newDerivation } = await this.#keysFor(
      row.value.subarray(0, derivationBytes),
    );
    const copy = { oldKey: oldKey.slice(), newKey: newKey.slice(), newDerivation };
    return derivations.push(copy) - 1;
  }

  async close(): Promise<void> {
    await (await this.#pool)?.destroy();
    for (const keys of this.#keys.values()) {
      await keys.then(
        ({ oldKey, newKey }) => {
          oldKey.fill(0);
          newKey.fill(0);
        },
        () => undefined,
      );
    }
    this.#keys.clear();
  }

  async #run(task: ResealTask): Promise<ResealedPage> {
    if (this.#threads === 0) return resealPage(task, this.#encryptor.random);
    this.#pool ??= startPool(this.#threads);
    const pool = await this.#pool;
    const resealed = await pool.run(task, { transferList: [task.rows.buffer, task.room] });
    for (const { oldKey, newKey } of task.derivations) {
      oldKey.fill(0);
      newKey.fill(0);
    }
    return resealed;
  }

  #keysFor(derivation: Uint8Array): Promise<DerivedKeys> {
    const name = latin(derivation);
    const known = this.#keys.get(name);
    if (known !== undefined) return known;
    const keys = this.#deriveKeys(Buffer.from(derivation));
    if (decodeDerivation(derivation).scope === 'vault') this.#keys.set(name, keys);
    return keys;
  }

  async #deriveKeys(derivation: Buffer): Promise<DerivedKeys> {
    const { oldPassword, newPassword } = this.#passwords;
    const isOwnSalt = decodeDerivation(derivation).scope === 'record';
    const newDerivation = this.#upgrades
      ? this.#encryptor.derivation()
      : isOwnSalt
        ? this.#encryptor.freshSalt(derivation)
        : derivation;
    // One behind the other: each takes the memory of an Argon2id.
    const oldKey = await this.#bytes(oldPassword, derivation);
    const newKey = await this.#bytes(newPassword, newDerivation);
    return { oldKey, newKey, newDerivation };
  }

  /** A copy: the keys of the vault go when their time is over, and this may take longer. */
  async #bytes(password: string, derivation: Uint8Array): Promise<Uint8Array> {
    if (decodeDerivation(derivation).scope === 'vault') {
      return (await this.#encryptor.keys.keyFor(password, derivation)).copy();
    }
    const key = await makeKey(password, derivation);
    const bytes = key.copy();
    key.wipe();
    return bytes;
  }
}

/** Any encryptor, in this thread. */
export class EncryptorResealer implements Resealer {
  readonly pageRecords = dearPageRecords;
  readonly fingerprint = undefined;
  readonly #encryptor: Encryptor;
  readonly #passwords: Passwords;
  readonly #spare: SpareBytes;

  constructor(encryptor: Encryptor, passwords: Passwords, spare: SpareBytes) {
    this.#encryptor = encryptor;
    this.#passwords = passwords;
    this.#spare = spare;
  }

  async reseal(page: RowPage, signal: AbortSignal): Promise<ResealedPage> {
    const { oldPassword, newPassword } = this.#passwords;
    const states = new Uint8Array(page.count);
    const lengths = new Uint32Array(page.count);
    const values: Uint8Array[] = [];
    for (const [index, row] of [...page.rows()].entries()) {
      signal.throwIfAborted();
      try {
        const value = await this.#encryptor.decrypt(row.value, oldPassword, row);
        const sealed = await this.#encryptor.encrypt(value, newPassword, row);
        values.push(sealed);
        lengths[index] = sealed.length;
        states[index] = rowState.matched;
      } catch (error) {
        if (error instanceof CorruptRecord) states[index] = rowState.corrupt;
        else if (!(error instanceof InvalidPassword)) throw error;
      }
    }
    // In memory of its own: it is used again.
    const room = this.#spare.take(values.reduce((sum, { length }) => sum + length, 0));
    const joined = new Uint8Array(room);
    let at = 0;
    for (const value of values) {
      joined.set(value, at);
      at += value.length;
    }
    return { rows: page.bytes, states, lengths, values: joined.subarray(0, at) };
  }

  async close(): Promise<void> {}
}

function latin(bytes: Uint8Array): string {
  return asBuffer(bytes).toString('latin1');
}

async function startPool(threads: number): Promise<Piscina<ResealTask, ResealedPage>> {
  // Loaded where it is needed: it takes memory at the time of Argon2id, when most is taken.
  const { Piscina } = await import('piscina');
  const extension = extname(fileURLToPath(import.meta.url));
  return new Piscina<ResealTask, ResealedPage>({
    filename: new URL(`./reseal-worker${extension}`, import.meta.url).href,
    minThreads: threads,
    maxThreads: threads,
    recordTiming: false,
    workerHistogram: false,
    // Run from its sources, a thread needs the sources of its neighbours too.
    execArgv: extension === '.ts' ? ['--conditions=keystead-source'] : [],
    // A page and little else: a heap that is left to grow grows.
    resourceLimits: { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 16 },
    env: {},
  });
}
