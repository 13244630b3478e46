/**
 * A stored record: how its password becomes a key, and the value sealed under a key of its own.
 *
 * ```text
 * offset  bytes  content
 *      0      2  "KV"
 *      2      1  version, 1
 *      3      1  whose salt: 0 the vault's, 1 this record's
 *      4      4  Argon2id memory in KiB, big-endian
 *      8      1  Argon2id passes
 *      9      1  Argon2id lanes
 *     10     16  Argon2id salt; it is its own id
 *     26     16  salt of the record, random
 *     42     16  checksum: SHA-256, cut, over id, token, the bytes before and the bytes after
 *     58      n  sealed value: libs/envelope/src/sealed.ts, with the commitment of its key
 * ```
 *
 *   password key = Argon2id(password, salt)              once a salt
 *   record key   = HKDF-Expand(password key, record salt)
 *
 * The sealed value is bound to the record's id and token and to the first 42 bytes. What does not
 * match the checksum is corrupt whatever the password; what matches it and not the commitment is under
 * another password. All that the password influences is under the record's random salt, so two records
 * of one password have no more in common than two of different ones.
 */
import { hash, randomFillSync } from 'node:crypto';
import { associatedData } from '@keystead/envelope/aad';
import { deriveKey, type RandomFill, type SecretKey } from '@keystead/envelope/keys';
import {
  findOutOfBounds,
  type PasswordCost,
  type PasswordParameters,
} from '@keystead/envelope/password';
import { Corrupt, open, seal, sealedOverheadBytes } from '@keystead/envelope/sealed';

export { Corrupt, WrongKey } from '@keystead/envelope/sealed';

export type SaltScope = 'vault' | 'record';

/** What a record is bound to; neither ever changes. */
export interface RecordPlace {
  id: string;
  token: string;
}

const version = 1;
const saltBytes = 16;
/** The first bytes of a record: how a password becomes a key. Equal bytes, equal keys. */
export const derivationBytes = 26;
const boundBytes = 42;
const checksumBytes = 16;
const sealedOffset = boundBytes + checksumBytes;
/** How much longer a stored record is than its value. */
export const recordOverheadBytes = sealedOffset + sealedOverheadBytes;
/** Bytes that no two sealings have in common: enough to see that a record was changed. */
export const fingerprint = { offset: boundBytes, length: checksumBytes } as const;

export interface Derivation {
  scope: SaltScope;
  parameters: PasswordParameters;
}

export function newDerivation(scope: SaltScope, cost: PasswordCost, random: RandomFill): Buffer {
  const salt = Buffer.alloc(saltBytes);
  random(salt);
  return encodeDerivation({ scope, parameters: { ...cost, salt } });
}

/** @throws RangeError where the cost is out of bounds */
export function encodeDerivation({ scope, parameters }: Derivation): Buffer {
  const { memoryKib, passes, parallelism, salt } = parameters;
  const wrong = findOutOfBounds(parameters);
  if (wrong !== undefined) throw new RangeError(wrong);
  if (salt.length !== saltBytes) throw new RangeError(`a salt has ${saltBytes} bytes`);
  const encoded = Buffer.alloc(derivationBytes);
  encoded.write('KV', 'latin1');
  encoded[2] = version;
  encoded[3] = scope === 'record' ? 1 : 0;
  encoded.writeUInt32BE(memoryKib, 4);
  encoded[8] = passes;
  encoded[9] = parallelism;
  encoded.set(salt, 10);
  return encoded;
}

/** @throws Corrupt where the start of the record is none, or asks for more than is allowed */
export function decodeDerivation(stored: Uint8Array): Derivation {
  const bytes = asBuffer(stored);
  if (bytes.length < derivationBytes) throw new Corrupt('too_short');
  if (bytes[0] !== 0x4b || bytes[1] !== 0x56) throw new Corrupt('magic');
  if (bytes[2] !== version) throw new Corrupt('version');
  const scope = bytes[3];
  if (scope !== 0 && scope !== 1) throw new Corrupt('header');
  const parameters = {
    memoryKib: bytes.readUInt32BE(4),
    passes: bytes[8] as number,
    parallelism: bytes[9] as number,
    salt: Buffer.from(bytes.subarray(10, derivationBytes)),
  };
  const wrong = findOutOfBounds(parameters);
  if (wrong !== undefined) throw new Corrupt('header', wrong);
  return { scope: scope === 1 ? 'record' : 'vault', parameters };
}

/** @param derivation the first bytes of the record, by which the password key was made */
export function sealRecord(
  passwordKey: SecretKey,
  derivation: Uint8Array,
  place: RecordPlace,
  value: Uint8Array,
  random?: RandomFill,
): Buffer {
  const stored = Buffer.allocUnsafe(recordOverheadBytes + value.length);
  stored.set(derivation, 0);
  const salt = stored.subarray(derivationBytes, boundBytes);
  if (random === undefined) drawSalt(salt);
  else random(salt);
  const key = deriveKey(passwordKey, salt);
  const bound = boundData(place, stored);
  const sealed = seal(key, value, bound, random);
  key.wipe();
  sealed.copy(stored, sealedOffset);
  checksum(bound, sealed).copy(stored, boundBytes, 0, checksumBytes);
  return stored;
}

/**
 * The value, in memory of its own.
 * @throws WrongKey where it is intact and under another password
 * @throws Corrupt where it is not what was sealed, or belongs to another id or token
 */
export function openRecord(passwordKey: SecretKey, stored: Uint8Array, place: RecordPlace): Buffer {
  const bytes = asBuffer(stored);
  if (bytes.length < recordOverheadBytes) throw new Corrupt('too_short');
  const bound = boundData(place, bytes);
  const sealed = bytes.subarray(sealedOffset);
  if (bytes.compare(checksum(bound, sealed), 0, checksumBytes, boundBytes, sealedOffset) !== 0) {
    throw new Corrupt('header', 'the checksum does not match');
  }
  const key = deriveKey(passwordKey, bytes.subarray(derivationBytes, boundBytes));
  try {
    return open(key, sealed, bound);
  } finally {
    key.wipe();
  }
}

/** Whether it is what was stored for this id and token, as far as can be told without a password. */
export function isIntact(stored: Uint8Array, place: RecordPlace): boolean {
  const bytes = asBuffer(stored);
  if (bytes.length < recordOverheadBytes) return false;
  const expected = checksum(boundData(place, bytes), bytes.subarray(sealedOffset));
  return bytes.compare(expected, 0, checksumBytes, boundBytes, sealedOffset) === 0;
}

function boundData(place: RecordPlace, stored: Buffer): Buffer {
  return associatedData('vault record', place.id, place.token, stored.subarray(0, boundBytes));
}

function checksum(bound: Buffer, sealed: Buffer): Buffer {
  return hash('sha256', Buffer.concat([bound, sealed]), 'buffer');
}

// Asking for sixteen random bytes costs as much as sealing; asking for many at once costs nothing.
const salts = Buffer.allocUnsafeSlow(saltBytes * 512);
let nextSalt = salts.length;

function drawSalt(target: Buffer): void {
  if (nextSalt === salts.length) {
    randomFillSync(salts);
    nextSalt = 0;
  }
  salts.copy(target, 0, nextSalt, nextSalt + saltBytes);
  nextSalt += saltBytes;
}

export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
