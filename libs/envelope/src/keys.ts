/**
 * The pieces of a key hierarchy: a master key wraps keys, and a key derives keys.
 *
 * Wrapping binds a key to its purpose, id and version, so that wrapped keys cannot change places.
 * Deriving is HKDF-Expand of RFC 5869 with SHA-256; its keys are uniformly random already, so there is
 * nothing to extract (RFC 5869, 3.3).
 */
import { createHmac, hkdfSync } from 'node:crypto';
import { associatedData } from './aad.ts';
import { Corrupt, open, seal } from './sealed.ts';
import { keyBytes, type RandomFill, SecretKey } from './secret-key.ts';

export { KeyWiped, keyBytes, type RandomFill, SecretKey, systemRandom } from './secret-key.ts';

/** What a wrapped key is for; the same is needed to unwrap it. */
export interface KeyPlace {
  /** Such as `namespace`. */
  purpose: string;
  id: string;
  version: number;
}

const hashBytes = 32;
const maxExpandedBytes = 255 * hashBytes;
const deriveLabel = Buffer.from('keystead derive v1\0', 'latin1');

export function generateKey(random?: RandomFill): SecretKey {
  return SecretKey.generate(random);
}

/** 32 bytes that tell keys apart and nothing of them: to be stored beside what the key seals. */
export function keyCommitment(key: SecretKey): Buffer {
  return Buffer.from(key.commitment);
}

export function wrapKey(
  master: SecretKey,
  key: SecretKey,
  place: KeyPlace,
  random?: RandomFill,
): Buffer {
  return seal(master, key.bytes, wrapData(place), random);
}

/**
 * @throws WrongKey where another master wrapped it
 * @throws Corrupt where it was changed, or wrapped for another place
 */
export function unwrapKey(master: SecretKey, wrapped: Uint8Array, place: KeyPlace): SecretKey {
  const bytes = open(master, wrapped, wrapData(place));
  if (bytes.length !== keyBytes) {
    bytes.fill(0);
    throw new Corrupt('content', 'what was wrapped is no key');
  }
  return SecretKey.take(bytes);
}

function wrapData(place: KeyPlace): Buffer {
  return associatedData('key', place.purpose, place.id, place.version);
}

/**
 * A key for one use, from a key of many. The same info gives the same key; another info tells nothing
 * of it. Bytes and text are different infos only if their bytes differ.
 */
export function deriveKey(key: SecretKey, info: Uint8Array | string): SecretKey {
  const mac = createHmac('sha256', key.object)
    .update(deriveLabel)
    .update(info)
    .update(firstBlock)
    .digest();
  return SecretKey.take(mac);
}

const firstBlock = Buffer.from([1]);

/** HKDF-Extract-and-Expand with SHA-256 (RFC 5869): for input that is not uniformly random. */
export function hkdf(
  input: Uint8Array,
  salt: Uint8Array,
  info: Uint8Array,
  length: number,
): Buffer {
  return Buffer.from(hkdfSync('sha256', input, salt, info, length));
}

/** HKDF-Extract with SHA-256 (RFC 5869, 2.2). */
export function hkdfExtract(input: Uint8Array, salt: Uint8Array): Buffer {
  // An absent salt is a block of zeros, which is what HMAC makes of an empty key.
  return createHmac('sha256', salt).update(input).digest();
}

/** HKDF-Expand with SHA-256 (RFC 5869, 2.3): at most 8,160 bytes. */
export function hkdfExpand(key: Uint8Array, info: Uint8Array, length: number): Buffer {
  if (!Number.isInteger(length) || length < 1 || length > maxExpandedBytes) {
    throw new RangeError(`between 1 and ${maxExpandedBytes} bytes can be expanded`);
  }
  const blocks: Buffer[] = [];
  let previous: Buffer = Buffer.alloc(0);
  for (let index = 1; blocks.length * hashBytes < length; index += 1) {
    previous = createHmac('sha256', key)
      .update(previous)
      .update(info)
      .update(Buffer.from([index]))
      .digest();
    blocks.push(previous);
  }
  return Buffer.concat(blocks, length);
}
