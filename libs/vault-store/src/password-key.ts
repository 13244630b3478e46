/**
 * The key that a password makes, and from it the keys of single records: HKDF-Expand of RFC 5869 with
 * SHA-512, 64 bytes for a record salt. The first half encrypts, the second half is the commitment: equal
 * only for equal keys, and telling nothing of them.
 *
 * HMAC is spelled out here (RFC 2104) because a rekey does it twice a record: two hashes of blocks that
 * are half prepared take half as long as an object made for each.
 */
import { hash } from 'node:crypto';

const blockBytes = 128;
const hashBytes = 64;
const info = Buffer.from('keystead vault record key v1\0', 'latin1');

export const recordSaltBytes = 16;
export const recordKeyBytes = 32;

export class PasswordKey {
  /** key ⊕ ipad | info | salt | 1 */
  readonly #inner: Buffer;
  /** key ⊕ opad | inner hash */
  readonly #outer: Buffer;
  #isWiped = false;

  /** Copies at most 128 bytes; a password key has 32. */
  constructor(key: Uint8Array) {
    if (key.length > blockBytes) throw new RangeError(`a key has at most ${blockBytes} bytes`);
    // Not from the pool, where a neighbour would outlive the wipe.
    this.#inner = Buffer.alloc(blockBytes + info.length + recordSaltBytes + 1);
    this.#outer = Buffer.alloc(blockBytes + hashBytes);
    for (let index = 0; index < blockBytes; index += 1) {
      const byte = key[index] ?? 0;
      this.#inner[index] = byte ^ 0x36;
      this.#outer[index] = byte ^ 0x5c;
    }
    info.copy(this.#inner, blockBytes);
    this.#inner[this.#inner.length - 1] = 1;
  }

  /** The password key itself, to be handed to another thread: a copy. */
  copy(): Uint8Array<ArrayBuffer> {
    this.#requireUnwiped();
    const key = new Uint8Array(recordKeyBytes);
    for (let index = 0; index < key.length; index += 1) {
      key[index] = (this.#inner[index] as number) ^ 0x36;
    }
    return key;
  }

  /**
   * 64 bytes: the key of a record, then its commitment.
   * @param salt bytes of which 16 are it, from `start` on
   */
  derive(salt: Buffer, start = 0): Buffer {
    this.#requireUnwiped();
    salt.copy(this.#inner, blockBytes + info.length, start, start + recordSaltBytes);
    // As text it comes in half the time, and it opens nothing without the key.
    this.#outer.write(hash('sha512', this.#inner, 'binary'), blockBytes, 'latin1');
    return hash('sha512', this.#outer, 'buffer');
  }

  wipe(): void {
    this.#inner.fill(0);
    this.#outer.fill(0);
    this.#isWiped = true;
  }

  #requireUnwiped(): void {
    if (this.#isWiped) throw new Error('the key was wiped: it can no longer be used');
  }
}
