/**
 * As much of PKCS #11 (Cryptoki 2.40) as wrapping a key takes, called in the vendor's library through
 * its function list. Calls run on other threads, as an HSM over a network takes its time.
 *
 * The structures are laid out by hand: C's `unsigned long` and pointers of eight bytes, naturally
 * aligned, as on 64-bit Unix. On Windows both differ, and the provider says that it is not for there.
 */
import type { KoffiFunc, LibraryHandle } from 'koffi';

type Koffi = typeof import('koffi');
type Argument = Buffer | number | bigint | null;
type NativeCall = KoffiFunc<(...args: Argument[]) => number | bigint>;

/** Positions in CK_FUNCTION_LIST, and what each takes: `p` a pointer, `n` an unsigned long. */
const functions = {
  C_Initialize: [0, 'p'],
  C_Finalize: [1, 'p'],
  C_GetSlotList: [4, 'bpp'],
  C_GetTokenInfo: [6, 'np'],
  C_OpenSession: [12, 'nnppp'],
  C_CloseSession: [13, 'n'],
  C_Login: [18, 'nnpn'],
  C_GetAttributeValue: [24, 'nnpn'],
  C_FindObjectsInit: [26, 'npn'],
  C_FindObjects: [27, 'npnp'],
  C_FindObjectsFinal: [28, 'n'],
  C_EncryptInit: [29, 'npn'],
  C_Encrypt: [30, 'npnpp'],
  C_DecryptInit: [33, 'npn'],
  C_Decrypt: [34, 'npnpp'],
  C_GenerateKey: [58, 'nppnp'],
} as const satisfies Record<string, readonly [number, string]>;
export type CryptokiFunction = keyof typeof functions;

export const CKR = {
  OK: 0x0,
  GENERAL_ERROR: 0x5,
  FUNCTION_FAILED: 0x6,
  DEVICE_ERROR: 0x30,
  DEVICE_MEMORY: 0x31,
  DEVICE_REMOVED: 0x32,
  AEAD_DECRYPT_FAILED: 0x35,
  ENCRYPTED_DATA_INVALID: 0x40,
  ENCRYPTED_DATA_LEN_RANGE: 0x41,
  KEY_HANDLE_INVALID: 0x60,
  KEY_FUNCTION_NOT_PERMITTED: 0x68,
  MECHANISM_INVALID: 0x70,
  MECHANISM_PARAM_INVALID: 0x71,
  OBJECT_HANDLE_INVALID: 0x82,
  PIN_INCORRECT: 0xa0,
  PIN_INVALID: 0xa1,
  PIN_LEN_RANGE: 0xa2,
  PIN_EXPIRED: 0xa3,
  PIN_LOCKED: 0xa4,
  SESSION_CLOSED: 0xb0,
  SESSION_HANDLE_INVALID: 0xb3,
  TOKEN_NOT_PRESENT: 0xe0,
  USER_ALREADY_LOGGED_IN: 0x100,
  USER_NOT_LOGGED_IN: 0x101,
  USER_PIN_NOT_INITIALIZED: 0x102,
  CRYPTOKI_NOT_INITIALIZED: 0x190,
  CRYPTOKI_ALREADY_INITIALIZED: 0x191,
} as const;

const CKA = {
  CLASS: 0x0,
  TOKEN: 0x1,
  PRIVATE: 0x2,
  LABEL: 0x3,
  KEY_TYPE: 0x100,
  ID: 0x102,
  SENSITIVE: 0x103,
  ENCRYPT: 0x104,
  DECRYPT: 0x105,
  VALUE_LEN: 0x161,
  EXTRACTABLE: 0x162,
} as const;

const CKO_SECRET_KEY = 4n;
const CKK_AES = 0x1fn;
const CKM_AES_KEY_GEN = 0x1080n;
const CKM_AES_GCM = 0x1087n;
const CKU_USER = 1n;
const CKF_RW_SESSION = 2n;
const CKF_SERIAL_SESSION = 4n;
const CKF_OS_LOCKING_OK = 2n;

const wordBytes = 8;
const attributeBytes = 24;
const initializeArgsBytes = 48;
const initializeFlagsOffset = 32;
const tokenInfoBytes = 512;
const maxSlots = 256;
const maxIdBytes = 256;
const tagBits = 128n;

export class CryptokiError extends Error {
  readonly function: CryptokiFunction;
  readonly code: number;

  constructor(name: CryptokiFunction, code: number) {
    const known = Object.entries(CKR).find(([, value]) => value === code)?.[0];
    super(`${name}: ${known ? `CKR_${known}` : `error 0x${code.toString(16)}`}`);
    this.name = 'CryptokiError';
    this.function = name;
    this.code = code;
  }
}

export interface Token {
  slot: bigint;
  label: string;
  serial: string;
}

interface Opened {
  module: CryptokiModule;
  users: number;
}

/** A library is initialized once for the whole process, whoever uses it. */
const opened = new Map<string, Promise<Opened>>();

export async function openCryptoki(path: string): Promise<CryptokiModule> {
  const opening = opened.get(path) ?? CryptokiModule.load(path);
  opened.set(path, opening);
  try {
    const entry = await opening;
    entry.users += 1;
    return entry.module;
  } catch (error) {
    opened.delete(path);
    throw error;
  }
}

export async function closeCryptoki(path: string): Promise<void> {
  const entry = await opened.get(path);
  if (entry === undefined) return;
  entry.users -= 1;
  if (entry.users > 0) return;
  opened.delete(path);
  await entry.module.finalize();
}

export class CryptokiModule {
  readonly #koffi: Koffi;
  readonly #calls: Record<CryptokiFunction, NativeCall>;
  /** Kept so that the library is not unloaded under its own functions. */
  readonly #library: LibraryHandle;

  private constructor(koffi: Koffi, library: LibraryHandle) {
    this.#koffi = koffi;
    this.#library = library;
    this.#calls = this.#readFunctionList();
  }

  static async load(path: string): Promise<Opened> {
    const koffi = (await import('koffi')).default as unknown as Koffi;
    const module = new CryptokiModule(koffi, koffi.load(path));
    const args = Buffer.alloc(initializeArgsBytes);
    args.writeBigUInt64LE(CKF_OS_LOCKING_OK, initializeFlagsOffset);
    await module.call('C_Initialize', [args], [CKR.CRYPTOKI_ALREADY_INITIALIZED]);
    return { module, users: 0 };
  }

  async finalize(): Promise<void> {
    await this.call('C_Finalize', [null], [CKR.CRYPTOKI_NOT_INITIALIZED]);
  }

  /** Initialized tokens that are present. */
  async tokens(): Promise<Token[]> {
    const slots = Buffer.alloc(maxSlots * wordBytes);
    const count = words(BigInt(maxSlots));
    await this.call('C_GetSlotList', [1, slots, count]);
    const tokens: Token[] = [];
    for (let index = 0; index < Number(count.readBigUInt64LE()); index += 1) {
      const slot = slots.readBigUInt64LE(index * wordBytes);
      const info = Buffer.alloc(tokenInfoBytes);
      await this.call('C_GetTokenInfo', [slot, info]);
      tokens.push({
        slot,
        label: info.toString('utf8', 0, 32).trimEnd(),
        serial: info.toString('latin1', 80, 96).trimEnd(),
      });
    }
    return tokens;
  }

  async openSession(slot: bigint, pin: Buffer): Promise<bigint> {
    const handle = words(0n);
    const flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    await this.call('C_OpenSession', [slot, flags, null, null, handle]);
    const session = handle.readBigUInt64LE();
    try {
      await this.call(
        'C_Login',
        [session, CKU_USER, pin, BigInt(pin.length)],
        [CKR.USER_ALREADY_LOGGED_IN],
      );
    } catch (error) {
      await this.closeSession(session).catch(() => undefined);
      throw error;
    }
    return session;
  }

  async closeSession(session: bigint): Promise<void> {
    await this.call('C_CloseSession', [session]);
  }

  /** Handles of AES keys with this label, at most two: more than one is as wrong as many. */
  async findKeys(session: bigint, label: string): Promise<bigint[]> {
    const template = this.#attributes([
      [CKA.CLASS, words(CKO_SECRET_KEY)],
      [CKA.KEY_TYPE, words(CKK_AES)],
      [CKA.LABEL, Buffer.from(label)],
    ]);
    await this.call('C_FindObjectsInit', [session, template.bytes, template.count], [], template);
    const found = Buffer.alloc(2 * wordBytes);
    const count = words(0n);
    try {
      await this.call('C_FindObjects', [session, found, 2n, count]);
    } finally {
      await this.call('C_FindObjectsFinal', [session]);
    }
    return Array.from({ length: Number(count.readBigUInt64LE()) }, (_, index) =>
      found.readBigUInt64LE(index * wordBytes),
    );
  }

  /** CKA_ID of a key: empty where it has none. */
  async keyId(session: bigint, key: bigint): Promise<Buffer> {
    const value = Buffer.alloc(maxIdBytes);
    const template = this.#attributes([[CKA.ID, value]]);
    await this.call('C_GetAttributeValue', [session, key, template.bytes, 1n], [], template);
    const length = Number(template.bytes.readBigUInt64LE(2 * wordBytes));
    return value.subarray(0, Math.min(length, maxIdBytes));
  }

  /** A 256-bit AES key that never leaves the token. */
  async generateKey(session: bigint, label: string, id: Buffer): Promise<void> {
    const yes = Buffer.from([1]);
    const no = Buffer.from([0]);
    const template = this.#attributes([
      [CKA.TOKEN, yes],
      [CKA.PRIVATE, yes],
      [CKA.SENSITIVE, yes],
      [CKA.EXTRACTABLE, no],
      [CKA.ENCRYPT, yes],
      [CKA.DECRYPT, yes],
      [CKA.LABEL, Buffer.from(label)],
      [CKA.ID, id],
      [CKA.VALUE_LEN, words(32n)],
    ]);
    const mechanism = words(CKM_AES_KEY_GEN, 0n, 0n);
    const handle = words(0n);
    await this.call(
      'C_GenerateKey',
      [session, mechanism, template.bytes, template.count, handle],
      [],
      template,
    );
  }

  /** AES-GCM with a tag of 128 bits behind the ciphertext. */
  encrypt(
    session: bigint,
    key: bigint,
    nonce: Buffer,
    data: Buffer,
    plaintext: Buffer,
  ): Promise<Buffer> {
    return this.#crypt('Encrypt', session, key, nonce, data, plaintext);
  }

  decrypt(
    session: bigint,
    key: bigint,
    nonce: Buffer,
    data: Buffer,
    ciphertext: Buffer,
  ): Promise<Buffer> {
    return this.#crypt('Decrypt', session, key, nonce, data, ciphertext);
  }

  async #crypt(
    direction: 'Encrypt' | 'Decrypt',
    session: bigint,
    key: bigint,
    nonce: Buffer,
    data: Buffer,
    input: Buffer,
  ): Promise<Buffer> {
    const parameters = words(
      this.#address(nonce),
      BigInt(nonce.length),
      BigInt(nonce.length * 8),
      this.#address(data),
      BigInt(data.length),
      tagBits,
    );
    const mechanism = words(CKM_AES_GCM, this.#address(parameters), BigInt(parameters.length));
    const kept = [nonce, data, parameters];
    await this.call(`C_${direction}Init`, [session, mechanism, key], [], kept);
    const output = Buffer.alloc(input.length + 64);
    const length = words(BigInt(output.length));
    await this.call(
      `C_${direction}`,
      [session, input, BigInt(input.length), output, length],
      [],
      kept,
    );
    return output.subarray(0, Number(length.readBigUInt64LE()));
  }

  /**
   * @param alright return values that are as good as CKR_OK
   * @param kept what the arguments point to: it must outlive the call, which another thread makes
   * @throws CryptokiError
   */
  call(
    name: CryptokiFunction,
    args: Argument[],
    alright: readonly number[] = [],
    kept?: unknown,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#calls[name].async(...args, (error: unknown, result: number | bigint) => {
        const code = Number(result);
        if (error) reject(error);
        else if (code === CKR.OK || alright.includes(code)) resolve();
        else reject(new CryptokiError(name, code));
        void kept;
      });
    });
  }

  #readFunctionList(): Record<CryptokiFunction, NativeCall> {
    const pointer = Buffer.alloc(wordBytes);
    const code = this.#library.func('C_GetFunctionList', 'ulong', ['void *'])(pointer);
    if (Number(code) !== CKR.OK) throw new Error('C_GetFunctionList failed');
    // The version takes one word, aligned; the functions follow.
    const lastIndex = Math.max(...Object.values(functions).map(([index]) => index));
    const list = Buffer.from(
      this.#koffi.view(pointer.readBigUInt64LE(), (lastIndex + 2) * wordBytes),
    );
    const types = { p: 'void *', n: 'ulong', b: 'uint8_t' } as const;
    return Object.fromEntries(
      Object.entries(functions).map(([name, [index, parameters]]) => {
        const prototype = this.#koffi.proto(
          'ulong',
          [...parameters].map((letter) => types[letter as keyof typeof types]),
        );
        const address = list.readBigUInt64LE((index + 1) * wordBytes);
        return [name, this.#koffi.decode(address, prototype)];
      }),
    ) as Record<CryptokiFunction, NativeCall>;
  }

  #attributes(attributes: [number, Buffer][]): { bytes: Buffer; count: bigint; kept: Buffer[] } {
    const bytes = Buffer.alloc(attributes.length * attributeBytes);
    attributes.forEach(([type, value], index) => {
      words(BigInt(type), this.#address(value), BigInt(value.length)).copy(
        bytes,
        index * attributeBytes,
      );
    });
    return { bytes, count: BigInt(attributes.length), kept: attributes.map(([, value]) => value) };
  }

  #address(bytes: Buffer): bigint {
    return bytes.length === 0 ? 0n : this.#koffi.address(bytes);
  }
}

/** Unsigned longs, one after the other. */
function words(...values: bigint[]): Buffer {
  const bytes = Buffer.alloc(values.length * wordBytes);
  values.forEach((value, index) => {
    bytes.writeBigUInt64LE(value, index * wordBytes);
  });
  return bytes;
}
