/** Fields that several operations of the agent use, with the same bounds everywhere. */
import { z } from 'zod';
import { wholeNumberText } from '../whole-number-text.ts';
import { apiLimits } from './api-limits.ts';

// Control characters break logs, bidirectional overrides disguise names.
const disguising = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/u;

const text = (max: number) =>
  z
    .string()
    .max(max, `must have at most ${max} characters`)
    .refine(
      (value) => !disguising.test(value),
      'must not hold control or text direction characters',
    );

/** Of a namespace: letters, digits and `. _ -`, 1 to 120 characters (R9.1). */
export const namespaceName = z
  .string()
  .min(1, 'must not be empty')
  .max(
    apiLimits.namespaceNameMaxLength,
    `must have at most ${apiLimits.namespaceNameMaxLength} characters`,
  )
  .regex(
    /^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/,
    'must be letters, digits and . _ - inside',
  );

/**
 * Of a secret: 1 to 255 of `A–Z a–z 0–9 . _ - /` (R1.1). It is a name and no path: a part that is
 * empty, `.` or `..` is refused, because programs on the way would rewrite it.
 */
export const secretName = z
  .string()
  .min(1, 'must not be empty')
  .max(
    apiLimits.secretNameMaxLength,
    `must have at most ${apiLimits.secretNameMaxLength} characters`,
  )
  .regex(/^[A-Za-z0-9._/-]+$/, 'must be letters, digits and . _ - /')
  .refine(
    (name) => !name.split('/').some((part) => part === '' || part === '.' || part === '..'),
    'must not hold an empty part, . or ..',
  );

/** A name people read: trimmed, 1 to 120 characters. */
export const displayName = text(apiLimits.nameMaxLength).trim().min(1, 'must not be empty');

export const description = text(apiLimits.descriptionMaxLength);

/** A tag: `env=production`, `team:payments`, `eu-west`. */
export const tag = z
  .string()
  .min(1)
  .max(apiLimits.tagMaxLength)
  .regex(
    /^[a-z0-9](?:[a-z0-9._:=/-]*[a-z0-9])?$/,
    'must be lower case letters, digits and . _ : = / - inside',
  );

export const tags = z
  .array(tag)
  .max(apiLimits.tagsMax, `at most ${apiLimits.tagsMax} tags`)
  .transform((list) => [...new Set(list)].sort());

/** What the owner notes beside a secret; no value belongs in here, and none is looked for. */
export const metadata = z
  .record(
    z
      .string()
      .min(1)
      .max(apiLimits.metadataKeyMaxLength)
      .regex(/^[A-Za-z0-9._-]+$/, 'must be letters, digits and . _ -'),
    text(apiLimits.metadataValueMaxLength),
  )
  .refine(
    (entries) => Object.keys(entries).length <= apiLimits.metadataEntriesMax,
    `at most ${apiLimits.metadataEntriesMax} entries`,
  );

/** UTC, in milliseconds. */
export const instant = z.iso
  .datetime()
  .refine((value) => !value.startsWith('0000'), 'must not be before the year 1');

/** `limit` and `cursor` of every list. The adapter binds cursors to their caller and query. */
export function listQuery<F extends z.ZodRawShape>(filters: F) {
  return z.strictObject({
    limit: wholeNumberText(1, apiLimits.pageMax).default(apiLimits.pageDefault),
    cursor: z.string().min(1).max(apiLimits.cursorMaxLength).optional(),
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

/**
 * A pattern for names: `*` stands for any characters, `/` included; everything else for itself.
 * Matching is linear in the name for each `*`.
 */
export const namePattern = z
  .string()
  .min(1)
  .max(apiLimits.patternMaxLength)
  .regex(/^[A-Za-z0-9._/*-]+$/, 'must be letters, digits, . _ - / and * for anything')
  .refine(
    (pattern) => pattern.split('*').length - 1 <= apiLimits.patternStarsMax,
    `at most ${apiLimits.patternStarsMax} times *`,
  );
