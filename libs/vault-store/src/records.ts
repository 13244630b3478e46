/** Records: what is stored behind ids and tokens, encrypted values and all. */
import type { DatabaseSync, StatementSync } from 'node:sqlite';
import { type RandomFill, systemRandom } from '@keystead/envelope/keys';
import { requireFields, requireText } from './argument-kinds.ts';
import type { Encryptor } from './encryptor.ts';
import { vaultLimits } from './limits.ts';
import {
  columnNames,
  type RecordColumn,
  type RecordReference,
  recordColumns,
  toRecord,
  toTime,
  type VaultRecord,
  type VaultRow,
} from './record.ts';
import { dataTags, encodeData, type RecordData, requireData } from './record-data.ts';
import { newRecordId } from './record-id.ts';
import { RecordQuery, recordQuery } from './record-query.ts';
import { never, type VaultSchema } from './schema.ts';
import { isDuplicate, type Queries, type SqlStore } from './sql/sql-store.ts';
import { generateToken, type TokenShape } from './token-format.ts';
import {
  isAbsent,
  requireId,
  requireNewPassword,
  requirePassword,
  requireTime,
  requireToken,
  requireValue,
  type Validators,
} from './validators.ts';
import {
  InvalidQuery,
  RecordAlreadyExists,
  RecordChanged,
  RecordNotFound,
  TokenAlreadyExists,
  TokenRequired,
  WrongKind,
} from './vault-error.ts';

export interface NewRecord {
  /** Generated where left out. */
  id?: string;
  /** Generated where left out. */
  token?: string;
  /** Text is stored as UTF-8. */
  value: string | Uint8Array;
  password: string;
  data?: RecordData;
  /** Milliseconds since 1970; null or left out: never. */
  expiresAtMs?: number | null;
}

/** What is left out stays as it is. */
export interface RecordChanges {
  /** With `password`: encrypts anew under it, whatever the password was before. */
  value?: string | Uint8Array;
  password?: string;
  /** In the place of all metadata there was. */
  data?: RecordData;
  expiresAtMs?: number | null;
}

export interface RecordPage<Columns extends RecordColumn = RecordColumn> {
  records: Pick<VaultRecord, Columns>[];
  /** For `after()` of the same query; null behind the last record. */
  next: string | null;
}

export interface VaultParts {
  store: SqlStore<VaultSchema>;
  encryptor: Encryptor;
  validators: Validators;
  tokenShape: TokenShape;
  now: () => number;
  random: RandomFill | undefined;
}

type ValueChange = (row: VaultRow) => Promise<Partial<VaultRow>>;

export class Records {
  readonly #parts: VaultParts;

  constructor(parts: VaultParts) {
    this.#parts = parts;
  }

  /** @throws TokenAlreadyExists, RecordAlreadyExists and what the validators say */
  async create(record: NewRecord): Promise<VaultRecord> {
    requireFields('a record', record);
    const { validators, encryptor, tokenShape, random, store } = this.#parts;
    const fill = random ?? systemRandom;
    const nowMs = this.#parts.now();
    const token =
      record.token === undefined
        ? generateToken(tokenShape, fill)
        : requireToken(record.token, tokenShape.prefix, validators);
    const id = record.id === undefined ? newRecordId(nowMs, fill) : requireId(record.id);
    const value = requireValue(record.value, validators);
    const data = requireData(record.data ?? {});
    const expiresAtMs = requireTime(record.expiresAtMs ?? null);
    requireNewPassword(record.password, validators);
    const row = {
      id,
      token,
      value: await encryptor.encrypt(value, record.password, { id, token }),
      data: encodeData(data),
      created_at: nowMs,
      updated_at: nowMs,
      expires_at: toTime(expiresAtMs),
      soft_deleted_at: never,
    };
    try {
      await store.write(async (queries) => {
        await queries.insertInto('vault').values(row).execute();
        await writeTags(queries, id, data);
      });
    } catch (error) {
      if (!isDuplicate(error)) throw error;
      const holder = await this.#row({ token });
      throw holder === undefined ? new RecordAlreadyExists() : new TokenAlreadyExists();
    }
    return toRecord(row) as VaultRecord;
  }

  /** Also an expired one; a soft-deleted one only when asked for. */
  async find(
    reference: RecordReference,
    options: { withSoftDeleted?: boolean } = {},
  ): Promise<VaultRecord | undefined> {
    const row = await this.#row(reference);
    if (row === undefined) return undefined;
    if (row.soft_deleted_at !== never && options.withSoftDeleted !== true) return undefined;
    return toRecord(row) as VaultRecord;
  }

  findById(id: string): Promise<VaultRecord | undefined> {
    return this.find({ id });
  }

  findByToken(token: string): Promise<VaultRecord | undefined> {
    return this.find({ token });
  }

  /** @throws InvalidCursor */
  async list<Columns extends RecordColumn = RecordColumn>(
    query: RecordQuery<Columns> = recordQuery() as unknown as RecordQuery<Columns>,
  ): Promise<RecordPage<Columns>> {
    const { columns = recordColumns, sort, direction, limit, offset } = stateOf(query);
    const sortColumn = columnNames[sort];
    const chosen = columns.map((column) => columnNames[column]);
    const start = query.start();
    let selection = this.#parts.store.db
      .selectFrom('vault')
      // What the cursor is made of is read too, and cut out below.
      .select([...new Set([...chosen, 'position' as const, sortColumn])])
      .where(query.condition(this.#parts.now()))
      .orderBy(sortColumn, direction)
      .limit(limit + 1);
    if (sort !== 'id') selection = selection.orderBy('position', direction);
    if (offset > 0) selection = selection.offset(offset);
    if (start !== undefined) {
      const than = direction === 'asc' ? '>' : '<';
      selection =
        sort === 'id'
          ? selection.where('id', than, start.value as string)
          : selection.where((where) =>
              where.and([
                where(sortColumn, direction === 'asc' ? '>=' : '<=', start.value as number),
                where.or([
                  where(sortColumn, than, start.value as number),
                  where('position', than, start.position),
                ]),
              ]),
            );
    }
    const rows: Partial<VaultRow>[] = await selection.execute();
    const page = rows.slice(0, limit);
    const last = page.at(-1);
    return {
      records: page.map((row) => {
        const record = toRecord(row);
        return Object.fromEntries(columns.map((column) => [column, record[column]])) as Pick<
          VaultRecord,
          Columns
        >;
      }),
      next: last !== undefined && rows.length > limit ? query.cursorBehind(last) : null,
    };
  }

  /** Every record of a query, page by page, from its cursor on. */
  async *walk<Columns extends RecordColumn = RecordColumn>(
    query: RecordQuery<Columns>,
  ): AsyncGenerator<Pick<VaultRecord, Columns>> {
    if (stateOf(query).offset > 0) throw new InvalidQuery('a walk has a cursor, not an offset');
    for (let page: RecordQuery<Columns> | undefined = query; page !== undefined; ) {
      const { records, next }: RecordPage<Columns> = await this.list(page);
      yield* records;
      page = next === null ? undefined : page.after(next);
    }
  }

  /** How many the query finds, whatever its limit, offset and cursor. */
  async count(
    query: RecordQuery<RecordColumn> | RecordQuery<never> = recordQuery(),
  ): Promise<number> {
    stateOf(query as RecordQuery);
    const { count } = await this.#parts.store.db
      .selectFrom('vault')
      .select(({ fn }) => fn.countAll<number | bigint>().as('count'))
      .where((query as RecordQuery).condition(this.#parts.now()))
      .executeTakeFirstOrThrow();
    return Number(count);
  }

  /**
   * Writes what is given and differs; where nothing differs, nothing is written and the time of the
   * update stays. A soft-deleted record is not found.
   * @throws RecordNotFound and what the validators say
   */
  async update(reference: RecordReference, changes: RecordChanges): Promise<VaultRecord> {
    requireFields('the changes', changes);
    const { validators, encryptor } = this.#parts;
    const { value, password, data, expiresAtMs } = changes;
    if (data !== undefined) requireData(data);
    if (expiresAtMs !== undefined) requireTime(expiresAtMs);
    const bytes = value === undefined ? undefined : requireValue(value, validators);
    if (bytes !== undefined) requireNewPassword(password ?? '', validators);
    return this.change(reference, data, async (row) => {
      const changed: Partial<VaultRow> = {};
      if (bytes !== undefined) changed.value = await encryptor.encrypt(bytes, password ?? '', row);
      if (data !== undefined) changed.data = encodeData(data);
      if (expiresAtMs !== undefined) changed.expires_at = toTime(expiresAtMs);
      return changed;
    });
  }

  /**
   * For the vault's own classes: changes a record whose value is still what was looked at, and looks
   * again where it is not.
   * @throws RecordNotFound, RecordChanged and whatever `decide` throws
   */
  async change(
    reference: RecordReference,
    data: RecordData | undefined,
    decide: ValueChange,
  ): Promise<VaultRecord> {
    const { store, now } = this.#parts;
    for (let attempt = 1; attempt <= vaultLimits.changeAttempts; attempt += 1) {
      if (attempt > 4) await new Promise((resolve) => setTimeout(resolve, attempt / 4));
      const row = await this.#row(reference);
      if (row === undefined || row.soft_deleted_at !== never) throw new RecordNotFound();
      const decided = await decide(row);
      const changed = Object.fromEntries(
        Object.entries(decided).filter(([name, value]) => value !== row[name as keyof VaultRow]),
      );
      if (Object.keys(changed).length === 0) return toRecord(row) as VaultRecord;
      const written = { ...changed, updated_at: now() };
      const isWritten = await store.write(async (queries) => {
        const { numUpdatedRows } = await queries
          .updateTable('vault')
          .set(written)
          .where('position', '=', row.position)
          .where('value', '=', row.value)
          .where('soft_deleted_at', '=', never)
          .executeTakeFirst();
        if (numUpdatedRows === 0n) return false;
        if (changed.data !== undefined && data !== undefined) {
          await queries.deleteFrom('vault_data_tag').where('record_id', '=', row.id).execute();
          await writeTags(queries, row.id, data);
        }
        return true;
      });
      if (isWritten) return toRecord({ ...row, ...written }) as VaultRecord;
    }
    throw new RecordChanged();
  }

  /** @throws RecordNotFound also where it is soft-deleted already */
  async softDelete(reference: RecordReference): Promise<void> {
    const nowMs = this.#parts.now();
    await this.#mark(reference, '=', nowMs);
  }

  /** @throws RecordNotFound also where it is not soft-deleted */
  async restore(reference: RecordReference): Promise<void> {
    await this.#mark(reference, '<', never);
  }

  /** For good, soft-deleted or not. @throws RecordNotFound */
  async delete(reference: RecordReference): Promise<void> {
    const row = await this.#row(reference);
    if (row === undefined) throw new RecordNotFound();
    const { numDeletedRows } = await this.#parts.store.write(async (queries) => {
      // First the record: who adds tags holds it.
      const deleted = await queries.deleteFrom('vault').where('id', '=', row.id).executeTakeFirst();
      await queries.deleteFrom('vault_data_tag').where('record_id', '=', row.id).execute();
      return deleted;
    });
    if (numDeletedRows === 0n) throw new RecordNotFound();
  }

  /** The value of a record. @throws InvalidPassword, CorruptRecord */
  async open(record: Pick<VaultRecord, 'id' | 'token' | 'sealedValue'>, password: string) {
    requireFields('a record', record);
    if (!(record.sealedValue instanceof Uint8Array)) {
      throw new WrongKind('sealedValue of a record', 'bytes', record.sealedValue);
    }
    requirePassword(password);
    return this.#parts.encryptor.decrypt(record.sealedValue, password, record);
  }

  async #mark(reference: RecordReference, is: '=' | '<', softDeletedAt: number): Promise<void> {
    requireReference(reference);
    const { numUpdatedRows } = await this.#parts.store.write((queries) => {
      const update = queries
        .updateTable('vault')
        .set({ soft_deleted_at: softDeletedAt })
        .where('soft_deleted_at', is, never);
      return (
        'id' in reference
          ? update.where('id', '=', reference.id)
          : update.where('token', '=', reference.token)
      ).executeTakeFirst();
    });
    if (numUpdatedRows === 0n) throw new RecordNotFound();
  }

  async #row(reference: RecordReference): Promise<VaultRow | undefined> {
    const { store } = this.#parts;
    requireReference(reference);
    if (store.sqlite !== undefined) return sqliteRow(store.sqlite, reference);
    const selection = store.db.selectFrom('vault').selectAll();
    return (
      'id' in reference
        ? selection.where('id', '=', reference.id)
        : selection.where('token', '=', reference.token)
    ).executeTakeFirst();
  }
}

/** @throws WrongKind, TokenRequired */
function requireReference(reference: RecordReference): void {
  requireFields('a reference', reference);
  if ('id' in reference) requireText('an id', reference.id);
  else if (isAbsent(reference.token)) throw new TokenRequired();
  else requireText('a token', reference.token);
}

/** @throws WrongKind */
function stateOf<Columns extends RecordColumn>(query: RecordQuery<Columns>) {
  if (!(query instanceof RecordQuery)) throw new WrongKind('a query', 'of recordQuery()', query);
  return query.state;
}

async function writeTags(
  queries: Queries<VaultSchema>,
  id: string,
  data: RecordData,
): Promise<void> {
  const tags = dataTags(data).map((tag) => ({ tag, record_id: id }));
  if (tags.length > 0) await queries.insertInto('vault_data_tag').values(tags).execute();
}

const statements = new WeakMap<DatabaseSync, Record<'id' | 'token', StatementSync>>();

/** The way of every read of a token: a statement prepared once, without a query builder. */
function sqliteRow(database: DatabaseSync, reference: RecordReference): VaultRow | undefined {
  let prepared = statements.get(database);
  if (prepared === undefined) {
    prepared = {
      id: database.prepare('select * from vault where id = ?'),
      token: database.prepare('select * from vault where token = ?'),
    };
    statements.set(database, prepared);
  }
  const row =
    'id' in reference ? prepared.id.get(reference.id) : prepared.token.get(reference.token);
  return row as VaultRow | undefined;
}
