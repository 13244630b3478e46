import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  digestOf,
  isSameDigest,
  isWellFormed,
  looksLikeApiKey,
  newApiKey,
  prefixOf,
} from './api-key-text.ts';

test('a new key is well-formed, names itself, and is known by its digest', () => {
  for (let round = 0; round < 200; round += 1) {
    const { key, prefix, digest } = newApiKey();
    expect(key).toMatch(/^ksv_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}$/);
    expect(looksLikeApiKey(key) && isWellFormed(key)).toBe(true);
    expect(prefixOf(key)).toBe(prefix);
    expect(isSameDigest(digest, digestOf(key))).toBe(true);
  }
});

test('a slip of the keyboard is told from a key', () => {
  const { key } = newApiKey();
  fc.assert(
    fc.property(
      fc.nat(key.length - 1),
      fc.constantFrom(...'0aZz_-'.split('')),
      (index, character) => {
        const typed = key.slice(0, index) + character + key.slice(index + 1);
        expect(isWellFormed(typed)).toBe(typed === key);
      },
    ),
  );
});

test('no other text is taken for a key', () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 80 }), (text) => {
      expect(isWellFormed(text)).toBe(false);
    }),
  );
});

test('every character of a key is as likely as any other', () => {
  const counts = new Map<string, number>();
  for (let round = 0; round < 1_000; round += 1) {
    for (const character of newApiKey().key.slice(17, 60)) {
      counts.set(character, (counts.get(character) ?? 0) + 1);
    }
  }
  const expected = (1_000 * 43) / 62;
  expect(counts.size).toBe(62);
  // Six standard deviations: once in hundreds of millions of runs.
  for (const count of counts.values()) {
    expect(Math.abs(count - expected)).toBeLessThan(6 * Math.sqrt(expected));
  }
});
