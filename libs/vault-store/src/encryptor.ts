/** How values are encrypted: the one that comes with the library, or one's own. */
import { type RandomFill, systemRandom } from '@keystead/envelope/keys';
import type { PasswordKeys } from './password-keys.ts';
import {
  Corrupt,
  decodeDerivation,
  derivationBytes,
  isIntact,
  newDerivation,
  openRecord,
  type RecordPlace,
  type SaltScope,
  sealRecord,
  WrongKey,
} from './record-format.ts';
import { CorruptRecord, InvalidPassword } from './vault-error.ts';

export type { RecordPlace, SaltScope } from './record-format.ts';

/**
 * What a vault asks of an encryption. Two calls of `encrypt` never give the same bytes: the vault sees
 * by the bytes whether a record was changed.
 */
export interface Encryptor {
  encrypt(value: Uint8Array, password: string, place: RecordPlace): Promise<Uint8Array>;
  /**
   * @throws InvalidPassword where the record is under another password
   * @throws CorruptRecord where it is not what `encrypt` made for this place
   */
  decrypt(stored: Uint8Array, password: string, place: RecordPlace): Promise<Uint8Array>;
}

export interface PasswordEncryptorOptions {
  /** The salt of the vault and the cost that new records get, as bytes kept in its settings. */
  current: Uint8Array;
  saltScope: SaltScope;
  keys: PasswordKeys;
  random: RandomFill | undefined;
}

/** Argon2id once a salt, HKDF and AES-256-GCM once a record. */
export class PasswordEncryptor implements Encryptor {
  readonly keys: PasswordKeys;
  readonly random: RandomFill | undefined;
  readonly saltScope: SaltScope;
  #current: Buffer;

  constructor(options: PasswordEncryptorOptions) {
    this.keys = options.keys;
    this.random = options.random;
    this.saltScope = options.saltScope;
    this.#current = Buffer.from(options.current);
  }

  /** The vault's salt and cost, whatever the scope of a record's. */
  get current(): Uint8Array {
    return this.#current;
  }

  /** The start of a new record. */
  derivation(): Buffer {
    if (this.saltScope === 'vault') return this.#current;
    return this.freshSalt(this.#current);
  }

  /** As given, with a salt that no record has. */
  freshSalt(derivation: Uint8Array): Buffer {
    const { parameters } = decodeDerivation(derivation);
    return newDerivation('record', parameters, this.random ?? systemRandom);
  }

  /** New records get these; old ones keep theirs. */
  use(current: Uint8Array): void {
    this.#current = Buffer.from(current);
  }

  /** Whether an upgrade would change nothing. */
  isCurrent(stored: Uint8Array): boolean {
    const start = Buffer.from(stored.subarray(0, derivationBytes));
    if (this.saltScope === 'vault') return start.equals(this.#current);
    const { scope, parameters: has } = decodeDerivation(start);
    const { parameters: wanted } = decodeDerivation(this.#current);
    return (
      scope === 'record' &&
      has.memoryKib === wanted.memoryKib &&
      has.passes === wanted.passes &&
      has.parallelism === wanted.parallelism
    );
  }

  async encrypt(value: Uint8Array, password: string, place: RecordPlace): Promise<Uint8Array> {
    const derivation = this.derivation();
    const key = await this.keys.keyFor(password, derivation);
    this.keys.proved(key);
    return sealRecord(key, derivation, place, value, this.random);
  }

  async decrypt(stored: Uint8Array, password: string, place: RecordPlace): Promise<Uint8Array> {
    try {
      const derivation = stored.subarray(0, derivationBytes);
      const known = this.keys.known(password, derivation);
      // A key is made only for what is intact: a damaged salt must not cost an Argon2id.
      if (known === undefined && !isIntact(stored, place)) throw new Corrupt('header');
      const key = await (known ?? this.keys.keyFor(password, derivation));
      const value = openRecord(key, stored, place);
      this.keys.proved(key);
      return value;
    } catch (error) {
      if (error instanceof WrongKey) throw new InvalidPassword();
      if (error instanceof Corrupt) throw new CorruptRecord(place.id, error);
      throw error;
    }
  }
}
