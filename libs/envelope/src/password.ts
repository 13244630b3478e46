/**
 * A key from a password: Argon2id (RFC 9106). The parameters are data that lie beside what the key
 * seals, so a later version may choose others and still open it.
 *
 * ```text
 * offset  bytes  content
 *      0      1  algorithm, 1 = Argon2id version 0x13
 *      1      4  memory in KiB, big-endian
 *      5      4  passes, big-endian
 *      9      1  lanes
 *     10      1  length of the salt, 16–64
 *     11      n  salt
 * ```
 */
import { argon2 } from 'node:crypto';
import { envelopeLimits as limits } from './limits.ts';
import { Corrupt } from './sealed.ts';
import { keyBytes, type RandomFill, SecretKey, systemRandom } from './secret-key.ts';

export interface PasswordParameters {
  memoryKib: number;
  passes: number;
  parallelism: number;
  salt: Uint8Array;
}

/** The second recommendation of RFC 9106: 64 MiB and three passes; one lane, as one thread does it. */
export const defaultPasswordCost = { memoryKib: 64 * 1024, passes: 3, parallelism: 1 } as const;

const algorithmArgon2id = 1;
const saltBytes = 16;
const headBytes = 11;

/** As many derivations wait as may: try again later. */
export class TooManyDerivations extends Error {
  constructor() {
    super('too many keys are being derived from passwords at the moment');
    this.name = 'TooManyDerivations';
  }
}

export type PasswordCost = Omit<PasswordParameters, 'salt'>;

/** Parameters with a fresh salt. @throws RangeError where the cost is out of bounds */
export function newPasswordParameters(
  cost: PasswordCost = defaultPasswordCost,
  random: RandomFill = systemRandom,
): PasswordParameters {
  const salt = Buffer.alloc(saltBytes);
  random(salt);
  const parameters = { ...cost, salt };
  const wrong = findOutOfBounds(parameters);
  if (wrong !== undefined) throw new RangeError(wrong);
  return parameters;
}

/**
 * What is out of bounds, in words. Checked before any memory is taken: a header that asks for a
 * terabyte is refused, not obeyed.
 */
export function findOutOfBounds(parameters: PasswordParameters): string | undefined {
  const { memoryKib, passes, parallelism, salt } = parameters;
  const within = (value: number, least: number, most: number) =>
    Number.isInteger(value) && value >= least && value <= most;
  if (!within(memoryKib, limits.minArgonMemoryKib, limits.maxArgonMemoryKib)) {
    return `Argon2id memory is between ${limits.minArgonMemoryKib} and ${limits.maxArgonMemoryKib} KiB`;
  }
  if (!within(passes, limits.minArgonPasses, limits.maxArgonPasses)) {
    return `Argon2id takes between ${limits.minArgonPasses} and ${limits.maxArgonPasses} passes`;
  }
  if (!within(parallelism, 1, limits.maxArgonParallelism)) {
    return `Argon2id has between 1 and ${limits.maxArgonParallelism} lanes`;
  }
  if (memoryKib * passes > limits.maxArgonWorkKib) {
    return `Argon2id memory times passes is at most ${limits.maxArgonWorkKib} KiB`;
  }
  if (!within(salt.length, limits.minArgonSaltBytes, limits.maxArgonSaltBytes)) {
    return `an Argon2id salt has between ${limits.minArgonSaltBytes} and ${limits.maxArgonSaltBytes} bytes`;
  }
  return undefined;
}

export function encodePasswordParameters(parameters: PasswordParameters): Buffer {
  const encoded = Buffer.alloc(headBytes + parameters.salt.length);
  encoded[0] = algorithmArgon2id;
  encoded.writeUInt32BE(parameters.memoryKib, 1);
  encoded.writeUInt32BE(parameters.passes, 5);
  encoded[9] = parameters.parallelism;
  encoded[10] = parameters.salt.length;
  encoded.set(parameters.salt, headBytes);
  return encoded;
}

/**
 * The parameters at the start of the bytes, and how many bytes they took.
 * @throws Corrupt where they are cut off, of an unknown algorithm or out of bounds
 */
export function decodePasswordParameters(encoded: Uint8Array): {
  parameters: PasswordParameters;
  length: number;
} {
  if (encoded.length < headBytes) throw new Corrupt('too_short');
  const bytes = Buffer.from(encoded.buffer, encoded.byteOffset, encoded.byteLength);
  if (bytes[0] !== algorithmArgon2id) throw new Corrupt('algorithm');
  const length = headBytes + (bytes[10] as number);
  if (bytes.length < length) throw new Corrupt('too_short');
  const parameters = {
    memoryKib: bytes.readUInt32BE(1),
    passes: bytes.readUInt32BE(5),
    parallelism: bytes[9] as number,
    salt: Buffer.from(bytes.subarray(headBytes, length)),
  };
  const wrong = findOutOfBounds(parameters);
  if (wrong !== undefined) throw new Corrupt('header', wrong);
  return { parameters, length };
}

/**
 * One Argon2id, on another thread. Text is normalized (NFC), so that a password typed on another
 * keyboard is the same; bytes are taken as they are.
 * @throws RangeError for an empty or overlong password and for parameters out of bounds, TooManyDerivations
 */
export async function derivePasswordKey(
  password: string | Uint8Array,
  parameters: PasswordParameters,
): Promise<SecretKey> {
  const wrong = findOutOfBounds(parameters);
  if (wrong !== undefined) throw new RangeError(wrong);
  if (waiting.length >= limits.maxWaitingDerivations) throw new TooManyDerivations();
  const message = passwordBytes(password);
  await turn();
  try {
    return SecretKey.take(
      await argon2id({
        message,
        nonce: parameters.salt,
        parallelism: parameters.parallelism,
        memory: parameters.memoryKib,
        passes: parameters.passes,
        tagLength: keyBytes,
      }),
    );
  } finally {
    message.fill(0);
    endTurn();
  }
}

/** Keys of one password, derived once for each set of parameters: for whoever opens the same thing twice. */
export class DerivedKeys implements Disposable {
  readonly #keys = new Map<string, SecretKey>();

  /** A key that is the caller's to wipe. @throws as {@link derivePasswordKey} */
  async derive(password: string | Uint8Array, parameters: PasswordParameters): Promise<SecretKey> {
    const name = encodePasswordParameters(parameters).toString('hex');
    const known = this.#keys.get(name);
    if (known !== undefined) return SecretKey.from(known.bytes);
    const key = await derivePasswordKey(password, parameters);
    // An archive has one passphrase: more than a few are of nobody who needs them again.
    if (this.#keys.size < limits.maxStreamPassphrases)
      this.#keys.set(name, SecretKey.from(key.bytes));
    return key;
  }

  [Symbol.dispose](): void {
    for (const key of this.#keys.values()) key.wipe();
    this.#keys.clear();
  }
}

/** A copy, to be zeroed after use. @throws RangeError for an empty or overlong password */
export function passwordBytes(password: string | Uint8Array): Buffer {
  const source =
    typeof password === 'string' ? Buffer.from(password.normalize('NFC'), 'utf8') : password;
  if (source.length === 0) throw new RangeError('the password is empty');
  if (source.length > limits.maxPasswordBytes) {
    throw new RangeError(`a password has at most ${limits.maxPasswordBytes} bytes`);
  }
  const copy = Buffer.alloc(source.length);
  copy.set(source);
  if (typeof password === 'string') source.fill(0);
  return copy;
}

/**
 * Where a passphrase is set, not where it is used: older ones still open what they sealed.
 * @throws RangeError where it is too short
 */
export function requirePassphraseLength(passphrase: string): void {
  if ([...passphrase.normalize('NFC')].length < limits.minPassphraseCharacters) {
    throw new RangeError(`a passphrase has at least ${limits.minPassphraseCharacters} characters`);
  }
}

/** Argon2id as Node offers it, bounds and all: what the known answers of RFC 9106 are checked on. */
export function argon2id(parameters: Parameters<typeof argon2>[1]): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    argon2('argon2id', parameters, (error, key) => (error ? reject(error) : resolve(key)));
  });
}

// Each derivation takes its memory at once: those beyond the limit wait in line.
let running = 0;
const waiting: (() => void)[] = [];

async function turn(): Promise<void> {
  if (running < limits.maxConcurrentDerivations) {
    running += 1;
    return;
  }
  await new Promise<void>((resolve) => waiting.push(resolve));
}

function endTurn(): void {
  const next = waiting.shift();
  if (next) next();
  else running -= 1;
}
