import { expect, test } from 'vitest';
import { storeLimits } from './store-limits.ts';
import { visiblePage } from './visible-page.ts';

const rows = Array.from({ length: 25_000 }, (_, index) => String(index).padStart(5, '0'));
let reads = 0;
const read = async (after: string | undefined, count: number) => {
  reads += 1;
  const from = after === undefined ? 0 : Number(after) + 1;
  return rows.slice(from, from + count);
};
const pageOf = (limit: number, cursor: string | null, sees?: (row: string) => boolean) =>
  visiblePage({ limit, cursor: cursor ?? undefined }, read, (row) => row, sees);

test('whoever sees little of much gets short pages whose cursor goes on, and in the end all of it', async () => {
  const found: string[] = [];
  let pages = 0;
  let cursor: string | null = null;
  do {
    reads = 0;
    const page = await pageOf(10, cursor, (row) => row === '00000' || row === '24998');
    expect(reads).toBeLessThanOrEqual(
      1 + storeLimits.pageLooksAtMax / storeLimits.pageReadsAtLeast,
    );
    found.push(...page.items);
    cursor = page.nextCursor;
    pages += 1;
  } while (cursor !== null);
  expect(found).toEqual(['00000', '24998']);
  expect(pages).toBeGreaterThanOrEqual(3);
});

test('a page that is full has a next one only where more is seen, and ends at what was seen', async () => {
  const isThousandth = (row: string) => row.endsWith('000');
  const first = await pageOf(3, null, isThousandth);
  expect(first).toEqual({ items: ['00000', '01000', '02000'], nextCursor: '02000' });
  expect(await pageOf(3, '21500', isThousandth)).toEqual({
    items: ['22000', '23000', '24000'],
    nextCursor: null,
  });
  expect(await pageOf(3, '24996')).toEqual({ items: rows.slice(24_997), nextCursor: null });
  expect(await pageOf(2, '24996')).toEqual({
    items: rows.slice(24_997, 24_999),
    nextCursor: '24998',
  });
});
