import { expect, test } from 'vitest';
import { z } from 'zod';
import { agentOperations } from './agent-api/operations.ts';
import { inOurWords, leafIssues } from './issue-text.ts';
import { operations } from './operations.ts';
import { wholeNumberText } from './whole-number-text.ts';

const told = (schema: z.ZodType, value: unknown) =>
  leafIssues(schema.safeParse(value, inOurWords).error?.issues ?? []).map(
    ({ path, message }) => `${path.map((part) => `/${String(part)}`).join('')} ${message}`,
  );

test.each<[z.ZodType, unknown, string]>([
  [z.string(), undefined, 'is missing'],
  [z.string(), 3, 'must be a string'],
  [z.number().int().min(1).max(1_000), 'x', 'must be a whole number from 1 to 1000'],
  [z.number().int().min(1).max(1_000), 1.5, 'must be a whole number from 1 to 1000'],
  [z.number().int().min(1).max(1_000), 0, 'must be a whole number from 1 to 1000'],
  [z.number().int().min(1).max(1_000), 1_001, 'must be a whole number from 1 to 1000'],
  [z.number().int().min(1).max(1_000), 2 ** 60, 'must be a whole number from 1 to 1000'],
  [z.number().int().min(1).max(1_000), Number.NaN, 'must be a whole number from 1 to 1000'],
  [z.number().int().nonnegative(), -1, 'must be a whole number of at least 0'],
  [z.number().int(), 0.5, 'must be a whole number'],
  [z.number().gt(0), 0, 'must be a number greater than 0'],
  [z.number().min(0.01).max(100), 101, 'must be a number from 0.01 to 100'],
  [z.number().multipleOf(5), 3, 'must be a multiple of 5'],
  [z.boolean(), 'true', 'must be true or false'],
  [z.null(), 1, 'must be null'],
  [z.array(z.string()), {}, 'must be a list'],
  [z.object({}), [], 'must be an object'],
  [z.record(z.string(), z.string()), 1, 'must be an object'],
  [z.string().max(255), 'x'.repeat(256), 'must have at most 255 characters'],
  [z.string().min(1).max(64), '', 'must not be empty'],
  [z.string().min(1).max(64), 'x'.repeat(65), 'must have at most 64 characters'],
  [z.string().min(8).max(64), 'x', 'must have 8 to 64 characters'],
  [z.string().min(8), 'x', 'must have at least 8 characters'],
  [z.string().length(3), 'x', 'must have exactly 3 characters'],
  [z.array(z.string()).min(1).max(20), [], 'must not be empty'],
  [z.array(z.string()).min(1).max(2), ['a', 'b', 'c'], 'must have 1 to 2 entries'],
  [z.array(z.string()).max(1), ['a', 'b'], 'must have at most 1 entry'],
  [z.tuple([z.string(), z.string()]), ['a'], 'must have exactly 2 entries'],
  [z.enum(['soft', 'hard']), 'firm', 'must be one of: soft, hard'],
  [z.literal('all'), 'some', 'must be "all"'],
  [z.email(), 'x', 'must be a mail address'],
  [z.url(), 'x', 'must be a URL, like https://example.com/path'],
  [z.uuid(), 'x', 'must be a UUID'],
  [z.iso.datetime(), 'tomorrow', 'must be a time in UTC, like 2027-01-31T00:00:00Z'],
  [z.string().startsWith('key_'), 'x', 'must begin with "key_"'],
  [z.string().endsWith('='), 'x', 'must end with "="'],
  [z.string().includes('@'), 'x', 'must hold "@"'],
  [z.string().regex(/^a$/, 'must be a'), 'b', 'must be a'],
  [z.string().regex(/^a$/), 'b', 'is not of the form that is expected here'],
  [z.string().refine(() => false), 'b', 'is not valid'],
  [z.strictObject({}), { x: 1 }, 'must not hold "x"'],
  [z.union([z.string(), z.number()]), true, 'must be a string or a number'],
  [z.union([z.literal(''), z.string().max(3)]), 'four', 'must have at most 3 characters'],
])('%#: what is wrong is told as what is allowed', (schema, value, text) => {
  expect(told(schema, value)).toEqual([` ${text}`]);
});

test('a choice between shapes is told by the shape that was meant', () => {
  const opened = z.union([
    z.strictObject({ passphrase: z.string().min(12) }),
    z.strictObject({ identity: z.string() }),
  ]);
  expect(told(opened, { passphrase: 'short' })).toEqual([
    '/passphrase must have at least 12 characters',
  ]);
  expect(told(opened, {})).toEqual([' passphrase is missing, or identity is missing']);
  const kinds = z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('all') }),
    z.strictObject({ kind: z.literal('tag'), tag: z.string() }),
  ]);
  expect(told(kinds, { kind: 'none' })).toEqual(['/kind must be one of: all, tag']);
  expect(told(kinds, { kind: 'tag' })).toEqual(['/tag is missing']);
});

test('a name that a map does not take is told as such', () => {
  const map = z.record(z.string().max(3), z.string());
  expect(told(map, { four: 'x' })).toEqual(['/four its name must have at most 3 characters']);
});

test('a number in an address is plain digits', () => {
  const version = wholeNumberText(1, 99);
  expect(version.parse('7')).toBe(7);
  expect(version.parse(7)).toBe(7);
  for (const text of ['1e1', '0x5', ' 5', '5 ', '+5', '-5', '5.0', '', '0', '100', ['5'], null]) {
    expect(told(version, text), String(text)).toEqual([' must be a whole number from 1 to 99']);
  }
});

/** What a schema is made of, itself included. */
function parts(schema: z.core.$ZodType, found: Set<z.core.$ZodType>): Set<z.core.$ZodType> {
  if (found.has(schema)) return found;
  found.add(schema);
  const inner = (value: unknown): void => {
    if (value instanceof z.core.$ZodType) parts(value, found);
    else if (Array.isArray(value)) value.forEach(inner);
  };
  const { def } = schema._zod;
  // Checks stand on what they are attached to.
  for (const [name, value] of Object.entries(def)) if (name !== 'checks') inner(value);
  if (def.type === 'object') {
    Object.values((def as unknown as z.core.$ZodObjectDef).shape).forEach(inner);
  }
  return found;
}

// What these are about is looked at by itself; a transform works on what another schema lets through.
const passedOn = new Set(['default', 'optional', 'nullable', 'prefault', 'never', 'transform']);
const poor =
  /Invalid|expected|, received |Too (small|big)|pattern|NaN|Infinity|undefined|^(its name )?is not (valid|of the form)/;

test('no fault in anything that both APIs take is told in a validator’s words', () => {
  const found = new Set<z.core.$ZodType>();
  for (const { params, query, body } of [...operations, ...agentOperations]) {
    for (const schema of [params, query, body]) parts(schema, found);
  }
  const long = 'x'.repeat(1_100);
  const texts = ['', ' ', '\n', '-', 'ä', '💥', long, 'http://', 'a b', '*'.repeat(99)];
  const numbers = [-1, 0, 0.5, 1e21, Number.NaN, Number.POSITIVE_INFINITY];
  const lists = [[], [null], [''], ['x', 'x', 'x']];
  const objects = [{}, { '': '' }, { x: 1 }, { [long]: long }, { kind: 'x' }, { kind: 3 }];
  const values = [undefined, null, true, ...texts, ...numbers, ...lists, ...objects];
  const many = [
    new Array(210).fill('x'),
    Object.fromEntries(Array.from({ length: 70 }, (_, index) => [`k${index}`, 'x'])),
  ];
  expect(found.size).toBeGreaterThan(500);
  const told = new Set<string>();
  for (const schema of found) {
    const { type } = schema._zod.def;
    if (passedOn.has(type)) continue;
    for (const value of type === 'array' || type === 'record' ? [...values, ...many] : values) {
      const { error } = z.safeParse(schema, value, inOurWords);
      for (const { message } of leafIssues(error?.issues.slice(0, 50) ?? [])) told.add(message);
    }
  }
  expect(told.size).toBeGreaterThan(100);
  expect([...told].filter((message) => poor.test(message))).toEqual([]);
});
