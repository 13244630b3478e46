import { generationRules } from '@keystead/contracts/agent-api/rotation';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { generateValue, problemOfRules, valueGenerator } from './generated-value.ts';

const rules = (given: object) => generationRules.parse(given);
const chiSquare = (counts: readonly number[], expected: number) =>
  counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);

const anyRules = fc.record({
  length: fc.integer({ min: 4, max: 64 }),
  alphabet: fc.option(fc.string({ minLength: 2, maxLength: 95, unit: 'grapheme-ascii' }), {
    nil: undefined,
  }),
  classes: fc.uniqueArray(fc.constantFrom('lower', 'upper', 'digits', 'symbols'), { minLength: 1 }),
  required: fc.dictionary(fc.constantFrom('lower', 'upper', 'digits', 'symbols'), fc.nat(6)),
  excluded: fc.string({ maxLength: 20, unit: 'grapheme-ascii' }),
});

test('a generated value keeps its rules, or they are refused with what is wrong', () => {
  let generated = 0;
  fc.assert(
    fc.property(anyRules, (given) => {
      const parsed = rules(given);
      const problem = problemOfRules(parsed);
      if (problem !== undefined) {
        expect(() => generateValue(parsed)).toThrow(problem);
        return;
      }
      generated += 1;
      const value = generateValue(parsed);
      expect(value).toHaveLength(parsed.length);
      const patterns = {
        lower: /[a-z]/g,
        upper: /[A-Z]/g,
        digits: /[0-9]/g,
        symbols: /[!-/:-@[-`{-~]/g,
      };
      for (const [name, atLeast] of Object.entries(parsed.required)) {
        const found = value.match(patterns[name as keyof typeof patterns])?.length ?? 0;
        expect(found).toBeGreaterThanOrEqual(atLeast ?? 0);
      }
      for (const character of value) {
        expect(parsed.excluded).not.toContain(character);
        if (parsed.alphabet !== undefined) expect(parsed.alphabet).toContain(character);
        else
          expect(
            parsed.classes.some(
              (name) => patterns[name].test(character) || character.match(patterns[name]),
            ),
          ).toBe(true);
      }
    }),
    { numRuns: 400 },
  );
  expect(generated).toBeGreaterThan(100);
});

test('characters are equally likely at every place, without the bias of a remainder', () => {
  // 62 does not divide 256 or 65,536: a remainder would favour the first characters.
  const parsed = rules({ length: 100 });
  const generate = valueGenerator(parsed);
  const counts = new Map<string, number>();
  for (let round = 0; round < 1_000; round += 1) {
    for (const character of generate()) {
      counts.set(character, (counts.get(character) ?? 0) + 1);
    }
  }
  expect(counts.size).toBe(62);
  // 61 degrees of freedom: above 130 comes about once in a million runs.
  expect(chiSquare([...counts.values()], 100_000 / 62)).toBeLessThan(130);
});

test('with required classes every allowed value is still equally likely', () => {
  // Of two letters and two digits, at least one digit: long values make single ones rare, so how many
  // digits there are is counted. Forced characters would make few digits too likely.
  const parsed = rules({ length: 40, alphabet: 'ab01', required: { digits: 1, lower: 1 } });
  const fewDigits = rules({
    length: 41,
    alphabet: 'abcdefghijklmnopqrstuvwxyz0',
    required: { digits: 1 },
  });
  const [halves, few] = [valueGenerator(parsed), valueGenerator(fewDigits)];
  let digits = 0;
  let single = 0;
  const rounds = 2_000;
  for (let round = 0; round < rounds; round += 1) {
    digits += halves().match(/\d/g)?.length ?? 0;
    if ((few().match(/\d/g)?.length ?? 0) === 1) single += 1;
  }
  expect(Math.abs(digits / rounds - 20)).toBeLessThan(0.5);
  // P(one digit | at least one) = n p q^(n-1) / (1 - q^n), with p = 1/27.
  const [n, p] = [41, 1 / 27];
  const expected = (n * p * (1 - p) ** (n - 1)) / (1 - (1 - p) ** n);
  const deviation = Math.sqrt((expected * (1 - expected)) / rounds);
  expect(Math.abs(single / rounds - expected)).toBeLessThan(5 * deviation);
});

test('rules that allow too little are refused', () => {
  expect(problemOfRules(rules({ length: 6, classes: ['digits'] }))).toMatch(/only about 2\^19/);
  expect(problemOfRules(rules({ classes: ['digits'], excluded: '0123456789' }))).toMatch(
    /leave none/,
  );
  expect(problemOfRules(rules({ length: 8, required: { lower: 5, digits: 4 } }))).toMatch(
    /more characters/,
  );
  expect(problemOfRules(rules({ required: { symbols: 1 } }))).toMatch(/symbols are required/);
  expect(problemOfRules(rules({ length: 256, required: { digits: 250 } }))).toBeUndefined();
});
