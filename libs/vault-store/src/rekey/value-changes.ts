/**
 * What a page of a rekey writes: new values in the places of old ones. It points into the bytes of the
 * page and of what came of it; a row gets no object of its own, which would outlive its turn.
 */
import { asBuffer } from '../record-format.ts';
import { type ResealedPage, type RowPage, rowState } from './packed-page.ts';

export class ValueChanges {
  /** All new values, one behind the other. */
  readonly values: Buffer;
  /** Ascending. */
  readonly positions: readonly number[];
  /** Where in {@link values} each begins; after the last one, where that ends. */
  readonly starts: readonly number[];
  readonly #page: RowPage;
  /** Where in the page each row is. */
  readonly #rows: readonly number[];

  constructor(page: RowPage, { states, lengths, values }: ResealedPage) {
    const positions: number[] = [];
    const starts = [0];
    const rows: number[] = [];
    let at = 0;
    for (let row = 0; row < page.count; row += 1) {
      if (states[row] !== rowState.matched) continue;
      rows.push(row);
      positions.push(page.positions[row] as number);
      at += lengths[row] as number;
      starts.push(at);
    }
    this.values = asBuffer(values);
    this.positions = positions;
    this.starts = starts;
    this.#page = page;
    this.#rows = rows;
  }

  get count(): number {
    return this.positions.length;
  }

  /** The value that is replaced: a view. */
  old(index: number): Buffer {
    return this.#page.value(this.#rows[index] as number);
  }

  /** A view. */
  value(index: number): Buffer {
    return this.values.subarray(this.starts[index], this.starts[index + 1]);
  }
}
