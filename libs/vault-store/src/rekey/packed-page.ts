/**
 * Rows on their way through a rekey: one block of bytes for a page, handed to a worker thread and back
 * instead of copied. A row that were an object of its own, for as long as its page is under way, would
 * make the memory of a rekey several times what it holds.
 *
 * ```text
 * length of id (u16) | of token (u16) | of value (u32) | id | token | value, …
 * ```
 */
import { asBuffer, type RecordPlace } from '../record-format.ts';

export interface PageRow extends RecordPlace {
  position: number;
  /** A view into the page. */
  value: Buffer;
}

const headBytes = 8;

/** Rows in the order of their positions. */
export class RowPage {
  readonly positions: readonly number[];
  readonly #starts: readonly number[];
  /** Empty while a thread has them. */
  bytes: Uint8Array<ArrayBuffer>;

  constructor(
    positions: readonly number[],
    starts: readonly number[],
    bytes: Uint8Array<ArrayBuffer>,
  ) {
    this.positions = positions;
    this.#starts = starts;
    this.bytes = bytes;
  }

  get count(): number {
    return this.positions.length;
  }

  get last(): number | undefined {
    return this.positions.at(-1);
  }

  row(index: number): PageRow {
    const start = this.#starts[index] as number;
    return {
      position: this.positions[index] as number,
      ...unpack(asBuffer(this.bytes), start).row,
    };
  }

  /** The value alone. */
  value(index: number): Buffer {
    const { value, end } = this.#extent(index);
    return asBuffer(this.bytes).subarray(value, end);
  }

  /** Whether the value begins as that of another row does. */
  beginsAs(index: number, other: number, length: number): boolean {
    const bytes = asBuffer(this.bytes);
    const [one, two] = [this.#extent(index), this.#extent(other)];
    if (one.end - one.value < length || two.end - two.value < length) return false;
    return bytes.compare(bytes, one.value, one.value + length, two.value, two.value + length) === 0;
  }

  #extent(index: number): { value: number; end: number } {
    const start = this.#starts[index] as number;
    const bytes = asBuffer(this.bytes);
    const value = start + headBytes + bytes.readUInt16BE(start) + bytes.readUInt16BE(start + 2);
    return { value, end: value + bytes.readUInt32BE(start + 4) };
  }

  *rows(): Generator<PageRow> {
    for (let index = 0; index < this.count; index += 1) yield this.row(index);
  }
}

/**
 * Bytes of pages that are done, for pages to come. Asked for and left to the garbage a page at a time,
 * they would fill the heap of the process with holes.
 */
export class SpareBytes {
  readonly #spare: ArrayBuffer[] = [];
  readonly #most: number;

  /** @param most kept at once */
  constructor(most: number) {
    this.#most = most;
  }

  /** At least as many as asked for; what is in them is of a page before. */
  take(bytes: number): ArrayBuffer {
    const found = this.#spare.findIndex(({ byteLength }) => byteLength >= bytes);
    if (found < 0) return new ArrayBuffer(Math.max(bytes, 1_024));
    return this.#spare.splice(found, 1)[0] as ArrayBuffer;
  }

  give(bytes: ArrayBuffer): void {
    // The oldest may be too small for today's pages.
    if (this.#spare.length >= this.#most) this.#spare.shift();
    this.#spare.push(bytes);
  }
}

export class PageBuilder {
  readonly #positions: number[] = [];
  readonly #starts: number[] = [];
  #bytes: Buffer<ArrayBuffer>;
  #at = 0;

  constructor(expectedBytes: number, spare?: SpareBytes) {
    this.#bytes = Buffer.from(
      spare === undefined
        ? new ArrayBuffer(Math.max(expectedBytes, 1_024))
        : spare.take(expectedBytes),
    );
  }

  add(position: number, id: string, token: string, value: Uint8Array): void {
    const length = headBytes + id.length + token.length + value.length;
    if (this.#at + length > this.#bytes.length) {
      const larger = Buffer.from(new ArrayBuffer(2 * this.#bytes.length + length));
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    this.#positions.push(position);
    this.#starts.push(this.#at);
    const bytes = this.#bytes;
    bytes.writeUInt16BE(id.length, this.#at);
    bytes.writeUInt16BE(token.length, this.#at + 2);
    bytes.writeUInt32BE(value.length, this.#at + 4);
    // Ids and tokens are ASCII.
    bytes.write(id, this.#at + headBytes, 'latin1');
    bytes.write(token, this.#at + headBytes + id.length, 'latin1');
    bytes.set(value, this.#at + headBytes + id.length + token.length);
    this.#at += length;
  }

  finish(): RowPage {
    return new RowPage(this.#positions, this.#starts, this.#bytes.subarray(0, this.#at));
  }
}

/** How the records of one salt are opened and sealed. */
export interface DerivedKeys {
  oldKey: Uint8Array;
  newKey: Uint8Array;
  /** The start of the new record. */
  newDerivation: Uint8Array;
}

/** What became of a row. */
export const rowState = { otherPassword: 0, matched: 1, corrupt: 2, alreadyCurrent: 3 } as const;

/** What is known of a row before it is tried: whose keys, or what became of it. */
export const rowPlan = { corrupt: 0xffff, alreadyCurrent: 0xfffe } as const;

export interface ResealTask {
  rows: Uint8Array<ArrayBuffer>;
  /** For each row: the place of its keys, or a {@link rowPlan}. */
  plan: Uint16Array<ArrayBuffer>;
  derivations: DerivedKeys[];
  /** Room for the new values: as much as the rows take. */
  room: ArrayBuffer;
}

export interface ResealedPage {
  rows: Uint8Array<ArrayBuffer>;
  states: Uint8Array<ArrayBuffer>;
  /** Of each new value; 0 where there is none. */
  lengths: Uint32Array<ArrayBuffer>;
  /** One behind the other. */
  values: Uint8Array<ArrayBuffer>;
}

export function* unpackRows(
  rows: Uint8Array,
  count: number,
): Generator<RecordPlace & { value: Buffer }> {
  const bytes = asBuffer(rows);
  for (let row = 0, at = 0; row < count; row += 1) {
    const unpacked = unpack(bytes, at);
    at = unpacked.end;
    yield unpacked.row;
  }
}

function unpack(bytes: Buffer, start: number) {
  const id = start + headBytes;
  const token = id + bytes.readUInt16BE(start);
  const value = token + bytes.readUInt16BE(start + 2);
  const end = value + bytes.readUInt32BE(start + 4);
  const row = {
    id: bytes.toString('latin1', id, token),
    token: bytes.toString('latin1', token, value),
    value: bytes.subarray(value, end),
  };
  return { row, end };
}
