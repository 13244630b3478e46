/**
 * What a ciphertext is bound to, in one unambiguous encoding: two different lists of parts never
 * become the same bytes.
 *
 * ```text
 * "KSA" 0x01 | part | part | …      the purpose is the first part
 * part = kind (1 byte) | length (u32, big-endian) | content
 * kind = 0x73 text, UTF-8 · 0x6e integer, 8 bytes signed big-endian · 0x62 bytes
 * ```
 */

export type AssociatedPart = string | number | bigint | Uint8Array;

const prefix = Buffer.from('KSA\u0001', 'latin1');
const text = 0x73;
const integer = 0x6e;
const binary = 0x62;

/**
 * @throws RangeError for a number that is not a safe integer, for an integer beyond 64 bits and for
 * text that UTF-8 cannot write (lone surrogates): they would not come back as they were.
 */
export function associatedData(purpose: string, ...parts: AssociatedPart[]): Buffer {
  const encoded: Buffer[] = [prefix, encode(purpose)];
  for (const part of parts) encoded.push(encode(part));
  return Buffer.concat(encoded);
}

function encode(part: AssociatedPart): Buffer {
  if (typeof part === 'string') {
    if (!part.isWellFormed()) throw new RangeError('associated text is not well-formed');
    const length = Buffer.byteLength(part);
    const encoded = head(text, length);
    encoded.write(part, 5, 'utf8');
    return encoded;
  }
  if (typeof part === 'number' || typeof part === 'bigint') {
    if (typeof part === 'number' && !Number.isSafeInteger(part)) {
      throw new RangeError('an associated number is a safe integer');
    }
    const encoded = head(integer, 8);
    encoded.writeBigInt64BE(BigInt(part), 5);
    return encoded;
  }
  const encoded = head(binary, part.length);
  encoded.set(part, 5);
  return encoded;
}

function head(kind: number, length: number): Buffer {
  const encoded = Buffer.allocUnsafe(5 + length);
  encoded[0] = kind;
  encoded.writeUInt32BE(length, 1);
  return encoded;
}
