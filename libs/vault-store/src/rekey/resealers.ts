/** Who encrypts a page anew: worker threads, this thread, or an encryptor of the caller's own. */
import { availableParallelism } from 'node:os';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
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
  type PackedPage,
  type PageRow,
  packPage,
  type ResealedPage,
  rowState,
} from './packed-page.ts';
import type { Fingerprint } from './rekey-rows.ts';
import { resealPage } from './reseal-page.ts';

export type RowOutcome =
  | { state: 'matched'; value: Uint8Array }
  | { state: 'other_password' | 'corrupt' | 'already_current' };

export interface Resealer {
  /** Records of a page: few where each costs much. */
  readonly pageRecords: number;
  readonly fingerprint: Fingerprint;
  /** One outcome a row, in order. @throws the reason of the signal */
  reseal(rows: readonly PageRow[], signal: AbortSignal): Promise<RowOutcome[]>;
  close(): Promise<void>;
}

export interface Passwords {
  oldPassword: string;
  newPassword: string;
}

/** Below this many records a thread takes longer to start than to work. */
const recordsForThreads = 5_000;
const dearPageRecords = 32;

export class PasswordResealer implements Resealer {
  readonly pageRecords: number;
  readonly fingerprint = fingerprint;
  readonly #encryptor: PasswordEncryptor;
  readonly #passwords: Passwords;
  readonly #upgrades: boolean;
  readonly #pool: Piscina<PackedPage, ResealedPage> | undefined;
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
  }) {
    const { encryptor, passwords, upgrades, records } = options;
    this.#encryptor = encryptor;
    this.#passwords = passwords;
    this.#upgrades = upgrades;
    this.pageRecords =
      encryptor.saltScope === 'record' ? dearPageRecords : vaultLimits.rekeyPageRecords;
    const workers =
      options.workers ?? (records < recordsForThreads ? 0 : Math.min(availableParallelism(), 4));
    this.#pool = workers === 0 || encryptor.random !== undefined ? undefined : startPool(workers);
  }

  async reseal(rows: readonly PageRow[], signal: AbortSignal): Promise<RowOutcome[]> {
    const outcomes: (RowOutcome | undefined)[] = rows.map(() => undefined);
    const sent: number[] = [];
    const derivations: DerivedKeys[] = [];
    const places: number[] = [];
    const known = new Map<string, number>();
    let lastName: Uint8Array | undefined;
    let lastPlace = 0;
    for (const [index, row] of rows.entries()) {
      const name = row.value.subarray(0, derivationBytes);
      if (lastName === undefined || asBuffer(name).compare(lastName) !== 0) {
        const found = known.get(latin(name));
        if (found === undefined) {
          // Once for a salt, and first of all: what is damaged names a salt that never was.
          if (!isIntact(row.value, row)) {
            outcomes[index] = { state: 'corrupt' };
            continue;
          }
          signal.throwIfAborted();
          if (this.#upgrades && this.#encryptor.isCurrent(row.value)) {
            outcomes[index] = { state: 'already_current' };
            continue;
          }
          const keys = await this.#keysFor(name);
          lastPlace = derivations.push({
            oldKey: Uint8Array.from(keys.oldKey),
            newKey: Uint8Array.from(keys.newKey),
            newDerivation: keys.newDerivation,
          });
          lastPlace -= 1;
          known.set(latin(name), lastPlace);
        } else {
          lastPlace = found;
        }
        lastName = name;
      }
      sent.push(index);
      places.push(lastPlace);
    }
    if (sent.length > 0) {
      const sentRows = sent.map((index) => rows[index] as PageRow);
      const page = packPage(sentRows, derivations, (index) => places[index] as number);
      const resealed = await this.#run(page);
      let at = 0;
      for (const [order, index] of sent.entries()) {
        const state = resealed.states[order];
        if (state === rowState.matched) {
          const length = resealed.lengths[order] as number;
          outcomes[index] = {
            state: 'matched',
            value: asBuffer(resealed.values).subarray(at, at + length),
          };
          at += length;
        } else {
          outcomes[index] = { state: state === rowState.corrupt ? 'corrupt' : 'other_password' };
        }
      }
    }
    return outcomes as RowOutcome[];
  }

  async close(): Promise<void> {
    await this.#pool?.destroy();
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

  async #run(page: PackedPage): Promise<ResealedPage> {
    if (this.#pool === undefined) return resealPage(page, this.#encryptor.random);
    const resealed = await this.#pool.run(page, { transferList: [page.rows.buffer] });
    for (const { oldKey, newKey } of page.derivations) {
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
    const [oldKey, newKey] = await Promise.all([
      this.#bytes(oldPassword, derivation),
      this.#bytes(newPassword, newDerivation),
    ]);
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

  constructor(encryptor: Encryptor, passwords: Passwords) {
    this.#encryptor = encryptor;
    this.#passwords = passwords;
  }

  async reseal(rows: readonly PageRow[], signal: AbortSignal): Promise<RowOutcome[]> {
    const { oldPassword, newPassword } = this.#passwords;
    const outcomes: RowOutcome[] = [];
    for (const row of rows) {
      signal.throwIfAborted();
      try {
        const value = await this.#encryptor.decrypt(row.value, oldPassword, row);
        const sealed = await this.#encryptor.encrypt(value, newPassword, row);
        outcomes.push({ state: 'matched', value: sealed });
      } catch (error) {
        if (error instanceof InvalidPassword) outcomes.push({ state: 'other_password' });
        else if (error instanceof CorruptRecord) outcomes.push({ state: 'corrupt' });
        else throw error;
      }
    }
    return outcomes;
  }

  async close(): Promise<void> {}
}

function latin(bytes: Uint8Array): string {
  return asBuffer(bytes).toString('latin1');
}

function startPool(threads: number): Piscina<PackedPage, ResealedPage> {
  const extension = extname(fileURLToPath(import.meta.url));
  return new Piscina<PackedPage, ResealedPage>({
    filename: new URL(`./reseal-worker${extension}`, import.meta.url).href,
    minThreads: threads,
    maxThreads: threads,
    recordTiming: false,
    workerHistogram: false,
    // Run from its sources, a thread needs the sources of its neighbours too.
    execArgv: extension === '.ts' ? ['--conditions=keystead-source'] : [],
    // A page and little else: a heap that is left to grow grows.
    resourceLimits: { maxYoungGenerationSizeMb: 8, maxOldGenerationSizeMb: 64 },
    env: {},
  });
}
