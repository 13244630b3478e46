import fc from 'fast-check';
import { expect, test } from 'vitest';
import { anyNameMatcher, nameMatcher } from './name-pattern.ts';

/** The same, as slow and plain as can be. */
function matchesPlainly(pattern: string, name: string): boolean {
  if (pattern === '') return name === '';
  if (pattern.startsWith('*')) {
    const rest = pattern.slice(1);
    return Array.from({ length: name.length + 1 }, (_, index) => index).some((index) =>
      matchesPlainly(rest, name.slice(index)),
    );
  }
  return name.startsWith(pattern[0] ?? '') && matchesPlainly(pattern.slice(1), name.slice(1));
}

const letters = fc.constantFrom('a', 'b', '/', '.');
const patterns = fc.string({ unit: fc.oneof(letters, fc.constant('*')), maxLength: 8 });
const names = fc.string({ unit: letters, maxLength: 10 });

test('a pattern matches what it says, as a plain reading of it does', () => {
  fc.assert(
    fc.property(patterns, names, (pattern, name) => {
      expect(nameMatcher(pattern)(name), `${pattern} ${name}`).toBe(matchesPlainly(pattern, name));
    }),
    { numRuns: 5_000 },
  );
});

test('several patterns match where one does', () => {
  fc.assert(
    fc.property(fc.array(patterns, { maxLength: 4 }), names, (some, name) => {
      expect(anyNameMatcher(some)(name)).toBe(
        some.some((pattern) => matchesPlainly(pattern, name)),
      );
    }),
  );
});

test('no pattern takes long', () => {
  const matches = nameMatcher(`${'a*'.repeat(8)}b`);
  const name = 'a'.repeat(255);
  const startedMs = performance.now();
  for (let round = 0; round < 10_000; round += 1) expect(matches(name)).toBe(false);
  expect(performance.now() - startedMs).toBeLessThan(2_000);
});
