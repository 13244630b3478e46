/**
 * Rows on their way to a worker thread and back: one block of bytes each way, handed over instead of
 * copied.
 *
 * ```text
 * there: derivation (u16) | length of id (u16) | of token (u16) | of value (u32) | id | token | value, …
 * back:  the new values one behind the other, their lengths beside them
 * ```
 */
import { asBuffer, type RecordPlace } from '../record-format.ts';

export interface PageRow extends RecordPlace {
  position: number;
  value: Uint8Array;
}

/** How the records of one salt are opened and sealed. */
export interface DerivedKeys {
  oldKey: Uint8Array;
  newKey: Uint8Array;
  /** The start of the new record. */
  newDerivation: Uint8Array;
}

export interface PackedPage {
  count: number;
  rows: Uint8Array<ArrayBuffer>;
  derivations: DerivedKeys[];
}

/** What became of a row; the order of the page. */
export const rowState = { otherPassword: 0, matched: 1, corrupt: 2 } as const;

export interface ResealedPage {
  states: Uint8Array<ArrayBuffer>;
  /** Of each new value; 0 where there is none. */
  lengths: Uint32Array<ArrayBuffer>;
  values: Uint8Array<ArrayBuffer>;
}

const headBytes = 10;

/** @param derivationOf the place of the row's keys in `derivations` */
export function packPage(
  rows: readonly PageRow[],
  derivations: DerivedKeys[],
  derivationOf: (row: number) => number,
): PackedPage {
  let length = 0;
  for (const { id, token, value } of rows) {
    length += headBytes + id.length + token.length + value.length;
  }
  const packed = Buffer.from(new ArrayBuffer(length));
  let at = 0;
  rows.forEach(({ id, token, value }, index) => {
    packed.writeUInt16BE(derivationOf(index), at);
    packed.writeUInt16BE(id.length, at + 2);
    packed.writeUInt16BE(token.length, at + 4);
    packed.writeUInt32BE(value.length, at + 6);
    at += headBytes;
    // Ids and tokens are ASCII.
    packed.write(id, at, 'latin1');
    at += id.length;
    packed.write(token, at, 'latin1');
    at += token.length;
    packed.set(value, at);
    at += value.length;
  });
  return { count: rows.length, rows: packed, derivations };
}

export interface PackedRow extends RecordPlace {
  derivation: number;
  /** A view into the page. */
  value: Buffer;
}

export function* unpackPage(page: PackedPage): Generator<PackedRow> {
  const bytes = asBuffer(page.rows);
  let at = 0;
  for (let row = 0; row < page.count; row += 1) {
    const derivation = bytes.readUInt16BE(at);
    const idLength = bytes.readUInt16BE(at + 2);
    const tokenLength = bytes.readUInt16BE(at + 4);
    const valueLength = bytes.readUInt32BE(at + 6);
    const id = at + headBytes;
    const token = id + idLength;
    const value = token + tokenLength;
    at = value + valueLength;
    yield {
      derivation,
      id: bytes.toString('latin1', id, token),
      token: bytes.toString('latin1', token, value),
      value: bytes.subarray(value, at),
    };
  }
}
