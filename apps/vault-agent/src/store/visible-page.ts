/** Pages of what a caller may see, read from the store in pages of everything. */
import type { ResourceReference } from '../access/caller.ts';

/** Rows that one page may look at: whoever sees little of much gets shorter pages, not slow ones. */
const lookedAtMax = 10_000;

export interface Page<T> {
  items: T[];
  nextCursor: string | null;
}

/**
 * @param read up to `count` rows after a key, in order
 * @param keyOf the key of a row, which is also the cursor
 * @param sees undefined where everything is seen
 */
export async function visiblePage<Row>(
  page: { limit: number; cursor?: string | undefined },
  read: (after: string | undefined, count: number) => Promise<Row[]>,
  keyOf: (row: Row) => string,
  sees?: (row: Row) => boolean,
): Promise<Page<Row>> {
  const items: Row[] = [];
  let after = page.cursor;
  for (let lookedAt = 0; lookedAt < lookedAtMax; ) {
    const rows = await read(after, page.limit + 1);
    lookedAt += rows.length;
    const isLast = rows.length <= page.limit;
    for (const [index, row] of rows.entries()) {
      // The one row more says only that there is one.
      if (!isLast && index === page.limit) break;
      after = keyOf(row);
      if (sees !== undefined && !sees(row)) continue;
      items.push(row);
      if (items.length === page.limit) {
        const isEnd = isLast && index === rows.length - 1;
        return { items, nextCursor: isEnd ? null : after };
      }
    }
    if (isLast) return { items, nextCursor: null };
  }
  return { items, nextCursor: after ?? null };
}

export type Sees = ((resource: ResourceReference) => boolean) | undefined;
