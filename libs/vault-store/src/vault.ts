/**
 * A token vault: values behind random tokens, each encrypted under a password, in SQLite, PostgreSQL or
 * MySQL/MariaDB. The database never sees a password or a value.
 */
import { type RandomFill, systemRandom } from '@keystead/envelope/keys';
import { defaultPasswordCost, type PasswordCost } from '@keystead/envelope/password';
import { requireCount, requireFields } from './argument-kinds.ts';
import { type Encryptor, PasswordEncryptor } from './encryptor.ts';
import { defaultKeyCache, type KeyCacheOptions, PasswordKeys } from './password-keys.ts';
import { decodeDerivation, newDerivation, type SaltScope } from './record-format.ts';
import { Records, type VaultParts } from './records.ts';
import { type RekeyResult, type RunOptions, runRekey } from './rekey/rekey.ts';
import { migrateVault, requireCurrentSchema, type VaultSchema } from './schema.ts';
import { Settings } from './settings.ts';
import { openSql, type SqlOptions, type SqlStore } from './sql/sql-store.ts';
import { defaultTokenShape, requireTokenShape, type TokenShape } from './token-format.ts';
import { Tokens } from './tokens.ts';
import {
  defaultValidators,
  requireNewPassword,
  requirePassword,
  type Validators,
} from './validators.ts';
import { PasswordUnchanged, VaultClosed } from './vault-error.ts';

export interface VaultOptions {
  /** Where the records lie: opened and closed by the vault, or a store that is open already. */
  sql: SqlOptions | SqlStore<VaultSchema>;
  /** Whether missing tables are made, and older ones brought up; true by default. */
  migrate?: boolean;
  /**
   * Argon2id for new records; old ones stay readable. Given and different from the vault's, it becomes
   * the vault's, with a fresh salt. By default 64 MiB and three passes for a new vault.
   */
  passwordCost?: PasswordCost;
  /**
   * `vault`: Argon2id once a password, then nothing. `record`: once a password and record, so that a
   * guess has to be tried on each record by itself.
   */
  saltScope?: SaltScope;
  /** How long keys of passwords are kept; by default five minutes. */
  keyCache?: KeyCacheOptions;
  /** In the place of Argon2id and AES-256-GCM. */
  encryptor?: Encryptor;
  validators?: Partial<Validators>;
  tokenShape?: TokenShape;
  /** Milliseconds since 1970. */
  now?: () => number;
  random?: RandomFill;
}

export interface RekeyOptions extends RunOptions {
  oldPassword: string;
  newPassword: string;
}

export interface UpgradeOptions extends RunOptions {
  password: string;
}

const derivationSetting = 'derivation';

/** @throws SchemaMissing, SchemaTooNew */
export async function openVault(options: VaultOptions): Promise<Vault> {
  requireFields('the options', options);
  requireFields('sql of the options', options.sql);
  const isOurs = 'kind' in options.sql && !('db' in options.sql);
  const store = isOurs
    ? await openSql<VaultSchema>(options.sql as SqlOptions)
    : (options.sql as SqlStore<VaultSchema>);
  try {
    const now = options.now ?? Date.now;
    if (options.migrate === false) await requireCurrentSchema(store);
    else await migrateVault(store, now());
    const encryption = new Settings(store, now, 'encryption');
    const random = options.random ?? systemRandom;
    const derivation = await currentDerivation(encryption, options.passwordCost, random);
    const keys = new PasswordKeys(options.keyCache ?? defaultKeyCache);
    const own = new PasswordEncryptor({
      current: derivation,
      saltScope: options.saltScope ?? 'vault',
      keys,
      random: options.random,
    });
    const parts: VaultParts = {
      store,
      encryptor: options.encryptor ?? own,
      validators: { ...defaultValidators, ...options.validators },
      tokenShape: requireTokenShape(options.tokenShape ?? defaultTokenShape),
      now,
      random: options.random,
    };
    return new Vault({ parts, own, encryption, closesStore: isOurs });
  } catch (error) {
    if (isOurs) await store.close();
    throw error;
  }
}

export class Vault {
  readonly records: Records;
  readonly tokens: Tokens;
  /** The caller's own settings of this vault. */
  readonly settings: Settings;
  readonly #parts: VaultParts;
  readonly #own: PasswordEncryptor;
  readonly #encryption: Settings;
  readonly #closesStore: boolean;
  #isClosed = false;

  /** By {@link openVault}. */
  constructor(made: {
    parts: VaultParts;
    own: PasswordEncryptor;
    encryption: Settings;
    closesStore: boolean;
  }) {
    this.#parts = made.parts;
    this.#own = made.own;
    this.#encryption = made.encryption;
    this.#closesStore = made.closesStore;
    this.records = new Records(made.parts);
    this.tokens = new Tokens(made.parts, this.records);
    this.settings = new Settings(made.parts.store, made.parts.now);
  }

  /**
   * Every record under the old password gets the new one; others stay as they are. A run that was cut
   * off goes on when the same passwords are given again.
   * @throws PasswordRequired, PasswordRefused (the new one), PasswordUnchanged, RekeyTakenOver,
   * RekeyFailed with the counts so far
   */
  async rekey(options: RekeyOptions): Promise<RekeyResult> {
    this.#requireOpen();
    this.requireRekey(options);
    const { oldPassword, newPassword, ...run } = options;
    return this.#run(oldPassword, newPassword, false, run);
  }

  /** What {@link rekey} asks of two passwords, before anything is begun. */
  requireRekey(options: Pick<RekeyOptions, 'oldPassword' | 'newPassword'>): void {
    requireFields('the options', options);
    const { oldPassword, newPassword } = options;
    requirePassword(oldPassword);
    requireNewPassword(newPassword, this.#parts.validators);
    if (oldPassword.normalize('NFC') === newPassword.normalize('NFC')) {
      throw new PasswordUnchanged();
    }
  }

  /**
   * Every record under this password that has other parameters than the vault's current ones, or
   * another scope of its salt, is encrypted anew under them. Without effect on a vault with an
   * encryptor of its own.
   */
  async upgrade(options: UpgradeOptions): Promise<RekeyResult> {
    this.#requireOpen();
    requireFields('the options', options);
    const { password, ...run } = options;
    requirePassword(password);
    return this.#run(password, password, true, run);
  }

  /**
   * Another cost of Argon2id, and a fresh salt, for records that are encrypted from now on; `upgrade`
   * brings the others.
   * @throws RangeError where the cost is out of bounds
   */
  async changePasswordCost(cost: PasswordCost): Promise<void> {
    this.#requireOpen();
    requireFields('the cost', cost);
    const fresh = newDerivation('vault', cost, this.#parts.random ?? systemRandom);
    await this.#encryption.set(derivationSetting, fresh.toString('hex'));
    this.#own.use(fresh);
  }

  /** Drops the keys of all passwords: the next use of each pays for Argon2id again. */
  forgetPasswords(): void {
    this.#own.keys.clear();
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#own.keys.clear();
    if (this.#closesStore) await this.#parts.store.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #run(oldPassword: string, newPassword: string, upgrades: boolean, options: RunOptions) {
    requireCount('timeoutMs', options.timeoutMs, 0);
    requireCount('workers', options.workers, 0);
    requireCount('batchRecords', options.batchRecords, 1);
    const { store, encryptor, now, random } = this.#parts;
    return runRekey({
      store,
      encryptor,
      keys: this.#own.keys,
      derivation: this.#own.current,
      now,
      random,
      oldPassword,
      newPassword,
      upgrades,
      options,
    });
  }

  #requireOpen(): void {
    if (this.#isClosed) throw new VaultClosed();
  }
}

/** How this vault makes keys of passwords: what it was, or from now on what is asked for. */
async function currentDerivation(
  encryption: Settings,
  cost: PasswordCost | undefined,
  random: RandomFill,
): Promise<Uint8Array> {
  const stored = await encryption.get(derivationSetting);
  if (stored === undefined) {
    const fresh = newDerivation('vault', cost ?? defaultPasswordCost, random);
    if (await encryption.setIfAbsent(derivationSetting, fresh.toString('hex'))) return fresh;
    return currentDerivation(encryption, cost, random);
  }
  const derivation = Buffer.from(stored, 'hex');
  const { parameters } = decodeDerivation(derivation);
  const isWanted =
    cost === undefined ||
    (parameters.memoryKib === cost.memoryKib &&
      parameters.passes === cost.passes &&
      parameters.parallelism === cost.parallelism);
  if (isWanted) return derivation;
  const fresh = newDerivation('vault', cost, random);
  await encryption.set(derivationSetting, fresh.toString('hex'));
  return fresh;
}
