import { randomBytes } from 'node:crypto';
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { system } from './authenticator.ts';
import { Listing, type ListQuery } from './listing.ts';
import { InstallationKey } from './sealing.ts';

/** Any bytes as text: controls, NUL and all. */
const anyText = fc
  .uint8Array({ maxLength: 120 })
  .map((bytes) => Buffer.from(bytes).toString('latin1'));

const listing = new Listing(new InstallationKey(randomBytes(32)));
const rows = Array.from({ length: 7 }, (_, index) => ({ id: newUuid(), size: index }));
const caller = (organizationId = newUuid(), name = 'somebody'): TenantCtx => ({
  ...system(name, organizationId),
  organizationId,
});

/** A list in memory: what counts here is who may follow which cursor. */
function page(ctx: TenantCtx, query: ListQuery & Record<string, unknown>, operation = 'rows.list') {
  return pageOf((row) => row.size, ctx, query, operation);
}

function pageOf<Item>(
  toItem: (row: (typeof rows)[number]) => Item,
  ctx: TenantCtx,
  query: ListQuery & Record<string, unknown>,
  operation = 'rows.list',
) {
  return listing.walk(ctx, operation, query, {
    fetch: async ({ position, take }) => {
      const start = position ? rows.findIndex((row) => row.id === position.id) + 1 : 0;
      return rows.slice(start, start + take);
    },
    valueOf: (row) => row.size,
    idOf: (row) => row.id,
    toItem,
  });
}

test('following the cursor shows every row once', async () => {
  const ctx = caller();
  for (let limit = 1; limit <= 8; limit += 1) {
    const seen: number[] = [];
    let cursor: string | undefined;
    do {
      const { items, nextCursor } = await page(ctx, { limit, sort: 'size', cursor });
      seen.push(...items);
      cursor = nextCursor ?? undefined;
    } while (cursor);
    expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6]);
  }
});

test.each([
  ['four to a page', 0.2, [4, 3]],
  ['one that is too large by itself to a page', 2, [1, 1, 1, 1, 1, 1, 1]],
])('large rows are shown once too, %s', async (_, share, lengths) => {
  const ctx = caller();
  const text = 'x'.repeat(limits.busPayloadMaxBytes * 0.7 * share);
  const pages: number[][] = [];
  let cursor: string | undefined;
  do {
    const query = { limit: 7, sort: 'size', cursor };
    const { items, nextCursor } = await pageOf(({ size }) => ({ size, text }), ctx, query);
    pages.push(items.map(({ size }) => size));
    cursor = nextCursor ?? undefined;
  } while (cursor);
  expect(pages.flat()).toEqual([0, 1, 2, 3, 4, 5, 6]);
  expect(pages.map(({ length }) => length)).toEqual(lengths);
});

test('a cursor opens nothing for another caller, organization, operation, sort or filter', async () => {
  const ctx = caller();
  const query = { limit: 2, sort: 'size', color: 'red' };
  const { nextCursor } = await page(ctx, query);
  const cursor = nextCursor as string;
  const refused = { code: 'invalid_cursor' };
  expect((await page(ctx, { ...query, cursor })).items).toEqual([2, 3]);
  expect((await page(ctx, { ...query, limit: 1, cursor })).items).toEqual([2]);
  for (const other of [
    page(caller(), { ...query, cursor }),
    page(caller(ctx.organizationId, 'another'), { ...query, cursor }),
    page(ctx, { ...query, cursor }, 'others.list'),
    page(ctx, { ...query, sort: '-size', cursor }),
    page(ctx, { ...query, color: 'blue', cursor }),
    page(ctx, { limit: 2, sort: 'size', cursor }),
  ]) {
    await expect(other).rejects.toMatchObject(refused);
  }
});

test('a cursor that was changed or made up is refused, never a failure', async () => {
  const ctx = caller();
  const { nextCursor } = await page(ctx, { limit: 2, sort: 'size' });
  const good = nextCursor as string;
  const changed = fc
    .tuple(fc.nat(good.length - 1), fc.constantFrom(...'ABCxyz019-_.'))
    .map(([index, character]) => `${good.slice(0, index)}${character}${good.slice(index + 1)}`)
    // The last character of base64 carries unused bits: another spelling of the same tag.
    .filter((cursor) => cursor.slice(0, -1) !== good.slice(0, -1));
  await fc.assert(
    fc.asyncProperty(fc.oneof(changed, anyText), async (cursor) => {
      await expect(page(ctx, { limit: 2, sort: 'size', cursor })).rejects.toMatchObject({
        code: 'invalid_cursor',
      });
    }),
  );
});
