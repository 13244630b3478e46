/** Tokens: values behind random names, each under a password, for as long as they are wanted. */
import { requireCount, requireFields, requireOneOf, requireTexts } from './argument-kinds.ts';
import { vaultLimits } from './limits.ts';
import type { VaultRecord, VaultRow } from './record.ts';
import { fromTime, toTime } from './record.ts';
import { encodeData, type RecordData, requireData } from './record-data.ts';
import { recordQuery } from './record-query.ts';
import type { RecordChanges, Records, VaultParts } from './records.ts';
import { never } from './schema.ts';
import {
  isAbsent,
  requireNewPassword,
  requirePassword,
  requireTime,
  requireValue,
} from './validators.ts';
import {
  CorruptRecord,
  InvalidPassword,
  InvalidQuery,
  PasswordUnchanged,
  RecordChanged,
  RecordNotFound,
  TokenAlreadyExists,
  TokenExpired,
  TokenRequired,
  ValueIsNotText,
} from './vault-error.ts';

export interface NewToken {
  password: string;
  data?: RecordData;
  /** Milliseconds since 1970; null or left out: never. */
  expiresAtMs?: number | null;
}

/** What became of one of several tokens. */
export type TokenStatus =
  | 'found'
  | 'missing'
  | 'expired'
  | 'invalid_password'
  | 'corrupt'
  /** Only where something is written: others changed it at the same time, faster. */
  | 'changed';

export type TokenReading =
  | { token: string; status: 'found'; bytes: Uint8Array }
  | { token: string; status: Exclude<TokenStatus, 'found' | 'changed'> };

export interface ManyTokens {
  /** One for each token asked for, in that order; a token named twice is there twice. */
  readings: TokenReading[];
  /** What was found and is text. */
  values: Map<string, string>;
  /** Tokens not found, the empty one among them; each once. */
  missing: string[];
  expired: string[];
}

export interface PasswordChange {
  token: string;
  status: TokenStatus;
}

export interface SweepOptions {
  /** `soft` marks what is expired, `hard` removes it for good, also what is marked. */
  mode: 'soft' | 'hard';
  /** Only what expired at least so long ago. */
  graceMs?: number;
  signal?: AbortSignal;
  /** Records in one transaction. */
  batchRecords?: number;
}

export interface SweepResult {
  swept: number;
  /** `aborted`: there may be more. */
  outcome: 'finished' | 'aborted';
}

export class Tokens {
  readonly #parts: VaultParts;
  readonly #records: Records;

  constructor(parts: VaultParts, records: Records) {
    this.#parts = parts;
    this.#records = records;
  }

  /** Encrypts the value behind a new token, which it answers. */
  async create(value: string | Uint8Array, options: NewToken): Promise<string> {
    requireFields('the options', options);
    return (await this.#records.create({ ...options, value })).token;
  }

  /** @throws TokenAlreadyExists, also where the record of that token is expired or soft-deleted */
  async createCustom(
    token: string,
    value: string | Uint8Array,
    options: NewToken,
  ): Promise<VaultRecord> {
    requireFields('the options', options);
    // One that is left out would be generated.
    if (isAbsent(token)) throw new TokenRequired();
    return this.#records.create({ ...options, token, value });
  }

  /** Whether it could be read now, with the right password: there, not expired, not soft-deleted. */
  async exists(token: string): Promise<boolean> {
    const record = await this.#records.find({ token });
    return record !== undefined && !this.#isExpired(toTime(record.expiresAtMs));
  }

  /**
   * The value as text.
   * @throws RecordNotFound, TokenExpired, InvalidPassword, CorruptRecord, ValueIsNotText
   */
  async read(token: string, password: string): Promise<string> {
    const bytes = await this.readBytes(token, password);
    try {
      return strictText.decode(bytes);
    } catch {
      throw new ValueIsNotText();
    }
  }

  /** @throws RecordNotFound, TokenExpired, InvalidPassword, CorruptRecord */
  async readBytes(token: string, password: string): Promise<Uint8Array> {
    requirePassword(password);
    const record = await this.#records.find({ token });
    if (record === undefined) throw new RecordNotFound();
    this.#requireNotExpired(toTime(record.expiresAtMs));
    return this.#records.open(record, password);
  }

  /** Many at once; what cannot be read is said and takes nothing of the others with it. */
  async readMany(tokens: readonly string[], password: string): Promise<ManyTokens> {
    requirePassword(password);
    const unique = [...new Set(requireTexts('tokens', tokens))];
    if (unique.length > vaultLimits.maxNamedRecords) {
      throw new InvalidQuery(`at most ${vaultLimits.maxNamedRecords} tokens at once`);
    }
    const query = recordQuery()
      .withTokens(unique)
      .select('id', 'token', 'sealedValue', 'expiresAtMs')
      .limit(vaultLimits.maxPageRecords);
    const { records } = await this.#records.list(query);
    const byToken = new Map<string, TokenReading>();
    for (const record of records) {
      byToken.set(record.token, await this.#reading(record, password));
    }
    const readings = tokens.map(
      (token): TokenReading => byToken.get(token) ?? { token, status: 'missing' },
    );
    const values = new Map<string, string>();
    for (const reading of byToken.values()) {
      if (reading.status !== 'found') continue;
      try {
        values.set(reading.token, strictText.decode(reading.bytes));
      } catch {
        // Bytes that are no text are among the readings.
      }
    }
    const having = (status: TokenStatus) => [
      ...new Set(readings.filter((each) => each.status === status).map(({ token }) => token)),
    ];
    return { readings, values, missing: having('missing'), expired: having('expired') };
  }

  /**
   * Another value under the same password, which must be right.
   * @throws RecordNotFound, TokenExpired, InvalidPassword, CorruptRecord
   */
  async update(token: string, value: string | Uint8Array, password: string): Promise<void> {
    const bytes = requireValue(value, this.#parts.validators);
    await this.#reseal(token, password, password, () => bytes);
  }

  /**
   * {@link update} where the token exists, {@link createCustom} where it does not; an expired one lives
   * again where a time is given.
   * @throws TokenAlreadyExists where a soft-deleted record holds the token
   */
  async upsert(
    token: string,
    value: string | Uint8Array,
    options: NewToken,
  ): Promise<'created' | 'updated'> {
    requireFields('the options', options);
    const bytes = requireValue(value, this.#parts.validators);
    const more: Pick<RecordChanges, 'data' | 'expiresAtMs'> = {
      ...(options.data === undefined ? {} : { data: requireData(options.data) }),
      ...(options.expiresAtMs === undefined
        ? {}
        : { expiresAtMs: requireTime(options.expiresAtMs) }),
    };
    for (let attempt = 1; attempt <= vaultLimits.changeAttempts; attempt += 1) {
      try {
        await this.#reseal(token, options.password, options.password, () => bytes, more);
        return 'updated';
      } catch (error) {
        if (!(error instanceof RecordNotFound)) throw error;
      }
      try {
        await this.createCustom(token, value, options);
        return 'created';
      } catch (error) {
        if (!(error instanceof TokenAlreadyExists)) throw error;
        // A soft-deleted one holds the token until it is restored or deleted.
        const holder = await this.#records.find({ token }, { withSoftDeleted: true });
        if (holder !== undefined && holder.softDeletedAtMs !== null) throw error;
      }
    }
    throw new RecordChanged();
  }

  /** Another time, or null for never; also of an expired one. @throws RecordNotFound */
  async renew(token: string, expiresAtMs: number | null): Promise<void> {
    await this.#records.update({ token }, { expiresAtMs: requireTime(expiresAtMs) });
  }

  /**
   * Another password for some tokens; for all of a password there is the vault's `rekey`. Each is its
   * own transaction.
   */
  async changePassword(
    tokens: readonly string[],
    oldPassword: string,
    newPassword: string,
  ): Promise<PasswordChange[]> {
    requirePassword(oldPassword);
    requireNewPassword(newPassword, this.#parts.validators);
    if (oldPassword.normalize('NFC') === newPassword.normalize('NFC'))
      throw new PasswordUnchanged();
    const unique = [...new Set(requireTexts('tokens', tokens))];
    if (unique.length > vaultLimits.maxNamedRecords) {
      throw new InvalidQuery(`at most ${vaultLimits.maxNamedRecords} tokens at once`);
    }
    const changes = new Map<string, TokenStatus>();
    for (const token of unique) {
      changes.set(token, await this.#changeOne(token, oldPassword, newPassword));
    }
    return unique.map((token) => ({ token, status: changes.get(token) ?? 'missing' }));
  }

  /** @throws RecordNotFound */
  softDelete(token: string): Promise<void> {
    return this.#records.softDelete({ token });
  }

  /** @throws RecordNotFound where it is not soft-deleted */
  restore(token: string): Promise<void> {
    return this.#records.restore({ token });
  }

  /** For good. @throws RecordNotFound */
  delete(token: string): Promise<void> {
    return this.#records.delete({ token });
  }

  /** Marks or removes what is expired, in batches, each a transaction. */
  async sweepExpired(options: SweepOptions): Promise<SweepResult> {
    requireFields('the options', options);
    const { mode, graceMs = 0, signal } = options;
    requireOneOf('mode', mode, ['soft', 'hard']);
    requireCount('graceMs', graceMs, 0);
    requireCount('batchRecords', options.batchRecords, 1);
    const batch = Math.min(
      options.batchRecords ?? vaultLimits.sweepBatchRecords,
      vaultLimits.sweepBatchRecords,
    );
    const nowMs = this.#parts.now();
    const expired = nowMs - graceMs;
    let swept = 0;
    for (;;) {
      if (signal?.aborted) return { swept, outcome: 'aborted' };
      const { found, changed } = await this.#parts.store.write(async (queries) => {
        let due = queries
          .selectFrom('vault')
          .select('id')
          .where('expires_at', '<=', expired)
          .orderBy('expires_at')
          .limit(batch);
        if (mode === 'soft') due = due.where('soft_deleted_at', '=', never);
        const ids = (await due.execute()).map(({ id }) => id);
        if (ids.length === 0) return { found: 0, changed: 0 };
        if (mode === 'soft') {
          const { numUpdatedRows } = await queries
            .updateTable('vault')
            .set({ soft_deleted_at: nowMs })
            .where('id', 'in', ids)
            .where('expires_at', '<=', expired)
            .where('soft_deleted_at', '=', never)
            .executeTakeFirst();
          return { found: ids.length, changed: Number(numUpdatedRows) };
        }
        // A record renewed between the two statements stays, and its tags with it.
        const { numDeletedRows } = await queries
          .deleteFrom('vault')
          .where('id', 'in', ids)
          .where('expires_at', '<=', expired)
          .executeTakeFirst();
        await queries
          .deleteFrom('vault_data_tag')
          .where('record_id', 'in', ids)
          .where(({ not, exists, selectFrom }) =>
            not(
              exists(
                selectFrom('vault')
                  .select('vault.id')
                  .whereRef('vault.id', '=', 'vault_data_tag.record_id'),
              ),
            ),
          )
          .execute();
        return { found: ids.length, changed: Number(numDeletedRows) };
      });
      swept += changed;
      if (found < batch) return { swept, outcome: 'finished' };
    }
  }

  async #changeOne(token: string, oldPassword: string, newPassword: string): Promise<TokenStatus> {
    try {
      await this.#reseal(token, oldPassword, newPassword, (value) => value);
      return 'found';
    } catch (error) {
      const status = statusOf(error);
      if (status === undefined) throw error;
      return status;
    }
  }

  /** Opens with one password and seals under another, whoever else writes to the record meanwhile. */
  async #reseal(
    token: string,
    oldPassword: string,
    newPassword: string,
    change: (value: Uint8Array) => Uint8Array,
    more: Pick<RecordChanges, 'data' | 'expiresAtMs'> = {},
  ): Promise<void> {
    requirePassword(oldPassword);
    const { encryptor } = this.#parts;
    const { data, expiresAtMs } = more;
    await this.#records.change({ token }, data, async (row: VaultRow) => {
      if (expiresAtMs === undefined) this.#requireNotExpired(row.expires_at);
      const value = await encryptor.decrypt(row.value, oldPassword, row);
      return {
        value: await encryptor.encrypt(change(value), newPassword, row),
        ...(data === undefined ? {} : { data: encodeData(data) }),
        ...(expiresAtMs === undefined ? {} : { expires_at: toTime(expiresAtMs) }),
      };
    });
  }

  async #reading(
    record: Pick<VaultRecord, 'id' | 'token' | 'sealedValue' | 'expiresAtMs'>,
    password: string,
  ): Promise<TokenReading> {
    const { token } = record;
    if (this.#isExpired(toTime(record.expiresAtMs))) return { token, status: 'expired' };
    try {
      return { token, status: 'found', bytes: await this.#records.open(record, password) };
    } catch (error) {
      if (error instanceof InvalidPassword) return { token, status: 'invalid_password' };
      if (error instanceof CorruptRecord) return { token, status: 'corrupt' };
      throw error;
    }
  }

  #isExpired(expiresAt: number): boolean {
    return expiresAt <= this.#parts.now();
  }

  #requireNotExpired(expiresAt: number): void {
    if (this.#isExpired(expiresAt)) throw new TokenExpired(fromTime(expiresAt) ?? 0);
  }
}

const strictText = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function statusOf(error: unknown): TokenStatus | undefined {
  if (error instanceof RecordNotFound) return 'missing';
  if (error instanceof TokenExpired) return 'expired';
  if (error instanceof InvalidPassword) return 'invalid_password';
  if (error instanceof CorruptRecord) return 'corrupt';
  if (error instanceof RecordChanged) return 'changed';
  return undefined;
}
