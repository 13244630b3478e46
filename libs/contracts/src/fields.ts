/** Fields that many contracts use, with the same bounds everywhere. */
import { z } from 'zod';
import { limits } from './limits.ts';
import { wholeNumberText } from './whole-number-text.ts';

// Control characters break logs and mail headers, bidirectional overrides disguise names.
const disguising = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/u;

/** A name people read: trimmed, 1 to 120 characters, no control or direction characters. */
export const name = z
  .string()
  .trim()
  .min(1, 'must not be empty')
  .max(limits.nameMaxLength, `must have at most ${limits.nameMaxLength} characters`)
  .refine((text) => !disguising.test(text), 'must not hold control or text direction characters')
  .refine((text) => text.isWellFormed(), 'must be well-formed Unicode');

/** A tag: `env=production`, `team:payments`, `eu-west`. */
export const tag = z
  .string()
  .min(1)
  .max(limits.tagMaxLength)
  .regex(
    /^[a-z0-9](?:[a-z0-9._:=/-]*[a-z0-9])?$/,
    'must be lower case letters, digits and . _ : = / - inside',
  );

export const tags = z
  .array(tag)
  .max(limits.tagsMax, `at most ${limits.tagsMax} tags`)
  .transform((list) => [...new Set(list)].sort());

export const email = z
  .string()
  .trim()
  .max(254, 'must have at most 254 characters')
  .pipe(z.email('must be a mail address'))
  .transform((text) => text.toLowerCase());

/** The database has no year 0. */
export const instant = z.iso
  .datetime()
  .refine((text) => !text.startsWith('0000'), 'must not be before the year 1');

export const offlineAfterSeconds = z
  .number()
  .int()
  .min(limits.offlineAfterMinSeconds)
  .max(limits.offlineAfterMaxSeconds);

/** `limit` and `cursor` of every list, and its sort order (`-name` is descending). */
export function listQuery<S extends string, F extends z.ZodRawShape>(
  sorts: readonly [S, ...S[]],
  filters: F,
  /** What comes first where nobody asks: the newest of what happens, the first of what is kept. */
  otherwise: S | `-${S}` = sorts[0],
) {
  const orders = sorts.flatMap((sort) => [sort, `-${sort}`]) as [string, ...string[]];
  return z.strictObject({
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageDefault),
    cursor: z.string().max(limits.cursorMaxLength).optional(),
    sort: z.enum(orders).default(otherwise),
    ...filters,
  });
}

export function page<T extends z.ZodType>(item: T) {
  return z.object({
    items: z.array(item),
    /** Hand it back as `cursor` for the next page; null on the last. */
    nextCursor: z.string().nullable(),
  });
}

/** A list in a query string: `?status=online,late` or repeated. */
export function commaList<T extends z.ZodType<unknown, string>>(item: T, most = 20) {
  return z
    .union([z.string(), z.array(z.string())])
    .transform((value) => (Array.isArray(value) ? value : [value]).flatMap((v) => v.split(',')))
    .pipe(z.array(item).min(1).max(most));
}
