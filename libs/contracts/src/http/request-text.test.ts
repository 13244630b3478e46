import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ServiceError } from '../errors.ts';
import { limits } from '../limits.ts';
import {
  readIdempotencyKey,
  readIfMatch,
  readJson,
  readQuery,
  readRequestId,
  readTraceparent,
} from './request-text.ts';

function refusal(read: () => unknown) {
  try {
    read();
  } catch (error) {
    if (error instanceof ServiceError && error.code === 'invalid_request') return error.errors;
    throw error;
  }
  return undefined;
}
const refusedJson = (text: string | Buffer) => refusal(() => readJson(Buffer.from(text)));

test.each([
  ['{"a":1,}', 'line 1, column 8'],
  ['{"a" 1}', 'line 1, column 6'],
  ['{"a":1', 'line 1, column 7'],
  ['[1,2', 'line 1, column 5'],
  ['{\n  "a": 1\n  "b": 2\n}', 'line 3, column 3'],
  ['{"a":tru}', 'line 1, column 6'],
  ['{"a":01}', 'line 1, column 7'],
  ["{'a':1}", 'line 1, column 2'],
  ['{"a":"\\x"}', 'line 1, column 6'],
  ['{"a":"\u0001"}', 'line 1, column 6'],
  ['1 2', 'line 1, column 3'],
  ['[1]]', 'line 1, column 4'],
  ['{"a":1]', 'line 1, column 7'],
  ['nul', 'line 1, column 1'],
  ['}', 'line 1, column 1'],
  ['NaN', 'line 1, column 1'],
])('malformed JSON is told with its place: %j', (text, place) => {
  expect(refusedJson(text)).toEqual([{ in: 'body', path: '', message: `is not JSON: ${place}` }]);
});

test('nesting is bounded in the text, before anything is built of it', () => {
  const fits = '['.repeat(limits.bodyMaxDepth) + ']'.repeat(limits.bodyMaxDepth);
  expect(refusedJson(fits)).toBeUndefined();
  expect(refusedJson(`[${fits}]`)).toMatchObject([{ message: expect.stringContaining('nested') }]);
  expect(refusedJson('['.repeat(limits.bodyMaxBytes))).toMatchObject([
    { message: expect.stringContaining(`column ${limits.bodyMaxDepth + 1}`) },
  ]);
  expect(refusedJson(`{"a":"${'['.repeat(100)}\\"${'{'.repeat(100)}"}`)).toBeUndefined();
});

test.each([
  ['a NUL', '{"a":{"b":["x","\\u0000"]}}', '/a/b/1', 'must not hold a NUL character'],
  ['half a surrogate pair', '{"a":"\\ud800"}', '/a', 'must be well-formed Unicode'],
  ['a NUL in a name', '{"a":{"\\u0000":1}}', '/a/\0', 'its name must not hold a NUL character'],
  ['a prototype', '{"a":{"__proto__":{"admin":true}}}', '/a/__proto__', 'is not a field here'],
])('%s is refused with its place', (_, text, path, message) => {
  expect(refusedJson(text)).toEqual([{ in: 'body', path, message }]);
});

test('bytes that are not UTF-8 are refused', () => {
  expect(refusedJson(Buffer.from([0x22, 0xff, 0x22]))).toMatchObject([{ message: 'is not UTF-8' }]);
});

test('whatever JSON says it is, is read as JSON.parse reads it', () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 8, noUnicodeString: false }), (value) => {
      const text = JSON.stringify(value);
      fc.pre(text.isWellFormed() && !text.includes('\\u0000') && !text.includes('__proto__'));
      fc.pre(!text.includes('\\ud'));
      expect(readJson(Buffer.from(text))).toEqual(JSON.parse(text));
    }),
  );
});

test('no bytes at all crash the reader, and a fault is placed inside the text', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
        fc
          .string({ unit: fc.constantFrom(...'{}[],:"\\0 1etrufalsn.-+\n') })
          .map((text) => Buffer.from(text)),
      ),
      (bytes) => {
        const errors = refusal(() => readJson(bytes));
        for (const { message } of errors ?? []) {
          const column = /column (\d+)/.exec(message)?.[1];
          if (column) expect(Number(column)).toBeLessThanOrEqual(bytes.length + 1);
        }
      },
    ),
  );
});

test('a query is taken apart as forms write it', () => {
  expect({ ...readQuery('/v1/vaults?name=a+b&tag=x%2Cy&tag=z&flag&=empty&&') }).toEqual({
    name: 'a b',
    tag: ['x,y', 'z'],
    flag: '',
    '': 'empty',
  });
  expect({ ...readQuery('/v1/vaults') }).toEqual({});
});

test('a query cannot reach a prototype', () => {
  const query = readQuery('/?__proto__=1&constructor=2');
  expect(Object.keys(query)).toEqual(['__proto__', 'constructor']);
  expect(Object.getPrototypeOf({})).toBe(Object.prototype);
});

test.each([
  ['/?a=%zz', '/a'],
  ['/?a=%C3', '/a'],
  ['/?a=%00', '/a'],
  ['/?%00=a', ''],
  [`/?${'a=1&'.repeat(101)}`, ''],
])('a bad query is refused with its place: %s', (target, path) => {
  expect(refusal(() => readQuery(target))).toMatchObject([{ in: 'query', path }]);
});

test('no query crashes the reader', () => {
  fc.assert(fc.property(fc.string(), (text) => void refusal(() => readQuery(`/?${text}`))));
});

test('an idempotency key is printable and bounded', () => {
  expect(readIdempotencyKey(undefined)).toBeNull();
  expect(readIdempotencyKey('8e03978e-40d5-43dd-bc93-6894a57f9324')).toBe(
    '8e03978e-40d5-43dd-bc93-6894a57f9324',
  );
  for (const bad of ['', ' ', 'a\tb', 'ключ', 'x'.repeat(256)]) {
    expect(refusal(() => readIdempotencyKey(bad))).toMatchObject([{ in: 'header' }]);
  }
});

test('If-Match is entity tags or a star', () => {
  for (const good of ['*', '"1"', 'W/"1"', '"1", "2"']) expect(readIfMatch(good)).toBe(good);
  for (const bad of ['', '1', '"1', '"1",', '*, "1"']) {
    expect(refusal(() => readIfMatch(bad))).toMatchObject([{ path: '/If-Match' }]);
  }
});

test("a caller's own request id and trace are taken where they are well-formed", () => {
  expect(readRequestId('deploy-42')).toBe('deploy-42');
  for (const bad of [undefined, '', 'a b', 'x'.repeat(65), '-a', 'a\nb', ['a', 'b']]) {
    expect(readRequestId(bad)).toBeUndefined();
  }
  const trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  expect(readTraceparent(trace)).toBe(trace);
  expect(readTraceparent('00-0-0-0')).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
});
