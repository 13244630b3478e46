/**
 * One message, sealed: AES-256-GCM under a 256-bit key, in an envelope that says how it was made and
 * with which key.
 *
 * ```text
 * offset  bytes  content
 *      0      2  "KS"
 *      2      1  version, 1
 *      3      1  algorithm, 1 = AES-256-GCM
 *      4      1  nonce length, 12
 *      5      1  tag length, 16
 *      6     32  commitment of the key
 *     38     12  nonce, random
 *     50      n  ciphertext, as long as the plaintext
 *   50+n     16  tag, over the first 38 bytes, the associated data and the ciphertext
 * ```
 *
 * A version has exactly one form: lengths are written so that another program can read it, not so
 * that they may vary.
 */
import { randomFillSync } from 'node:crypto';
import { decryptGcm, encryptGcm, gcmNonceBytes, gcmTagBytes } from './aes-gcm.ts';
import { envelopeLimits } from './limits.ts';
import type { RandomFill, SecretKey } from './secret-key.ts';

const nonceLength = gcmNonceBytes;
const tagLength = gcmTagBytes;
const fixed = Buffer.from([0x4b, 0x53, 1, 1, nonceLength, tagLength]);
const commitmentLength = 32;
const headerLength = fixed.length + commitmentLength;
const bodyOffset = headerLength + nonceLength;

/** How much longer a sealed message is than its plaintext. */
export const sealedOverheadBytes = bodyOffset + tagLength;

export type CorruptPart =
  | 'too_short'
  | 'too_long'
  | 'magic'
  | 'version'
  | 'algorithm'
  | 'nonce_length'
  | 'tag_length'
  | 'header'
  | 'tag'
  | 'content';

/** Sealed by another key than the one it was opened with. */
export class WrongKey extends Error {
  constructor(message = 'this was sealed with another key') {
    super(message);
    this.name = 'WrongKey';
  }
}

/** Not what was sealed: damaged, cut, of a version that is not known here, or moved from its place. */
export class Corrupt extends Error {
  readonly part: CorruptPart;

  constructor(part: CorruptPart, message = corruptTexts[part]) {
    super(message);
    this.name = 'Corrupt';
    this.part = part;
  }
}

const corruptTexts: Record<CorruptPart, string> = {
  too_short: 'the sealed data is cut off',
  too_long: 'the sealed data is larger than allowed',
  magic: 'this is no sealed data',
  version: 'the sealed data is of a version that is not known here',
  algorithm: 'the sealed data uses an algorithm that is not known here',
  nonce_length: 'the sealed data has a nonce of the wrong length',
  tag_length: 'the sealed data has a tag of the wrong length',
  header: 'the header of the sealed data is not valid',
  tag: 'the sealed data was changed, or belongs elsewhere',
  content: 'what was sealed is not of the expected form',
};

// Asking for twelve random bytes costs half of a small seal; asking for many at once costs nothing.
const nonces = Buffer.allocUnsafeSlow(nonceLength * 512);
let nextNonce = nonces.length;

function writeNonce(target: Buffer, offset: number, random: RandomFill | undefined): void {
  if (random !== undefined) {
    random(target.subarray(offset, offset + nonceLength));
    return;
  }
  if (nextNonce === nonces.length) {
    randomFillSync(nonces);
    nextNonce = 0;
  }
  nonces.copy(target, offset, nextNonce, nextNonce + nonceLength);
  nextNonce += nonceLength;
}

/**
 * Seals up to 64 MiB. The nonce is random: one key seals at most 2^32 messages (NIST SP 800-38D, 8.3).
 * @param associatedData what the message is bound to; opening needs the same bytes
 */
export function seal(
  key: SecretKey,
  plaintext: Uint8Array,
  associatedData: Uint8Array,
  random?: RandomFill,
): Buffer {
  if (plaintext.length > envelopeLimits.maxSealedBytes) {
    throw new RangeError(`a sealed message has at most ${envelopeLimits.maxSealedBytes} bytes`);
  }
  const sealed = Buffer.allocUnsafe(sealedOverheadBytes + plaintext.length);
  fixed.copy(sealed, 0);
  key.commitment.copy(sealed, fixed.length);
  writeNonce(sealed, headerLength, random);
  const [ciphertext, tag] = encryptGcm(
    key,
    sealed.subarray(headerLength, bodyOffset),
    [sealed.subarray(0, headerLength), associatedData],
    plaintext,
  );
  ciphertext.copy(sealed, bodyOffset);
  tag.copy(sealed, bodyOffset + plaintext.length);
  return sealed;
}

/**
 * The plaintext, in memory of its own: the caller may zero it.
 * @throws WrongKey where another key sealed it
 * @throws Corrupt where the key is right and the rest is not, or the envelope is malformed
 */
export function open(key: SecretKey, sealed: Uint8Array, associatedData: Uint8Array): Buffer {
  const bytes = asBuffer(sealed);
  requireSealedBy(key, bytes);
  return decrypted(
    decryptGcm(
      key,
      bytes.subarray(headerLength, bodyOffset),
      [bytes.subarray(0, headerLength), associatedData],
      bytes.subarray(bodyOffset, bytes.length - tagLength),
      bytes.subarray(bytes.length - tagLength),
    ),
  );
}

/** A sealed message that is looked through once and opened often: the bytes must stay as they are. */
export class Opener {
  readonly #key: SecretKey;
  readonly #nonce: Buffer;
  readonly #data: Buffer;
  readonly #ciphertext: Buffer;
  readonly #tag: Buffer;

  /** @throws WrongKey, Corrupt where the envelope is malformed */
  constructor(key: SecretKey, sealed: Uint8Array, associatedData: Uint8Array) {
    const bytes = asBuffer(sealed);
    requireSealedBy(key, bytes);
    this.#key = key;
    this.#nonce = bytes.subarray(headerLength, bodyOffset);
    this.#data = Buffer.concat([bytes.subarray(0, headerLength), associatedData]);
    this.#ciphertext = bytes.subarray(bodyOffset, bytes.length - tagLength);
    this.#tag = bytes.subarray(bytes.length - tagLength);
  }

  /** As {@link open}. @throws Corrupt, KeyWiped */
  open(): Buffer {
    return decrypted(decryptGcm(this.#key, this.#nonce, [this.#data], this.#ciphertext, this.#tag));
  }

  /** Also everything that was opened with the same key elsewhere opens no more. */
  wipeKey(): void {
    this.#key.wipe();
  }
}

function requireSealedBy(key: SecretKey, bytes: Buffer): void {
  const malformed = findMalformed(bytes);
  if (malformed !== undefined) throw new Corrupt(malformed);
  if (bytes.compare(key.commitment, 0, commitmentLength, fixed.length, headerLength) !== 0) {
    throw new WrongKey();
  }
}

function decrypted(plaintext: Buffer | undefined): Buffer {
  if (plaintext === undefined) throw new Corrupt('tag');
  return plaintext;
}

/**
 * The commitment of the key that sealed this, without opening it.
 * @throws Corrupt where the envelope is malformed
 */
export function sealedBy(sealed: Uint8Array): Buffer {
  const bytes = asBuffer(sealed);
  const malformed = findMalformed(bytes);
  if (malformed !== undefined) throw new Corrupt(malformed);
  return Buffer.from(bytes.subarray(fixed.length, headerLength));
}

const partOfByte: CorruptPart[] = [
  'magic',
  'magic',
  'version',
  'algorithm',
  'nonce_length',
  'tag_length',
];

function findMalformed(bytes: Buffer): CorruptPart | undefined {
  for (let index = 0; index < fixed.length; index += 1) {
    if (index >= bytes.length) return 'too_short';
    if (bytes[index] !== fixed[index]) return partOfByte[index];
  }
  if (bytes.length < sealedOverheadBytes) return 'too_short';
  if (bytes.length > sealedOverheadBytes + envelopeLimits.maxSealedBytes) return 'too_long';
  return undefined;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
