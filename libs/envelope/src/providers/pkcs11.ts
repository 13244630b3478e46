/**
 * A hardware security module over PKCS #11: an AES-256 key that never leaves the token wraps with
 * AES-GCM, the context as additional authenticated data.
 *
 * ```text
 * nonce (12) | ciphertext (32) | tag (16)
 * ```
 */
import { randomBytes } from 'node:crypto';
import {
  contextData,
  type KeyContext,
  type KeyProvider,
  type KeyProviderDescription,
  KeyProviderError,
  type KeyProviderReason,
  requireWrappedBy,
  type WrappedKey,
} from '../key-provider.ts';
import { keyBytes, type SecretKey } from '../secret-key.ts';
import {
  CKR,
  CryptokiError,
  type CryptokiModule,
  closeCryptoki,
  openCryptoki,
} from './cryptoki.ts';
import { closedProvider, takeKey } from './local-key.ts';

const kind = 'pkcs11';
const formVersion = '1';
const nonceBytes = 12;
const tagBytes = 16;
const idBytes = 16;
const defaultTimeoutMs = 10_000;

export interface Pkcs11Options {
  /** The vendor's library, such as `/usr/lib/softhsm/libsofthsm2.so`. */
  library: string;
  tokenLabel: string;
  keyLabel: string;
  pin: string;
  /** Whether a missing key is made in the token. */
  create: boolean;
  /** For one wrapping or unwrapping. */
  timeoutMs?: number;
}

interface OpenKey {
  session: bigint;
  key: bigint;
  keyId: string;
}

/** @throws KeyProviderError where library, token, PIN or key are not what they should be */
export async function openPkcs11(options: Pkcs11Options): Promise<Pkcs11Provider> {
  if (process.platform === 'win32') {
    throw new KeyProviderError(kind, 'misconfigured', 'PKCS #11 is offered on 64-bit Unix alone');
  }
  if (options.pin === '') {
    throw new KeyProviderError(kind, 'misconfigured', 'the PIN is empty');
  }
  let module: CryptokiModule;
  try {
    module = await openCryptoki(options.library);
  } catch (error) {
    if (error instanceof CryptokiError) throw explained(error);
    throw new KeyProviderError(
      kind,
      'misconfigured',
      `${options.library} cannot be loaded as a PKCS #11 library`,
      { cause: error },
    );
  }
  const provider = new Pkcs11Provider(options, module);
  try {
    await provider.open();
    return provider;
  } catch (error) {
    await provider.close();
    throw error;
  }
}

export class Pkcs11Provider implements KeyProvider {
  readonly kind = kind;
  readonly #options: Pkcs11Options;
  readonly #module: CryptokiModule;
  #pin: Buffer | undefined;
  #open: OpenKey | undefined;
  /** Whether this start made the key. */
  #isNew = false;
  #keyId = '';
  /** A session does one thing at a time. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: Pkcs11Options, module: CryptokiModule) {
    this.#options = options;
    this.#module = module;
    this.#pin = Buffer.from(options.pin);
  }

  get isNew(): boolean {
    return this.#isNew;
  }

  /** Looks for token and key, so that what is wrong shows at the start. @throws KeyProviderError */
  async open(): Promise<void> {
    await this.#inTurn(() => this.#ensureOpen());
  }

  async wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey> {
    const data = contextData(context);
    return this.#inTurn(async () => {
      const nonce = randomBytes(nonceBytes);
      const { ciphertext, keyId } = await this.#withKey(async (open) => ({
        ciphertext: await this.#module.encrypt(open.session, open.key, nonce, data, key.bytes),
        keyId: open.keyId,
      }));
      if (ciphertext.length !== keyBytes + tagBytes) {
        throw new KeyProviderError(kind, 'unavailable', 'the token answered with another length');
      }
      return {
        provider: kind,
        keyId,
        version: formVersion,
        bytes: Buffer.concat([nonce, ciphertext]),
      };
    });
  }

  async unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey> {
    this.#requirePin();
    requireWrappedBy(kind, wrapped, formVersion);
    if (wrapped.bytes.length !== nonceBytes + keyBytes + tagBytes) {
      throw new KeyProviderError(kind, 'corrupt', 'the wrapped key has an impossible length');
    }
    const data = contextData(context);
    return this.#inTurn(async () => {
      const bytes = Buffer.from(wrapped.bytes);
      const plaintext = await this.#withKey((open) => {
        if (wrapped.keyId !== open.keyId) {
          throw new KeyProviderError(
            kind,
            'wrong_key',
            `the key was wrapped with ${wrapped.keyId.slice(0, 300)}, and this one is ${open.keyId}`,
          );
        }
        return this.#module.decrypt(
          open.session,
          open.key,
          bytes.subarray(0, nonceBytes),
          data,
          bytes.subarray(nonceBytes),
        );
      });
      return takeKey(kind, plaintext);
    });
  }

  describe(): KeyProviderDescription {
    const { library, tokenLabel } = this.#options;
    return { kind, keyId: this.#keyId, location: `token ${tokenLabel} of ${library}` };
  }

  async close(): Promise<void> {
    if (this.#pin === undefined) return;
    this.#pin.fill(0);
    this.#pin = undefined;
    await this.#last.catch(() => undefined);
    const open = this.#open;
    this.#open = undefined;
    if (open) await this.#module.closeSession(open.session).catch(() => undefined);
    await closeCryptoki(this.#options.library).catch(() => undefined);
  }

  /** Runs after what runs already, with a deadline, and in this provider's errors. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const timeoutMs = this.#options.timeoutMs ?? defaultTimeoutMs;
    const turn = this.#last.then(work);
    // The next one waits until the token is done, not until the caller gave up.
    this.#last = turn.catch(() => undefined);
    return new Promise<T>((resolve, reject) => {
      const timer = setTimeout(
        () =>
          reject(
            new KeyProviderError(
              kind,
              'timed_out',
              `the token gave no answer within ${timeoutMs} ms`,
            ),
          ),
        timeoutMs,
      );
      turn
        .then(resolve, (error) => reject(error instanceof CryptokiError ? explained(error) : error))
        .finally(() => clearTimeout(timer));
    });
  }

  /** A session that the token has forgotten is opened anew, once. */
  async #withKey<T>(work: (open: OpenKey) => Promise<T>): Promise<T> {
    const open = await this.#ensureOpen();
    try {
      return await work(open);
    } catch (error) {
      if (!(error instanceof CryptokiError) || !forgotten.includes(error.code)) throw error;
      this.#open = undefined;
      await this.#module.closeSession(open.session).catch(() => undefined);
      return work(await this.#ensureOpen());
    }
  }

  async #ensureOpen(): Promise<OpenKey> {
    const pin = this.#requirePin();
    if (this.#open) return this.#open;
    const { tokenLabel, keyLabel } = this.#options;
    const tokens = (await this.#module.tokens()).filter(({ label }) => label === tokenLabel);
    const [token] = tokens;
    if (token === undefined) {
      throw new KeyProviderError(kind, 'key_not_found', `no token is labelled ${tokenLabel}`);
    }
    if (tokens.length > 1) {
      throw new KeyProviderError(
        kind,
        'misconfigured',
        `several tokens are labelled ${tokenLabel}`,
      );
    }
    const session = await this.#module.openSession(token.slot, pin);
    try {
      const key = await this.#findKey(session, keyLabel);
      const id = await this.#module.keyId(session, key);
      // RFC 7512 in spirit: what names the key for ever, in whatever slot the token sits.
      this.#keyId = `pkcs11:serial=${token.serial};object=${keyLabel};id=${id.toString('hex')}`;
      this.#open = { session, key, keyId: this.#keyId };
      return this.#open;
    } catch (error) {
      await this.#module.closeSession(session).catch(() => undefined);
      throw error;
    }
  }

  async #findKey(session: bigint, label: string): Promise<bigint> {
    let keys = await this.#module.findKeys(session, label);
    if (keys.length === 0 && this.#options.create) {
      await this.#module.generateKey(session, label, randomBytes(idBytes));
      this.#isNew = true;
      keys = await this.#module.findKeys(session, label);
    }
    const [key] = keys;
    if (key === undefined) {
      throw new KeyProviderError(kind, 'key_not_found', `no AES key is labelled ${label}`);
    }
    if (keys.length > 1) {
      throw new KeyProviderError(kind, 'misconfigured', `several AES keys are labelled ${label}`);
    }
    return key;
  }

  #requirePin(): Buffer {
    if (this.#pin === undefined) throw closedProvider(kind);
    return this.#pin;
  }
}

const forgotten: readonly number[] = [
  CKR.SESSION_CLOSED,
  CKR.SESSION_HANDLE_INVALID,
  CKR.USER_NOT_LOGGED_IN,
  CKR.KEY_HANDLE_INVALID,
  CKR.OBJECT_HANDLE_INVALID,
  CKR.DEVICE_REMOVED,
  CKR.TOKEN_NOT_PRESENT,
];

function explained(error: CryptokiError): KeyProviderError {
  const what = inWords[error.code];
  const text = what === undefined ? error.message : `${what} (${error.message})`;
  return new KeyProviderError(kind, reasonOf(error), text);
}

/** What an owner can do something about. */
const inWords: Record<number, string> = {
  [CKR.PIN_INCORRECT]: 'the token refuses the PIN',
  [CKR.PIN_INVALID]: 'the PIN holds characters that the token does not take',
  [CKR.PIN_LEN_RANGE]: 'the PIN is too short or too long for the token',
  [CKR.PIN_EXPIRED]: 'the PIN has expired and has to be changed at the token',
  [CKR.PIN_LOCKED]: 'the token has locked its PIN after too many wrong ones',
  [CKR.USER_PIN_NOT_INITIALIZED]: 'the token has no PIN of a user yet',
  [CKR.TOKEN_NOT_PRESENT]: 'the token is not there',
  [CKR.DEVICE_REMOVED]: 'the token was removed',
};

function reasonOf(error: CryptokiError): KeyProviderReason {
  switch (error.code) {
    case CKR.PIN_INCORRECT:
    case CKR.PIN_INVALID:
    case CKR.PIN_LEN_RANGE:
    case CKR.PIN_EXPIRED:
    case CKR.PIN_LOCKED:
    case CKR.USER_PIN_NOT_INITIALIZED:
    case CKR.USER_NOT_LOGGED_IN:
      return 'denied';
    case CKR.KEY_FUNCTION_NOT_PERMITTED:
    case CKR.MECHANISM_INVALID:
    case CKR.MECHANISM_PARAM_INVALID:
      return 'misconfigured';
    case CKR.KEY_HANDLE_INVALID:
    case CKR.OBJECT_HANDLE_INVALID:
      return 'key_not_found';
    case CKR.AEAD_DECRYPT_FAILED:
    case CKR.ENCRYPTED_DATA_INVALID:
    case CKR.ENCRYPTED_DATA_LEN_RANGE:
      return 'corrupt';
    case CKR.GENERAL_ERROR:
    case CKR.FUNCTION_FAILED:
      // What several libraries, SoftHSM among them, answer for a tag that does not verify.
      return error.function === 'C_Decrypt' ? 'corrupt' : 'unavailable';
    default:
      return 'unavailable';
  }
}
