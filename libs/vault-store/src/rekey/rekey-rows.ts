/** The rows of a rekey: read by key in pages of bounded size, written many to a statement. */
import type { StatementSync } from 'node:sqlite';
import { CompiledQuery, sql } from 'kysely';
import type { VaultSchema } from '../schema.ts';
import type { Queries, SqlStore } from '../sql/sql-store.ts';
import { PageBuilder, type RowPage, type SpareBytes } from './packed-page.ts';
import type { ValueChanges } from './value-changes.ts';

/** Bytes of a value that no other value has; undefined: the value itself. */
export type Fingerprint = { offset: number; length: number } | undefined;

export interface PageLimits {
  maxRecords: number;
  maxBytes: number;
}

type ReadRow = [position: number, id: string, token: string, value: Uint8Array];

/** Which rows are walked: all, or those changed since. */
export interface Walk {
  /** Exclusive. */
  after: number;
  /** Inclusive. */
  upTo: number;
  updatedSinceMs: number | undefined;
}

export class RekeyRows {
  readonly #store: SqlStore<VaultSchema>;
  readonly #limits: PageLimits;
  readonly #spare: SpareBytes | undefined;
  #statements: { bounds: StatementSync; page: StatementSync } | undefined;

  /** @param spare where pages take their bytes from; whoever is done with a page gives them back */
  constructor(store: SqlStore<VaultSchema>, limits: PageLimits, spare?: SpareBytes) {
    this.#store = store;
    this.#limits = limits;
    this.#spare = spare;
  }

  async extent(): Promise<{ total: number; last: number }> {
    const { total, last } = await this.#store.db
      .selectFrom('vault')
      .select(({ fn }) => [
        fn.countAll<number | bigint>().as('total'),
        fn.max('position').as('last'),
      ])
      .executeTakeFirstOrThrow();
    return { total: Number(total), last: Number(last ?? 0) };
  }

  /** The next rows in the order of their positions; none at the end. */
  async page(walk: Walk): Promise<RowPage> {
    const { upTo, bytes } = await this.#bound(walk);
    // What a row has beside its value: the id, the token and their lengths.
    const room = bytes + this.#limits.maxRecords * 100;
    const page = new PageBuilder(upTo === undefined ? 0 : room, this.#spare);
    if (upTo === undefined) return page.finish();
    const { sqlite } = this.#store;
    if (sqlite !== undefined && walk.updatedSinceMs === undefined) {
      // One by one, so that no row outlives its turn.
      for (const row of this.#prepare(sqlite).page.iterate(walk.after, upTo)) {
        page.add(...(row as unknown as ReadRow));
      }
      return page.finish();
    }
    let rows = this.#store.db
      .selectFrom('vault')
      .select(['position', 'id', 'token', 'value'])
      .where('position', '>', walk.after)
      .where('position', '<=', upTo)
      .orderBy('position');
    if (walk.updatedSinceMs !== undefined) {
      rows = rows.where('updated_at', '>=', walk.updatedSinceMs);
    }
    for (const { position, id, token, value } of await rows.execute()) {
      page.add(position, id, token, value);
    }
    return page.finish();
  }

  /** The last position of a page that keeps to the limits. */
  async #bound(walk: Walk): Promise<{ upTo: number | undefined; bytes: number }> {
    const { maxRecords, maxBytes } = this.#limits;
    const sizes = await this.#pageSize(walk);
    if (sizes.last === null) return { upTo: undefined, bytes: 0 };
    if (sizes.bytes <= maxBytes) return { upTo: sizes.last, bytes: sizes.bytes };
    // Few vaults hold such large values: only their pages are looked at row by row.
    const rows = await this.#sizedRows(walk).execute();
    let bytes = 0;
    let upTo: number | undefined;
    for (const row of rows.slice(0, maxRecords)) {
      if (upTo !== undefined && bytes + Number(row.bytes) > maxBytes) break;
      bytes += Number(row.bytes);
      upTo = row.position;
    }
    return { upTo, bytes };
  }

  async #pageSize(walk: Walk): Promise<{ last: number | null; bytes: number }> {
    const { sqlite } = this.#store;
    if (sqlite !== undefined && walk.updatedSinceMs === undefined) {
      const row = this.#prepare(sqlite).bounds.get(walk.after, walk.upTo, this.#limits.maxRecords);
      return row as { last: number | null; bytes: number };
    }
    const row = await this.#store.db
      .selectFrom(this.#sizedRows(walk).as('page'))
      .select(({ fn }) => [fn.max('position').as('last'), fn.sum('bytes').as('bytes')])
      .executeTakeFirstOrThrow();
    return { last: row.last === null ? null : Number(row.last), bytes: Number(row.bytes ?? 0) };
  }

  #sizedRows(walk: Walk) {
    let rows = this.#store.db
      .selectFrom('vault')
      .select(['position', sql<number>`length(value)`.as('bytes')])
      .where('position', '>', walk.after)
      .where('position', '<=', walk.upTo)
      .orderBy('position')
      .limit(this.#limits.maxRecords);
    if (walk.updatedSinceMs !== undefined) {
      rows = rows.where('updated_at', '>=', walk.updatedSinceMs);
    }
    return rows;
  }

  #prepare(sqlite: NonNullable<SqlStore<VaultSchema>['sqlite']>) {
    if (this.#statements !== undefined) return this.#statements;
    const page = sqlite.prepare(
      'select position, id, token, value from vault where position > ? and position <= ? order by position',
    );
    // Rows without names: there are many.
    page.setReturnArrays(true);
    const bounds = sqlite.prepare(
      `select max(position) as last, coalesce(sum(bytes), 0) as bytes from (
         select position, length(value) as bytes from vault
         where position > ? and position <= ? order by position limit ?)`,
    );
    this.#statements = { bounds, page };
    return this.#statements;
  }
}

/**
 * Writes the new values whose old ones are still there, inside of a transaction.
 * @returns the positions where they are not
 */
export async function writeValues(
  queries: Queries<VaultSchema>,
  kind: SqlStore<VaultSchema>['kind'],
  changes: ValueChanges,
  fingerprint: Fingerprint,
): Promise<number[]> {
  let written = 0;
  for (const query of updates(kind, changes, fingerprint)) {
    const result = await queries.executeQuery(query);
    written += Number(result.numAffectedRows ?? 0n);
  }
  if (written === changes.count) return [];
  return findLost(queries, changes);
}

function* updates(
  kind: SqlStore<VaultSchema>['kind'],
  changes: ValueChanges,
  fingerprint: Fingerprint,
): Generator<CompiledQuery> {
  const { count, positions } = changes;
  if (count === 0) return;
  if (kind !== 'sqlite') {
    yield serverUpdate(kind, changes, fingerprint);
    return;
  }
  const span = (positions.at(-1) as number) - (positions[0] as number) + 1;
  if (fingerprint !== undefined && span <= count * rangeSparsenessMax) {
    yield sqliteRangeUpdate(changes, fingerprint);
    return;
  }
  for (let at = 0; at < count; ) {
    const size = statementSizes.find((each) => each <= count - at) ?? 1;
    yield sqliteUpdate(changes, at, size, fingerprint);
    at += size;
  }
}

/** Statements have one of a few sizes, so that their texts repeat and are prepared once. */
const statementSizes = [500, 100, 20, 4, 1];
/** Rows in a range for one that is changed; for fewer of them a range is slower than naming each. */
const rangeSparsenessMax = 8;

function mark(value: Buffer, fingerprint: Fingerprint): Buffer {
  if (fingerprint === undefined) return value;
  return value.subarray(fingerprint.offset, fingerprint.offset + fingerprint.length);
}

function marked(column: string, fingerprint: Fingerprint): string {
  if (fingerprint === undefined) return column;
  return `substr(${column}, ${fingerprint.offset + 1}, ${fingerprint.length})`;
}

const cutDigits = 10;

/**
 * One walk over a range of rows with three parameters, instead of three for each row: for every position
 * in it, whether changed or not, its old fingerprint and, as decimals, where its new value starts and how
 * long it is. A position without a change has a fingerprint of zeros, which no record has.
 */
function sqliteRangeUpdate(
  changes: ValueChanges,
  fingerprint: NonNullable<Fingerprint>,
): CompiledQuery {
  const { positions, starts, values, count } = changes;
  const first = positions[0] as number;
  const last = positions[count - 1] as number;
  const { offset, length } = fingerprint;
  const slotBytes = length + 2 * cutDigits;
  const slots = Buffer.alloc((last - first + 1) * slotBytes);
  for (let index = 0; index < count; index += 1) {
    const at = ((positions[index] as number) - first) * slotBytes;
    const start = starts[index] as number;
    changes.old(index).copy(slots, at, offset, offset + length);
    writeDecimal(slots, at + length, start + 1);
    writeDecimal(slots, at + length + cutDigits, (starts[index + 1] as number) - start);
  }
  const slot = `(position - ?1) * ${slotBytes}`;
  const decimal = (place: number) =>
    `cast(substr(?4, ${slot} + ${length + place * cutDigits + 1}, ${cutDigits}) as integer)`;
  return CompiledQuery.raw(
    `update vault set value = substr(?3, ${decimal(0)}, ${decimal(1)})
      where position >= ?1 and position <= ?2
        and ${marked('value', fingerprint)} = substr(?4, ${slot} + 1, ${length})`,
    [first, last, values, slots],
  );
}

function writeDecimal(bytes: Buffer, at: number, number: number): void {
  let rest = number;
  for (let place = cutDigits - 1; place >= 0; place -= 1) {
    bytes[at + place] = 0x30 + (rest % 10);
    rest = Math.trunc(rest / 10);
  }
}

function sqliteUpdate(
  changes: ValueChanges,
  at: number,
  size: number,
  fingerprint: Fingerprint,
): CompiledQuery {
  const values = Array(size).fill('(?, ?, ?)').join(', ');
  const parameters: unknown[] = [];
  for (let index = at; index < at + size; index += 1) {
    parameters.push(
      changes.positions[index],
      mark(changes.old(index), fingerprint),
      changes.value(index),
    );
  }
  return CompiledQuery.raw(
    `update vault set value = fresh.column3 from (values ${values}) as fresh
      where vault.position = fresh.column1
        and ${marked('vault.value', fingerprint)} = fresh.column2`,
    parameters,
  );
}

/**
 * All values as one parameter, cut apart by the server. As parameters of their own PostgreSQL's driver
 * would write them as text, twice as long; and MariaDB cuts bytes beyond 64 KiB from a union of them.
 */
function serverUpdate(
  kind: 'postgresql' | 'mysql',
  changes: ValueChanges,
  fingerprint: Fingerprint,
): CompiledQuery {
  const { positions, starts, values, count } = changes;
  const cuts: number[][] = [];
  const olds: Buffer[] = [];
  for (let index = 0, oldStart = 1; index < count; index += 1) {
    const start = starts[index] as number;
    const old = mark(changes.old(index), fingerprint);
    const length = (starts[index + 1] as number) - start;
    cuts.push([positions[index] as number, start + 1, length, oldStart, old.length]);
    olds.push(old);
    oldStart += old.length;
  }
  const column = (place: number) => cuts.map((cut) => cut[place]);
  const isOld = (all: string) =>
    `${marked('vault.value', fingerprint)} = substr(${all}, fresh.old_start, fresh.old_length)`;
  if (kind === 'postgresql') {
    return CompiledQuery.raw(
      `update vault set value = substr($1::bytea, fresh.start, fresh.length)
        from unnest($2::bigint[], $3::int[], $4::int[], $5::int[], $6::int[])
          as fresh(position, start, length, old_start, old_length)
        where vault.position = fresh.position and ${isOld('$7::bytea')}`,
      [values, ...[0, 1, 2, 3, 4].map(column), Buffer.concat(olds)],
    );
  }
  return CompiledQuery.raw(
    `update vault join json_table(?, '$[*]' columns (
        position bigint path '$[0]', start int path '$[1]', length int path '$[2]',
        old_start int path '$[3]', old_length int path '$[4]')) as fresh
      on vault.position = fresh.position
      set vault.value = substr(?, fresh.start, fresh.length) where ${isOld('?')}`,
    [JSON.stringify(cuts), values, Buffer.concat(olds)],
  );
}

/** In the transaction that wrote: what does not have its new value was changed by somebody else. */
async function findLost(queries: Queries<VaultSchema>, changes: ValueChanges): Promise<number[]> {
  const lost: number[] = [];
  for (let at = 0; at < changes.count; at += 500) {
    const part = changes.positions.slice(at, at + 500);
    const rows = await queries
      .selectFrom('vault')
      .select(['position', 'value'])
      .where('position', 'in', part)
      .execute();
    const values = new Map(rows.map(({ position, value }) => [position, Buffer.from(value)]));
    for (const [index, position] of part.entries()) {
      if (values.get(position)?.equals(changes.value(at + index)) !== true) lost.push(position);
    }
  }
  return lost;
}
