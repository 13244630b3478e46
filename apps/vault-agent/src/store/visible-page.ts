/** Pages of what a caller may see, read from the store in pages of everything. */
import { setImmediate } from 'node:timers/promises';
import type { Sees } from '../access/caller.ts';
import { storeLimits } from './store-limits.ts';

export type { Sees };

export interface Page<T> {
  items: T[];
  nextCursor: string | null;
}

/** The work of one page: in slices, between which others get their turn, and with an end. */
export class PageWork {
  readonly #startedMs = performance.now();
  #sliceMs = this.#startedMs;
  #lookedAt = 0;

  /** Whoever sees little of much gets shorter pages, not slow ones. */
  get isSpent(): boolean {
    return (
      this.#lookedAt >= storeLimits.pageLooksAtMax ||
      performance.now() - this.#startedMs >= storeLimits.pageWorkMs
    );
  }

  /** One more was looked at. */
  async next(): Promise<void> {
    this.#lookedAt += 1;
    if (performance.now() - this.#sliceMs < storeLimits.pageSliceMs) return;
    await setImmediate();
    this.#sliceMs = performance.now();
  }
}

/**
 * Where only a part is seen, whether there is a next page says whether anything more is seen, not
 * whether anything more is there; but for a page whose work came to its end.
 * @param read up to `count` rows after a key, in order
 * @param keyOf the key of a row, which is also the cursor
 * @param sees undefined where everything is seen
 */
export async function visiblePage<Row>(
  { limit, cursor }: { limit: number; cursor?: string | undefined },
  read: (after: string | undefined, count: number) => Promise<Row[]>,
  keyOf: (row: Row) => string,
  sees?: (row: Row) => boolean | Promise<boolean>,
): Promise<Page<Row>> {
  // One row more says only that there is one.
  if (sees === undefined) {
    const rows = await read(cursor, limit + 1);
    const items = rows.slice(0, limit);
    const last = items.at(-1);
    const isEnd = rows.length <= limit || last === undefined;
    return { items, nextCursor: isEnd ? null : keyOf(last) };
  }
  const items: Row[] = [];
  const work = new PageWork();
  const count = Math.max(limit + 1, storeLimits.pageReadsAtLeast);
  let after = cursor;
  for (;;) {
    const rows = await read(after, count);
    for (const row of rows) {
      const seen = sees(row);
      const isSeen = typeof seen === 'boolean' ? seen : await seen;
      if (isSeen && items.length === limit) {
        return { items, nextCursor: keyOf(items.at(-1) as Row) };
      }
      if (isSeen) items.push(row);
      after = keyOf(row);
      await work.next();
      if (work.isSpent) return { items, nextCursor: after };
    }
    if (rows.length < count) return { items, nextCursor: null };
  }
}
