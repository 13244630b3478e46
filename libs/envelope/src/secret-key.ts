/** A 256-bit key that takes care not to be seen: printing shows a placeholder, wiping zeroes it. */
import { createSecretKey, hash, type KeyObject, randomFillSync } from 'node:crypto';
import { inspect } from 'node:util';

export const keyBytes = 32;

/** Fills the bytes given with random ones. The default asks OpenSSL's generator, seeded by the operating system. */
export type RandomFill = (bytes: Uint8Array) => void;

export const systemRandom: RandomFill = (bytes) => {
  randomFillSync(bytes);
};

const commitmentLabel = Buffer.from('keystead key commitment v1\0', 'latin1');

export class KeyWiped extends Error {
  constructor() {
    super('the key was wiped: it can no longer be used');
    this.name = 'KeyWiped';
  }
}

export class SecretKey {
  /** The label and the key in one block, so that committing to the key copies nothing. */
  #block: Buffer | undefined;
  #object: KeyObject | undefined;
  #commitment: Buffer | undefined;

  private constructor(block: Buffer) {
    this.#block = block;
  }

  /** Copies 32 bytes; the source stays as it is. */
  static from(source: Uint8Array): SecretKey {
    if (source.length !== keyBytes) {
      throw new RangeError(`a key has ${keyBytes} bytes, not ${source.length}`);
    }
    // Not from the pool, where a neighbour would outlive the wipe.
    const block = Buffer.alloc(commitmentLabel.length + keyBytes);
    commitmentLabel.copy(block);
    block.set(source, commitmentLabel.length);
    return new SecretKey(block);
  }

  /** Copies 32 bytes and zeroes the source, whether or not it could be used. */
  static take(source: Uint8Array): SecretKey {
    try {
      return SecretKey.from(source);
    } finally {
      source.fill(0);
    }
  }

  static generate(random: RandomFill = systemRandom): SecretKey {
    const bytes = Buffer.alloc(keyBytes);
    random(bytes);
    return SecretKey.take(bytes);
  }

  /** The bytes themselves, not a copy: whoever keeps them outlives the wipe. @throws KeyWiped */
  get bytes(): Buffer {
    if (this.#block === undefined) throw new KeyWiped();
    return this.#block.subarray(commitmentLabel.length);
  }

  /** What Node's ciphers and MACs take: made once, as making it costs as much as using it. @throws KeyWiped */
  get object(): KeyObject {
    this.#object ??= createSecretKey(this.bytes);
    return this.#object;
  }

  /**
   * 32 bytes that name the key and tell nothing of it: SHA-256 of a label and the key. AES-GCM alone
   * would open one ciphertext under two keys; no two keys have the same commitment.
   * @throws KeyWiped
   */
  get commitment(): Buffer {
    if (this.#commitment === undefined) {
      if (this.#block === undefined) throw new KeyWiped();
      this.#commitment = hash('sha256', this.#block, 'buffer');
    }
    return this.#commitment;
  }

  get isWiped(): boolean {
    return this.#block === undefined;
  }

  equals(other: SecretKey): boolean {
    return this.commitment.equals(other.commitment);
  }

  /**
   * Zeroes the bytes. The copy that OpenSSL holds for ciphers goes, zeroed by OpenSSL, with the next
   * garbage collection: sooner is not in our power.
   */
  wipe(): void {
    this.#block?.fill(0);
    this.#block = undefined;
    this.#object = undefined;
  }

  [Symbol.dispose](): void {
    this.wipe();
  }

  toString(): string {
    return '[secret key]';
  }

  toJSON(): string {
    return '[secret key]';
  }

  [inspect.custom](): string {
    return this.#block === undefined ? '[secret key, wiped]' : '[secret key]';
  }
}
