import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type AssociatedPart, associatedData } from './aad.ts';

const part: fc.Arbitrary<AssociatedPart> = fc.oneof(
  fc.string({ unit: 'grapheme' }).filter((text) => text.isWellFormed()),
  fc.maxSafeInteger(),
  fc.uint8Array({ maxLength: 20 }),
);
const list = fc.array(part, { maxLength: 6 });

/** Parts by kind and content: what must come out different. */
const canonical = (purpose: string, parts: AssociatedPart[]) =>
  JSON.stringify(
    [purpose, ...parts].map((each) => [
      typeof each === 'object' ? 'bytes' : typeof each,
      typeof each === 'object' ? Buffer.from(each).toString('hex') : String(each === 0 ? 0 : each),
    ]),
  );

test('two lists become the same bytes only where they are the same list', () => {
  fc.assert(
    fc.property(fc.string(), list, fc.string(), list, (purpose, parts, otherPurpose, others) => {
      fc.pre(purpose.isWellFormed() && otherPurpose.isWellFormed());
      const isSame = canonical(purpose, parts) === canonical(otherPurpose, others);
      const bytes = associatedData(purpose, ...parts);
      expect(bytes.equals(associatedData(otherPurpose, ...others))).toBe(isSame);
      expect(bytes.equals(associatedData(purpose, ...parts))).toBe(true);
    }),
    { numRuns: 1_000 },
  );
});

test('parts that run together elsewhere stay apart', () => {
  const different = [
    associatedData('p', 'ab', 'c'),
    associatedData('p', 'a', 'bc'),
    associatedData('p', 'abc'),
    associatedData('pabc'),
    associatedData('p', 'abc', ''),
    associatedData('p', '', 'abc'),
    associatedData('p', Buffer.from('abc')),
    associatedData('p', 1),
    associatedData('p', '1'),
    associatedData('p', -1),
    associatedData('p', 1, 1),
    associatedData('p', 11),
  ].map((bytes) => bytes.toString('hex'));
  expect(new Set(different).size).toBe(different.length);
});

test('the encoding stays what it is', () => {
  expect(associatedData('p', 'ä', 258, Buffer.from([255])).toString('hex')).toBe(
    '4b534101' +
      '7300000001' +
      '70' +
      '7300000002' +
      'c3a4' +
      '6e00000008' +
      '0000000000000102' +
      '6200000001' +
      'ff',
  );
  expect(associatedData('p', 5).equals(associatedData('p', 5n))).toBe(true);
});

test.each([Number.NaN, 1.5, Number.POSITIVE_INFINITY, 2 ** 53, 2n ** 63n, '\ud800'])(
  'what would not come back as it was is refused: %s',
  (value) => {
    expect(() => associatedData('p', value)).toThrow(RangeError);
  },
);
