/**
 * An archive of any length, sealed while it flows: a header that says who may open it, then chunks of
 * AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015): each chunk's nonce
 * holds its number and whether it is the last, so that chunks cannot be changed, moved, dropped or added.
 *
 * ```text
 * offset  bytes  content
 *      0      8  "KSSTREAM"
 *      8      1  version, 1
 *      9      1  algorithm, 1 = AES-256-GCM in STREAM
 *     10      1  base-2 logarithm of the bytes in a chunk, 12–20
 *     11      1  number of recipients, 1–16
 *     12     32  salt, random
 *     44      …  recipients: kind (1) | length (u16, big-endian) | content
 *                  kind 1, passphrase: parameters of Argon2id | sealed file key
 *                  kind 2, X25519: ephemeral public key (32) | sealed file key
 *                  kind 3, raw key: sealed file key
 *      …     32  HMAC-SHA-256 over the header up to here, under a key of the file key
 *      …      …  chunks: ciphertext | tag (16); all but the last are full
 * ```
 *
 * The file key is random and used once. From it, the salt and the context (RFC 5869) come the key of the
 * header, the key of the chunks and the first seven bytes of their nonces; number (u32) and last-flag are
 * the other five. The context says what the archive is: a backup does not open as an export.
 *
 * A chunk leaves the opener only after its tag was verified, yet that the archive ends where it should is
 * known at its end alone: what comes out before is to be thrown away when the end does not come.
 */
import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hash,
  type KeyObject,
} from 'node:crypto';
import { Duplex } from 'node:stream';
import { associatedData } from './aad.ts';
import { decryptGcm, encryptGcm, gcmNonceBytes, gcmTagBytes } from './aes-gcm.ts';
import { hkdf } from './keys.ts';
import { envelopeLimits as limits } from './limits.ts';
import {
  type DerivedKeys,
  decodePasswordParameters,
  derivePasswordKey,
  encodePasswordParameters,
  newPasswordParameters,
  type PasswordCost,
} from './password.ts';
import { Corrupt, open, seal, sealedOverheadBytes, WrongKey } from './sealed.ts';
import { keyBytes, type RandomFill, SecretKey, systemRandom } from './secret-key.ts';

/** Who may open the archive. At most one passphrase: each costs the reader an Argon2id. */
export type StreamRecipient =
  | { kind: 'passphrase'; passphrase: string; cost?: PasswordCost }
  | { kind: 'x25519'; publicKey: Uint8Array }
  | { kind: 'key'; key: SecretKey };

/** What opens the archive. */
export type StreamIdentity =
  | {
      kind: 'passphrase';
      passphrase: string;
      /** Remembers what was derived, for an archive that is opened again where nothing may wait. */
      derived?: DerivedKeys;
    }
  | { kind: 'x25519'; privateKey: SecretKey }
  | { kind: 'key'; key: SecretKey };

export interface SealStreamOptions {
  /** What the archive is; opening needs the same. */
  context?: Uint8Array;
  /** Base-2 logarithm of the bytes in a chunk, 12–20. */
  chunkBytesLog2?: number;
  random?: RandomFill;
}

export interface OpenStreamOptions {
  context?: Uint8Array;
}

type Source = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

const magic = Buffer.from('KSSTREAM', 'latin1');
const version = 1;
const algorithmStream = 1;
const fixedBytes = 44;
const saltOffset = 12;
const saltBytes = 32;
const macBytes = 32;
const tagBytes = gcmTagBytes;
const nonceBytes = gcmNonceBytes;
const noncePrefixBytes = 7;
const recipientHeadBytes = 3;
const sealedKeyBytes = keyBytes + sealedOverheadBytes;
const publicKeyBytes = 32;
const maxHeaderBytes =
  fixedBytes +
  limits.maxStreamRecipients * (recipientHeadBytes + limits.maxStreamRecipientBytes) +
  macBytes;
const maxChunks = 2 ** 32;
const defaultChunkBytesLog2 = 16;
const nothing = Buffer.alloc(0);

const kindCodes = { passphrase: 1, x25519: 2, key: 3 } as const;
type RecipientKind = keyof typeof kindCodes;

/**
 * Seals what flows through. Memory is two chunks, whatever the length.
 * @throws RangeError for recipients that cannot be, and beyond 2^32 chunks
 */
export async function* sealStream(
  source: Source,
  recipients: readonly StreamRecipient[],
  options: SealStreamOptions = {},
): AsyncGenerator<Buffer, void, undefined> {
  const chunkBytesLog2 = options.chunkBytesLog2 ?? defaultChunkBytesLog2;
  requireRecipients(recipients, chunkBytesLog2);
  const random = options.random ?? systemRandom;
  using fileKey = SecretKey.generate(random);
  const header = await sealHeader(fileKey, recipients, chunkBytesLog2, random);
  using stream = deriveStreamKeys(fileKey, header, options.context);
  yield Buffer.concat([header, headerMac(stream.headerKey, header)]);

  const chunk = Buffer.alloc(2 ** chunkBytesLog2);
  let filled = 0;
  let number = 0;
  try {
    for await (const bytes of source) {
      let offset = 0;
      while (offset < bytes.length) {
        // A full chunk waits until it is known not to be the last.
        if (filled === chunk.length) {
          yield sealChunk(stream, chunk, number, false);
          number += 1;
          filled = 0;
        }
        const taken = Math.min(chunk.length - filled, bytes.length - offset);
        chunk.set(bytes.subarray(offset, offset + taken), filled);
        filled += taken;
        offset += taken;
      }
    }
    yield sealChunk(stream, chunk.subarray(0, filled), number, true);
  } finally {
    chunk.fill(0);
  }
}

/**
 * Opens what flows through. What came out is whole only when the iteration ends without an error.
 * @throws WrongKey where none of the identities is a recipient, or the passphrase is another
 * @throws Corrupt where anything was changed, moved, cut off or added
 */
export async function* openStream(
  source: Source,
  identities: readonly StreamIdentity[],
  options: OpenStreamOptions = {},
): AsyncGenerator<Buffer, void, undefined> {
  const reader = new Reader(source);
  try {
    const { header, chunkBytesLog2, recipients } = await readHeader(reader);
    const mac = await reader.exactly(macBytes);
    using fileKey = await openFileKey(recipients, identities, header);
    using stream = deriveStreamKeys(fileKey, header, options.context);
    if (headerMac(stream.headerKey, header).compare(mac) !== 0) {
      throw new Corrupt('header', 'the archive has a changed header, or is of another kind');
    }
    const sealedChunkBytes = 2 ** chunkBytesLog2 + tagBytes;
    for (let number = 0; ; number += 1) {
      const sealed = await reader.upTo(sealedChunkBytes);
      const isLast = await reader.isAtEnd();
      if (sealed.length < tagBytes) throw new Corrupt('too_short', 'the archive is cut off');
      // An archive has one form: an empty last chunk stands only where it is the first too.
      if (sealed.length === tagBytes && number > 0) throw new Corrupt('content');
      const plaintext = openChunk(stream, sealed, number, isLast);
      if (plaintext.length > 0) yield plaintext;
      if (isLast) return;
    }
  } finally {
    await reader.close();
  }
}

/** {@link sealStream} for Node's pipelines. */
export function sealing(
  recipients: readonly StreamRecipient[],
  options: SealStreamOptions = {},
): Duplex {
  return Duplex.from((source: AsyncIterable<Uint8Array>) =>
    sealStream(source, recipients, options),
  );
}

/** {@link openStream} for Node's pipelines. */
export function opening(
  identities: readonly StreamIdentity[],
  options: OpenStreamOptions = {},
): Duplex {
  return Duplex.from((source: AsyncIterable<Uint8Array>) =>
    openStream(source, identities, options),
  );
}

/**
 * Who may open the archive that starts with these bytes (at most the first 9 kB are looked at).
 * Nothing of it is verified.
 * @throws Corrupt where they are no header
 */
export async function describeStream(start: Uint8Array): Promise<{ recipients: RecipientKind[] }> {
  const { recipients } = await readHeader(new Reader([start]));
  return { recipients: recipients.map(({ kind }) => kind) };
}

// Keys of people

/** An X25519 pair: archives are sealed for the public key and opened with the private one. */
export function generateRecipient(): { publicKey: Buffer; privateKey: SecretKey } {
  const pair = generateKeyPairSync('x25519', {
    publicKeyEncoding: { type: 'spki', format: 'der' },
    privateKeyEncoding: { type: 'pkcs8', format: 'der' },
  });
  try {
    return {
      publicKey: Buffer.from(pair.publicKey.subarray(-publicKeyBytes)),
      privateKey: SecretKey.from(pair.privateKey.subarray(-keyBytes)),
    };
  } finally {
    pair.privateKey.fill(0);
  }
}

export function publicKeyOf(privateKey: SecretKey): Buffer {
  return rawPublicKey(createPublicKey(asPrivateKey(privateKey)));
}

const recipientPrefix = 'keystead-recipient-';
const identityPrefix = 'keystead-identity-';
const checksumBytes = 4;

/** `keystead-recipient-…`: the public key and a checksum, for people to pass on. */
export function formatRecipient(publicKey: Uint8Array): string {
  return formatKey(recipientPrefix, publicKey);
}

/** @throws RangeError for anything but what {@link formatRecipient} gives */
export function parseRecipient(text: string): Buffer {
  return parseKey(recipientPrefix, text, 'recipient');
}

/** `keystead-identity-…`: the private key and a checksum. Whoever has it opens the archives. */
export function formatIdentity(privateKey: SecretKey): string {
  return formatKey(identityPrefix, privateKey.bytes);
}

/** @throws RangeError for anything but what {@link formatIdentity} gives */
export function parseIdentity(text: string): SecretKey {
  return SecretKey.take(parseKey(identityPrefix, text, 'identity'));
}

function formatKey(prefix: string, key: Uint8Array): string {
  return prefix + Buffer.concat([key, keyChecksum(prefix, key)]).toString('base64url');
}

function parseKey(prefix: string, text: string, name: string): Buffer {
  const trimmed = text.trim();
  const bytes = Buffer.from(trimmed.slice(prefix.length), 'base64url');
  const key = bytes.subarray(0, keyBytes);
  if (
    !trimmed.startsWith(prefix) ||
    bytes.length !== keyBytes + checksumBytes ||
    bytes.toString('base64url') !== trimmed.slice(prefix.length) ||
    keyChecksum(prefix, key).compare(bytes, keyBytes) !== 0
  ) {
    throw new RangeError(`this is no ${name}: it starts with ${prefix} and has a checksum`);
  }
  return key;
}

function keyChecksum(prefix: string, key: Uint8Array): Buffer {
  return hash('sha256', Buffer.concat([Buffer.from(prefix), key]), 'buffer').subarray(
    0,
    checksumBytes,
  );
}

// The header

interface SealedRecipient {
  kind: RecipientKind;
  content: Buffer;
}

function requireRecipients(recipients: readonly StreamRecipient[], chunkBytesLog2: number): void {
  if (recipients.length < 1 || recipients.length > limits.maxStreamRecipients) {
    throw new RangeError(`an archive has between 1 and ${limits.maxStreamRecipients} recipients`);
  }
  const passphrases = recipients.filter(({ kind }) => kind === 'passphrase').length;
  if (passphrases > limits.maxStreamPassphrases) {
    throw new RangeError(`an archive has at most ${limits.maxStreamPassphrases} passphrase`);
  }
  if (
    !Number.isInteger(chunkBytesLog2) ||
    chunkBytesLog2 < limits.minStreamChunkBytesLog2 ||
    chunkBytesLog2 > limits.maxStreamChunkBytesLog2
  ) {
    throw new RangeError('the chunks are too small or too large');
  }
}

async function sealHeader(
  fileKey: SecretKey,
  recipients: readonly StreamRecipient[],
  chunkBytesLog2: number,
  random: RandomFill,
): Promise<Buffer> {
  const fixed = Buffer.alloc(fixedBytes);
  magic.copy(fixed);
  fixed[8] = version;
  fixed[9] = algorithmStream;
  fixed[10] = chunkBytesLog2;
  fixed[11] = recipients.length;
  const salt = fixed.subarray(saltOffset, saltOffset + saltBytes);
  random(salt);
  const parts: Buffer[] = [fixed];
  for (const recipient of recipients) {
    const content = await sealFileKey(fileKey, recipient, salt, random);
    const head = Buffer.alloc(recipientHeadBytes);
    head[0] = kindCodes[recipient.kind];
    head.writeUInt16BE(content.length, 1);
    parts.push(head, content);
  }
  return Buffer.concat(parts);
}

async function sealFileKey(
  fileKey: SecretKey,
  recipient: StreamRecipient,
  salt: Buffer,
  random: RandomFill,
): Promise<Buffer> {
  const sealUnder = (key: SecretKey) =>
    seal(key, fileKey.bytes, recipientData(recipient.kind, salt), random);
  switch (recipient.kind) {
    case 'passphrase': {
      const parameters = newPasswordParameters(recipient.cost, random);
      using key = await derivePasswordKey(recipient.passphrase, parameters);
      return Buffer.concat([encodePasswordParameters(parameters), sealUnder(key)]);
    }
    case 'x25519': {
      using ephemeral = SecretKey.generate(random);
      const ephemeralPublic = publicKeyOf(ephemeral);
      const shared = agree(ephemeral, recipient.publicKey);
      if (shared === undefined) throw new RangeError('this public key is not one of X25519');
      using key = agreedKey(shared, ephemeralPublic, recipient.publicKey);
      return Buffer.concat([ephemeralPublic, sealUnder(key)]);
    }
    case 'key':
      return sealUnder(recipient.key);
  }
}

async function readHeader(
  reader: Reader,
): Promise<{ header: Buffer; chunkBytesLog2: number; recipients: SealedRecipient[] }> {
  const fixed = await reader.upTo(fixedBytes);
  const start = fixed.subarray(0, magic.length);
  if (!start.equals(magic.subarray(0, start.length))) {
    throw new Corrupt('magic', 'this is no sealed archive');
  }
  if (fixed.length < fixedBytes) throw new Corrupt('too_short', 'the archive is cut off');
  if (fixed[8] !== version) throw new Corrupt('version');
  if (fixed[9] !== algorithmStream) throw new Corrupt('algorithm');
  const chunkBytesLog2 = fixed[10] as number;
  const count = fixed[11] as number;
  if (
    chunkBytesLog2 < limits.minStreamChunkBytesLog2 ||
    chunkBytesLog2 > limits.maxStreamChunkBytesLog2 ||
    count < 1 ||
    count > limits.maxStreamRecipients
  ) {
    throw new Corrupt('header');
  }
  const parts = [fixed];
  const recipients: SealedRecipient[] = [];
  for (let index = 0; index < count; index += 1) {
    const head = await reader.exactly(recipientHeadBytes);
    const length = head.readUInt16BE(1);
    const kind = (Object.keys(kindCodes) as RecipientKind[]).find(
      (name) => kindCodes[name] === head[0],
    );
    if (kind === undefined || length > limits.maxStreamRecipientBytes) throw new Corrupt('header');
    const content = await reader.exactly(length);
    parts.push(head, content);
    recipients.push({ kind, content });
  }
  const passphrases = recipients.filter(({ kind }) => kind === 'passphrase').length;
  if (passphrases > limits.maxStreamPassphrases) throw new Corrupt('header');
  return { header: Buffer.concat(parts), chunkBytesLog2, recipients };
}

async function openFileKey(
  recipients: readonly SealedRecipient[],
  identities: readonly StreamIdentity[],
  header: Buffer,
): Promise<SecretKey> {
  const salt = header.subarray(saltOffset, saltOffset + saltBytes);
  for (const { kind, content } of recipients) {
    for (const identity of identities) {
      if (identity.kind !== kind) continue;
      const fileKey = await tryIdentity(identity, content, salt);
      if (fileKey !== undefined) return fileKey;
    }
  }
  const offered = [...new Set(recipients.map(({ kind }) => kind))].join(', ');
  throw new WrongKey(`none of the keys given opens this archive; it is sealed for: ${offered}`);
}

/** Undefined where another was meant. */
async function tryIdentity(
  identity: StreamIdentity,
  content: Buffer,
  salt: Buffer,
): Promise<SecretKey | undefined> {
  const openUnder = (key: SecretKey, sealed: Buffer): SecretKey | undefined => {
    if (sealed.length !== sealedKeyBytes) throw new Corrupt('header');
    try {
      return SecretKey.take(open(key, sealed, recipientData(identity.kind, salt)));
    } catch (error) {
      if (error instanceof WrongKey) return undefined;
      throw error;
    }
  };
  switch (identity.kind) {
    case 'passphrase': {
      const { parameters, length } = decodePasswordParameters(content);
      using key = await (identity.derived === undefined
        ? derivePasswordKey(identity.passphrase, parameters)
        : identity.derived.derive(identity.passphrase, parameters));
      return openUnder(key, content.subarray(length));
    }
    case 'x25519': {
      if (content.length < publicKeyBytes) throw new Corrupt('header');
      const ephemeralPublic = content.subarray(0, publicKeyBytes);
      const shared = agree(identity.privateKey, ephemeralPublic);
      if (shared === undefined) throw new Corrupt('header');
      using key = agreedKey(shared, ephemeralPublic, publicKeyOf(identity.privateKey));
      return openUnder(key, content.subarray(publicKeyBytes));
    }
    case 'key':
      return openUnder(identity.key, content);
  }
}

function recipientData(kind: RecipientKind, salt: Buffer): Buffer {
  return associatedData('sealed-stream recipient', kind, salt);
}

// Keys of one archive

interface StreamKeys extends Disposable {
  headerKey: SecretKey;
  chunkKey: SecretKey;
  noncePrefix: Buffer;
}

function deriveStreamKeys(
  fileKey: SecretKey,
  header: Buffer,
  context: Uint8Array = nothing,
): StreamKeys {
  const salt = header.subarray(saltOffset, saltOffset + saltBytes);
  const derive = (purpose: string, length: number) =>
    hkdf(fileKey.bytes, salt, associatedData('sealed-stream', purpose, context), length);
  const headerKey = SecretKey.take(derive('header', keyBytes));
  const chunkKey = SecretKey.take(derive('chunks', keyBytes));
  return {
    headerKey,
    chunkKey,
    noncePrefix: derive('nonces', noncePrefixBytes),
    [Symbol.dispose]() {
      headerKey.wipe();
      chunkKey.wipe();
    },
  };
}

function headerMac(key: SecretKey, header: Buffer): Buffer {
  return createHmac('sha256', key.object).update(header).digest();
}

function chunkNonce(stream: StreamKeys, number: number, isLast: boolean): Buffer {
  if (number >= maxChunks) throw new RangeError('the archive is too long');
  const nonce = Buffer.alloc(nonceBytes);
  stream.noncePrefix.copy(nonce);
  nonce.writeUInt32BE(number, noncePrefixBytes);
  nonce[nonceBytes - 1] = isLast ? 1 : 0;
  return nonce;
}

function sealChunk(stream: StreamKeys, plaintext: Buffer, number: number, isLast: boolean): Buffer {
  const nonce = chunkNonce(stream, number, isLast);
  return Buffer.concat(encryptGcm(stream.chunkKey, nonce, [], plaintext));
}

function openChunk(stream: StreamKeys, sealed: Buffer, number: number, isLast: boolean): Buffer {
  const plaintext = decryptGcm(
    stream.chunkKey,
    chunkNonce(stream, number, isLast),
    [],
    sealed.subarray(0, sealed.length - tagBytes),
    sealed.subarray(sealed.length - tagBytes),
  );
  if (plaintext === undefined) throw new Corrupt('tag', 'the archive was changed or cut off');
  return plaintext;
}

// X25519

const spkiPrefix = Buffer.from('302a300506032b656e032100', 'hex');
const pkcs8Prefix = Buffer.from('302e020100300506032b656e04220420', 'hex');

function asPrivateKey(key: SecretKey): KeyObject {
  const der = Buffer.concat([pkcs8Prefix, key.bytes]);
  try {
    return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
  } finally {
    der.fill(0);
  }
}

function rawPublicKey(key: KeyObject): Buffer {
  return Buffer.from(key.export({ format: 'der', type: 'spki' }).subarray(-publicKeyBytes));
}

/** Undefined for a public key that is none, or whose result would not depend on the private one. */
function agree(privateKey: SecretKey, publicKey: Uint8Array): Buffer | undefined {
  if (publicKey.length !== publicKeyBytes) return undefined;
  try {
    return diffieHellman({
      privateKey: asPrivateKey(privateKey),
      publicKey: createPublicKey({
        key: Buffer.concat([spkiPrefix, publicKey]),
        format: 'der',
        type: 'spki',
      }),
    });
  } catch {
    return undefined;
  }
}

function agreedKey(shared: Buffer, ephemeral: Uint8Array, recipient: Uint8Array): SecretKey {
  const info = associatedData('sealed-stream x25519');
  try {
    return SecretKey.take(hkdf(shared, Buffer.concat([ephemeral, recipient]), info, keyBytes));
  } finally {
    shared.fill(0);
  }
}

// Reading

/** Bytes of a source, asked for by number; holds what was asked for and one piece of the source. */
class Reader {
  readonly #pieces: AsyncIterator<Uint8Array> | Iterator<Uint8Array>;
  #piece: Uint8Array = nothing;
  #ended = false;

  constructor(source: Source) {
    this.#pieces =
      Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  }

  async upTo(length: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(length);
    let filled = 0;
    while (filled < length && !(await this.isAtEnd())) {
      const taken = Math.min(length - filled, this.#piece.length);
      bytes.set(this.#piece.subarray(0, taken), filled);
      this.#piece = this.#piece.subarray(taken);
      filled += taken;
    }
    return bytes.subarray(0, filled);
  }

  async exactly(length: number): Promise<Buffer> {
    const bytes = await this.upTo(length);
    if (bytes.length < length) throw new Corrupt('too_short', 'the archive is cut off');
    return bytes;
  }

  async isAtEnd(): Promise<boolean> {
    while (this.#piece.length === 0 && !this.#ended) {
      const next = await this.#pieces.next();
      if (next.done) this.#ended = true;
      else this.#piece = next.value;
    }
    return this.#piece.length === 0;
  }

  /** Tells the source that no more is wanted, so that it lets go of what it holds. */
  async close(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.#pieces.return?.();
  }
}

/** The most that a header can take. */
export const maxStreamHeaderBytes = maxHeaderBytes;
