/**
 * Signatures over messages as they travel. The signature is field 15 of its envelope and the last
 * field on the wire; it covers every byte before it. So neither side has to agree on a canonical
 * form, and a field that a newer version added is covered too.
 */
import { type KeyObject, sign, verify } from 'node:crypto';

/** Field 15, wire type 2 (length-delimited). */
const signatureTag = (15 << 3) | 2;
/** A signature of P-384 has at most 104 bytes, of Ed25519 64, of RSA 3072 384: what is kept of one. */
const signatureMaxBytes = 384;

/** Appends the signature field to an encoded envelope that has none. */
export function appendSignature(encoded: Uint8Array, privateKey: KeyObject): Buffer {
  const signature = sign(digestFor(privateKey), encoded, privateKey);
  const head =
    signature.length < 128
      ? [signatureTag, signature.length]
      : [signatureTag, (signature.length & 0x7f) | 0x80, signature.length >> 7];
  return Buffer.concat([encoded, Buffer.from(head), signature]);
}

export interface SignedBytes {
  /** What the signature covers. */
  covered: Uint8Array;
  signature: Uint8Array;
}

/**
 * Splits an encoded envelope into what is signed and the signature. Undefined where there is no
 * signature, where it is not the last field, or where the bytes are not a message at all.
 */
export function splitSignature(encoded: Uint8Array): SignedBytes | undefined {
  let offset = 0;
  while (offset < encoded.length) {
    const start = offset;
    const tag = readVarint(encoded, offset);
    if (tag === undefined) return undefined;
    offset = tag.next;
    const wireType = tag.value & 7;
    if (wireType === 2) {
      const length = readVarint(encoded, offset);
      if (length === undefined || length.next + length.value > encoded.length) return undefined;
      offset = length.next + length.value;
      if (tag.value === signatureTag) {
        if (offset !== encoded.length || length.value === 0 || length.value > signatureMaxBytes) {
          return undefined;
        }
        return {
          covered: encoded.subarray(0, start),
          signature: encoded.subarray(length.next, offset),
        };
      }
    } else if (wireType === 0) {
      const value = readVarint(encoded, offset);
      if (value === undefined) return undefined;
      offset = value.next;
    } else if (wireType === 1) offset += 8;
    else if (wireType === 5) offset += 4;
    else return undefined;
  }
  return undefined;
}

/** Whether the bytes carry a signature by that key over everything before it. Never throws. */
export function hasValidSignature(encoded: Uint8Array, publicKey: KeyObject): boolean {
  const split = splitSignature(encoded);
  if (split === undefined) return false;
  try {
    return verify(digestFor(publicKey), split.covered, publicKey, split.signature);
  } catch {
    return false;
  }
}

function digestFor(key: KeyObject): string | null {
  return key.asymmetricKeyType === 'ed25519' ? null : 'sha256';
}

/** A varint of at most five bytes: tags and lengths; longer ones are read for their end alone. */
function readVarint(
  bytes: Uint8Array,
  offset: number,
): { value: number; next: number } | undefined {
  let value = 0;
  for (let index = 0; index < 10; index += 1) {
    const byte = bytes[offset + index];
    if (byte === undefined) return undefined;
    if (index < 5) value += (byte & 0x7f) * 2 ** (7 * index);
    if (byte < 128) return { value, next: offset + index + 1 };
  }
  return undefined;
}
