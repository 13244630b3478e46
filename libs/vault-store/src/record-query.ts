/**
 * Which records, in which order, how many, and what of them. Every call gives a new query; the one it
 * was called on stays as it is, so a query can be kept and refined.
 *
 *   recordQuery().withData('owner', 'billing').notExpired().select('id', 'token').limit(50)
 */
import { createHash } from 'node:crypto';
import type { ExpressionBuilder, ExpressionWrapper, SqlBool } from 'kysely';
import { vaultLimits } from './limits.ts';
import { columnNames, type RecordColumn, recordColumns } from './record.ts';
import { dataTag } from './record-data.ts';
import { never, type VaultSchema } from './schema.ts';
import { InvalidCursor, InvalidQuery } from './vault-error.ts';

const sortColumns = ['id', 'createdAtMs', 'updatedAtMs', 'expiresAtMs', 'softDeletedAtMs'] as const;
export type SortColumn = (typeof sortColumns)[number];
export type SortDirection = 'asc' | 'desc';

/** From is part of it, before is not; either may be left out. */
export interface TimeRange {
  fromMs?: number;
  beforeMs?: number;
}

interface Conditions {
  readonly ids?: readonly string[];
  readonly tokens?: readonly string[];
  readonly created?: TimeRange;
  readonly updated?: TimeRange;
  readonly expires?: TimeRange;
  readonly expiry?: 'expired' | 'not_expired';
  readonly softDeleted: 'without' | 'with' | 'only';
  readonly data: readonly (readonly [name: string, value: string])[];
}

interface State {
  readonly conditions: Conditions;
  readonly columns: readonly RecordColumn[] | undefined;
  readonly sort: SortColumn;
  readonly direction: SortDirection;
  readonly limit: number;
  readonly offset: number;
  readonly cursor: string | undefined;
}

/** The last row of the page before; rows of one time are in the order of their positions. */
interface CursorPosition {
  value: number | string;
  position: number;
}

export class RecordQuery<Columns extends RecordColumn = RecordColumn> {
  readonly #state: State;

  private constructor(state: State) {
    this.#state = state;
  }

  static all(): RecordQuery {
    return new RecordQuery({
      conditions: { softDeleted: 'without', data: [] },
      columns: undefined,
      sort: 'id',
      direction: 'asc',
      limit: vaultLimits.pageRecords,
      offset: 0,
      cursor: undefined,
    });
  }

  withId(id: string): RecordQuery<Columns> {
    return this.withIds([id]);
  }

  /** Any of these; none of them where the list is empty. */
  withIds(ids: readonly string[]): RecordQuery<Columns> {
    return this.#where({ ids: named('ids', ids) });
  }

  withToken(token: string): RecordQuery<Columns> {
    return this.withTokens([token]);
  }

  /** Any of these; none of them where the list is empty. */
  withTokens(tokens: readonly string[]): RecordQuery<Columns> {
    return this.#where({ tokens: named('tokens', tokens) });
  }

  created(range: TimeRange): RecordQuery<Columns> {
    return this.#where({ created: ranged('created', range) });
  }

  updated(range: TimeRange): RecordQuery<Columns> {
    return this.#where({ updated: ranged('updated', range) });
  }

  /** Those that never expire are in no range. */
  expires(range: TimeRange): RecordQuery<Columns> {
    return this.#where({ expires: ranged('expires', range) });
  }

  expired(): RecordQuery<Columns> {
    return this.#where({ expiry: 'expired' });
  }

  notExpired(): RecordQuery<Columns> {
    return this.#where({ expiry: 'not_expired' });
  }

  withSoftDeleted(): RecordQuery<Columns> {
    return this.#where({ softDeleted: 'with' });
  }

  onlySoftDeleted(): RecordQuery<Columns> {
    return this.#where({ softDeleted: 'only' });
  }

  /** Metadata that equals, byte by byte; several must all hold. */
  withData(name: string, value: string): RecordQuery<Columns> {
    const { data } = this.#state.conditions;
    if (data.length >= vaultLimits.maxDataEntries) {
      throw new InvalidQuery(`at most ${vaultLimits.maxDataEntries} entries of metadata`);
    }
    const texts: unknown[] = [name, value];
    if (!texts.every((text) => typeof text === 'string' && text.isWellFormed())) {
      throw new InvalidQuery('metadata is well-formed text');
    }
    return this.#where({ data: [...data, [name, value]] });
  }

  /** Only these of each record; the rest is not read. */
  select<Chosen extends RecordColumn>(...columns: readonly Chosen[]): RecordQuery<Chosen> {
    if (columns.length === 0) throw new InvalidQuery('select names at least one column');
    if (!columns.every((column) => Object.hasOwn(columnNames, column))) {
      throw new InvalidQuery(`the columns are ${recordColumns.join(', ')}`);
    }
    return new RecordQuery<Chosen>({ ...this.#state, columns });
  }

  orderBy(sort: SortColumn, direction: SortDirection = 'asc'): RecordQuery<Columns> {
    if (!sortColumns.includes(sort)) {
      throw new InvalidQuery(`it is ordered by one of ${sortColumns.join(', ')}`);
    }
    if (direction !== 'asc' && direction !== 'desc') {
      throw new InvalidQuery('the direction is asc or desc');
    }
    return this.#with({ sort, direction });
  }

  limit(limit: number): RecordQuery<Columns> {
    if (!Number.isInteger(limit) || limit < 1 || limit > vaultLimits.maxPageRecords) {
      throw new InvalidQuery(`limit is a whole number from 1 to ${vaultLimits.maxPageRecords}`);
    }
    return this.#with({ limit });
  }

  /** Skips; every skipped record is read. A cursor costs nothing, however far it is. */
  offset(offset: number): RecordQuery<Columns> {
    if (!Number.isInteger(offset) || offset < 0 || offset > vaultLimits.maxOffset) {
      throw new InvalidQuery(`offset is a whole number from 0 to ${vaultLimits.maxOffset}`);
    }
    return this.#with({ offset });
  }

  /** The page behind the one that gave this cursor as its `next`. @throws InvalidCursor */
  after(cursor: string): RecordQuery<Columns> {
    if (typeof cursor !== 'string') throw new InvalidCursor();
    return this.#with({ cursor });
  }

  /** For the vault: what the query holds. */
  get state(): State {
    return this.#state;
  }

  /** For the vault: the condition of the rows. @throws InvalidCursor */
  condition(
    nowMs: number,
  ): (where: VaultWhere) => ExpressionWrapper<VaultSchema, 'vault', SqlBool> {
    const { conditions } = this.#state;
    return (where) => {
      const all: ExpressionWrapper<VaultSchema, 'vault', SqlBool>[] = [];
      if (conditions.ids) all.push(oneOf(where, 'id', conditions.ids));
      if (conditions.tokens) all.push(oneOf(where, 'token', conditions.tokens));
      all.push(...within(where, 'created_at', conditions.created));
      all.push(...within(where, 'updated_at', conditions.updated));
      all.push(...within(where, 'expires_at', conditions.expires));
      if (conditions.expires) all.push(where('expires_at', '<', never));
      if (conditions.expiry === 'expired') all.push(where('expires_at', '<=', nowMs));
      if (conditions.expiry === 'not_expired') all.push(where('expires_at', '>', nowMs));
      if (conditions.softDeleted === 'without') all.push(where('soft_deleted_at', '=', never));
      if (conditions.softDeleted === 'only') all.push(where('soft_deleted_at', '<', never));
      for (const [name, value] of conditions.data) {
        all.push(
          where(
            'id',
            'in',
            where
              .selectFrom('vault_data_tag')
              .select('record_id')
              .where('tag', '=', dataTag(name, value)),
          ),
        );
      }
      return where.and(all);
    };
  }

  /** For the vault: where the page begins. @throws InvalidCursor */
  start(): CursorPosition | undefined {
    const { cursor, sort } = this.#state;
    if (cursor === undefined) return undefined;
    if (cursor.length > vaultLimits.maxCursorCharacters) throw new InvalidCursor();
    try {
      const [digest, value, position] = JSON.parse(
        Buffer.from(cursor, 'base64url').toString('utf8'),
      );
      const isValue = sort === 'id' ? typeof value === 'string' : Number.isSafeInteger(value);
      if (digest !== this.#digest() || !isValue || !Number.isSafeInteger(position)) {
        throw new InvalidCursor();
      }
      return { value, position };
    } catch {
      throw new InvalidCursor();
    }
  }

  /** For the vault: the cursor behind a row. */
  cursorBehind(row: Record<string, unknown>): string {
    const value = row[columnNames[this.#state.sort]];
    return Buffer.from(JSON.stringify([this.#digest(), value, row.position])).toString('base64url');
  }

  /** A cursor belongs to the conditions and the order, not to the columns and the size of a page. */
  #digest(): string {
    const { conditions, sort, direction } = this.#state;
    return createHash('sha256')
      .update(JSON.stringify([conditions, sort, direction]))
      .digest('base64url')
      .slice(0, 16);
  }

  #where(change: Partial<Conditions>): RecordQuery<Columns> {
    return this.#with({ conditions: { ...this.#state.conditions, ...change } });
  }

  #with(change: Partial<State>): RecordQuery<Columns> {
    return new RecordQuery<Columns>({ ...this.#state, ...change });
  }
}

export function recordQuery(): RecordQuery {
  return RecordQuery.all();
}

type VaultWhere = ExpressionBuilder<VaultSchema, 'vault'>;
type TimeColumn = 'created_at' | 'updated_at' | 'expires_at';

function named(what: string, list: readonly string[]): readonly string[] {
  if (!Array.isArray(list) || !list.every((each) => typeof each === 'string')) {
    throw new InvalidQuery(`${what} are a list of texts`);
  }
  if (list.length > vaultLimits.maxNamedRecords) {
    throw new InvalidQuery(`at most ${vaultLimits.maxNamedRecords} ${what}`);
  }
  return [...list];
}

function ranged(what: string, range: TimeRange): TimeRange {
  if (typeof range !== 'object' || range === null) {
    throw new InvalidQuery(`${what} has a range: fromMs, beforeMs or both`);
  }
  for (const timeMs of [range.fromMs, range.beforeMs]) {
    if (timeMs !== undefined && !Number.isSafeInteger(timeMs)) {
      throw new InvalidQuery(`${what} ranges over whole milliseconds since 1970`);
    }
  }
  return { ...range };
}

function oneOf(where: VaultWhere, column: 'id' | 'token', list: readonly string[]) {
  const [only] = list;
  if (only === undefined) return where('position', '<', 0);
  return list.length === 1 ? where(column, '=', only) : where(column, 'in', list);
}

function within(where: VaultWhere, column: TimeColumn, range: TimeRange | undefined) {
  return [
    ...(range?.fromMs === undefined ? [] : [where(column, '>=', range.fromMs)]),
    ...(range?.beforeMs === undefined ? [] : [where(column, '<', range.beforeMs)]),
  ];
}
