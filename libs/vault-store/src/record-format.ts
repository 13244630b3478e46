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
 *     42     16  checksum: SHA-256, cut, over id, token and all other bytes
 *     58     32  commitment of the record key
 *     90     12  nonce, random
 *    102      n  value, AES-256-GCM
 *  102+n     16  tag; bound are id, token, the first 42 bytes and the commitment
 * ```
 *
 *   password key               = Argon2id(password, salt)                     once a salt
 *   record key, its commitment = HKDF-Expand(password key, record salt)
 *
 * What does not match the checksum is corrupt whatever the password; what matches it and not the
 * commitment is under another password. All that the password influences is under the record's random
 * salt, so two records of one password have no more in common than two of different ones.
 */
import {
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  hash,
  randomFillSync,
} from 'node:crypto';
import type { RandomFill } from '@keystead/envelope/keys';
import {
  findOutOfBounds,
  type PasswordCost,
  type PasswordParameters,
} from '@keystead/envelope/password';
import { Corrupt, WrongKey } from '@keystead/envelope/sealed';
import { type PasswordKey, recordKeyBytes } from './password-key.ts';

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
const commitmentOffset = boundBytes + checksumBytes;
const nonceOffset = commitmentOffset + 32;
const nonceBytes = 12;
const valueOffset = nonceOffset + nonceBytes;
const tagBytes = 16;
/** How much longer a stored record is than its value. */
export const recordOverheadBytes = valueOffset + tagBytes;
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
  passwordKey: PasswordKey,
  derivation: Uint8Array,
  place: RecordPlace,
  value: Uint8Array,
  random?: RandomFill,
): Buffer {
  const stored = Buffer.allocUnsafe(recordOverheadBytes + value.length);
  sealRecordInto(stored, passwordKey, derivation, place, value, random);
  return stored;
}

/** {@link sealRecord} into bytes that are there: {@link recordOverheadBytes} more than the value has. */
export function sealRecordInto(
  stored: Buffer,
  passwordKey: PasswordKey,
  derivation: Uint8Array,
  place: RecordPlace,
  value: Uint8Array,
  random?: RandomFill,
): void {
  stored.set(derivation, 0);
  draw(stored, derivationBytes, boundBytes, random);
  draw(stored, nonceOffset, valueOffset, random);
  const derived = passwordKey.derive(stored, derivationBytes);
  derived.copy(stored, commitmentOffset, recordKeyBytes);
  const boundLength = writeBound(place, stored);
  const cipher = createCipheriv(algorithm, recordKey(derived), nonceOf(stored), gcm);
  cipher.setAAD(scratchTo(boundLength));
  cipher.update(value).copy(stored, valueOffset);
  cipher.final();
  cipher.getAuthTag().copy(stored, valueOffset + value.length);
  stored.write(checksum(boundLength, stored), boundBytes, checksumBytes, 'latin1');
}

/**
 * The value, in memory of its own.
 * @throws WrongKey where it is intact and under another password
 * @throws Corrupt where it is not what was sealed, or belongs to another id or token
 */
export function openRecord(
  passwordKey: PasswordKey,
  stored: Uint8Array,
  place: RecordPlace,
): Buffer {
  const bytes = asBuffer(stored);
  if (bytes.length < recordOverheadBytes) throw new Corrupt('too_short');
  const boundLength = writeBound(place, bytes);
  if (!matches(checksum(boundLength, bytes), bytes)) {
    throw new Corrupt('header', 'the checksum does not match');
  }
  const derived = passwordKey.derive(bytes, derivationBytes);
  if (bytes.compare(derived, recordKeyBytes, 64, commitmentOffset, nonceOffset) !== 0) {
    derived.fill(0);
    throw new WrongKey();
  }
  const decipher = createDecipheriv(algorithm, recordKey(derived), nonceOf(bytes), gcm);
  decipher.setAAD(scratchTo(boundLength));
  decipher.setAuthTag(bytes.subarray(bytes.length - tagBytes));
  const value = decipher.update(bytes.subarray(valueOffset, bytes.length - tagBytes));
  try {
    decipher.final();
  } catch {
    value.fill(0);
    throw new Corrupt('tag');
  }
  return value;
}

/** Whether it is what was stored for this id and token, as far as can be told without a password. */
export function isIntact(stored: Uint8Array, place: RecordPlace): boolean {
  const bytes = asBuffer(stored);
  if (bytes.length < recordOverheadBytes) return false;
  return matches(checksum(writeBound(place, bytes), bytes), bytes);
}

const algorithm = 'aes-256-gcm';
const gcm = { authTagLength: tagBytes };

const keyScratch = Buffer.allocUnsafeSlow(recordKeyBytes);
const nonceScratch = Buffer.allocUnsafeSlow(nonceBytes);

/** As an object: from plain bytes Node makes a cipher several times slower. Zeroes what was derived. */
function recordKey(derived: Buffer) {
  derived.copy(keyScratch, 0, 0, recordKeyBytes);
  derived.fill(0);
  const key = createSecretKey(keyScratch);
  keyScratch.fill(0);
  return key;
}

/** Until the next call. */
function nonceOf(stored: Buffer): Buffer {
  stored.copy(nonceScratch, 0, nonceOffset, valueOffset);
  return nonceScratch;
}

/** Where bound and checked bytes are put together; nothing in it is secret. */
const scratch = Buffer.allocUnsafeSlow(4_096);
const label = Buffer.from('keystead vault record v1\0', 'latin1');
label.copy(scratch);
/** Its beginnings, of lengths that come again and again. */
let views = new Map<number, Buffer>();
const viewsMax = 64;

function scratchTo(length: number): Buffer {
  let view = views.get(length);
  if (view === undefined) {
    if (views.size >= viewsMax) views = new Map();
    view = scratch.subarray(0, length);
    views.set(length, view);
  }
  return view;
}

/**
 * `label | length of id (u16) | id | length of token (u16) | token | first 42 bytes | commitment`:
 * two different records never have the same. Ids and tokens are ASCII.
 * @returns how much of the scratch that is
 */
function writeBound(place: RecordPlace, stored: Buffer): number {
  const { id, token } = place;
  if (id.length > maxNameCharacters || token.length > maxNameCharacters)
    throw new Corrupt('header');
  let at = label.length;
  at = scratch.writeUInt16BE(id.length, at);
  at += scratch.write(id, at, 'latin1');
  at = scratch.writeUInt16BE(token.length, at);
  at += scratch.write(token, at, 'latin1');
  at += stored.copy(scratch, at, 0, boundBytes);
  at += stored.copy(scratch, at, commitmentOffset, nonceOffset);
  return at;
}

const maxNameCharacters = 1_024;

/** In Latin-1: text is answered in half the time of bytes, and this is no secret. */
function checksum(boundLength: number, stored: Buffer): string {
  const length = boundLength + stored.length - nonceOffset;
  if (length > scratch.length) {
    const larger = Buffer.allocUnsafeSlow(length);
    scratch.copy(larger, 0, 0, boundLength);
    // One that grew for a large value is not kept for ever.
    stored.copy(larger, boundLength, nonceOffset);
    return hash('sha256', larger, 'binary');
  }
  stored.copy(scratch, boundLength, nonceOffset);
  return hash('sha256', scratchTo(length), 'binary');
}

function matches(computed: string, stored: Buffer): boolean {
  return computed.startsWith(stored.toString('latin1', boundBytes, commitmentOffset));
}

// Asking for a few random bytes costs as much as sealing; asking for many at once costs nothing.
const drawn = Buffer.allocUnsafeSlow(8_192);
let nextDrawn = drawn.length;

function draw(target: Buffer, start: number, end: number, random: RandomFill | undefined): void {
  if (random !== undefined) {
    random(target.subarray(start, end));
    return;
  }
  const length = end - start;
  if (nextDrawn + length > drawn.length) {
    randomFillSync(drawn);
    nextDrawn = 0;
  }
  drawn.copy(target, start, nextDrawn, nextDrawn + length);
  nextDrawn += length;
}

export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
