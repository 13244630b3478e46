/**
 * Values by rules: every value that the rules allow is equally likely, also where some classes are
 * required. First how many characters each class gets is drawn, weighted with the number of values of
 * that shape; then their places; then the characters.
 */
import { randomBytes } from 'node:crypto';
import {
  type CharacterClass,
  characterClasses,
  type GenerationRules,
} from '@keystead/contracts/agent-api/rotation';

export type Random = (size: number) => Uint8Array;

const classCharacters: Record<CharacterClass, string> = {
  lower: 'abcdefghijklmnopqrstuvwxyz',
  upper: 'ABCDEFGHIJKLMNOPQRSTUVWXYZ',
  digits: '0123456789',
  symbols: '!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~',
};

/** A value of fewer possibilities would be found by trying. */
const possibilitiesMinBits = 40;

interface Part {
  characters: string;
  atLeast: number;
}

/** What is wrong with rules, or undefined. */
export function problemOfRules(rules: GenerationRules): string | undefined {
  const parts = partsOf(rules);
  if (parts.length === 0) {
    return 'the excluded characters leave none to take';
  }
  for (const name of characterClasses) {
    const wanted = rules.required[name] ?? 0;
    const isThere = parts.some(({ characters }) => belongsTo(characters, name));
    if (wanted > 0 && !isThere) return `${name} are required and none may occur`;
  }
  if (parts.reduce((sum, { atLeast }) => sum + atLeast, 0) > rules.length) {
    return `more characters are required than the length of ${rules.length}`;
  }
  const bits = possibilities(parts, rules.length).toString(2).length - 1;
  if (bits < possibilitiesMinBits) {
    return `only about 2^${bits} values are possible; at least 2^${possibilitiesMinBits} are needed`;
  }
  return undefined;
}

/** Prepared once for many values. @throws RangeError where {@link problemOfRules} finds something */
export function valueGenerator(rules: GenerationRules): (random?: Random) => string {
  const problem = problemOfRules(rules);
  if (problem !== undefined) throw new RangeError(problem);
  const parts = partsOf(rules);
  const ways = waysOf(parts, rules.length);
  return (random = randomBytes) => {
    const draw = drawer(random, rules.length);
    const shape: Part[] = drawCounts(parts, ways, rules.length, random).flatMap((count, index) =>
      Array.from({ length: count }, () => parts[index] as Part),
    );
    // Places matter only where there is more than one part.
    for (let last = parts.length === 1 ? 0 : shape.length - 1; last > 0; last -= 1) {
      const other = draw(last + 1);
      [shape[last], shape[other]] = [shape[other] as Part, shape[last] as Part];
    }
    return shape.map(({ characters }) => characters[draw(characters.length)]).join('');
  };
}

/** As {@link valueGenerator}, for one value. */
export function generateValue(rules: GenerationRules, random?: Random): string {
  return valueGenerator(rules)(random);
}

/** Disjoint: each character belongs to one part. What nothing is required of is one part together. */
function partsOf(rules: GenerationRules): Part[] {
  const excluded = new Set(rules.excluded);
  const taken = new Set(
    (rules.alphabet ?? rules.classes.map((name) => classCharacters[name]).join('')).split(''),
  );
  const allowed = [...taken].filter((character) => !excluded.has(character));
  const required = characterClasses
    .map((name) => ({
      characters: allowed.filter((character) => classCharacters[name].includes(character)).join(''),
      atLeast: rules.required[name] ?? 0,
    }))
    .filter(({ characters, atLeast }) => characters !== '' && atLeast > 0);
  const rest = allowed.filter(
    (character) => !required.some(({ characters }) => characters.includes(character)),
  );
  return rest.length === 0 ? required : [...required, { characters: rest.join(''), atLeast: 0 }];
}

function belongsTo(characters: string, name: CharacterClass): boolean {
  return classCharacters[name].includes(characters[0] ?? ' ');
}

/** `ways[i][n]`: how many values of n characters there are of the parts from i on. */
function waysOf(parts: readonly Part[], length: number): bigint[][] {
  let after: bigint[] = Array.from({ length: length + 1 }, (_, size) => (size === 0 ? 1n : 0n));
  const ways = [after];
  for (const part of parts.toReversed()) {
    after = Array.from({ length: length + 1 }, (_, size) => sum(waysByCount(part, size, after)));
    ways.unshift(after);
  }
  return ways;
}

/** For each number of characters that a part may get, in how many ways the places are filled. */
function waysByCount(part: Part, size: number, after: readonly bigint[]): bigint[] {
  const kinds = BigInt(part.characters.length);
  const result: bigint[] = [];
  // binomial(size, count) * kinds^count, from one count to the next.
  let filled = 1n;
  for (let count = 0; count <= size; count += 1) {
    result.push(count < part.atLeast ? 0n : filled * (after[size - count] ?? 0n));
    filled = (filled * kinds * BigInt(size - count)) / BigInt(count + 1);
  }
  return result;
}

function possibilities(parts: readonly Part[], length: number): bigint {
  return waysOf(parts, length)[0]?.[length] ?? 0n;
}

function drawCounts(
  parts: readonly Part[],
  ways: readonly bigint[][],
  length: number,
  random: Random,
): number[] {
  if (parts.length === 1) return [length];
  let left = length;
  return parts.map((part, index) => {
    const byCount = waysByCount(part, left, ways[index + 1] ?? []);
    let rest = belowBig(sum(byCount), random);
    const count = byCount.findIndex((number) => {
      if (rest < number) return true;
      rest -= number;
      return false;
    });
    left -= count;
    return count;
  });
}

const sum = (numbers: readonly bigint[]) => numbers.reduce((one, other) => one + other, 0n);

/** Draws 0 up to and without a limit of at most 2^16, each equally likely. */
function drawer(random: Random, count: number): (limit: number) => number {
  let bytes = random(4 * count);
  let position = 0;
  const next = () => {
    if (position + 2 > bytes.length) {
      bytes = random(64);
      position = 0;
    }
    position += 2;
    return (bytes[position - 2] ?? 0) * 256 + (bytes[position - 1] ?? 0);
  };
  return (limit) => {
    const fair = 65_536 - (65_536 % limit);
    for (;;) {
      const drawn = next();
      if (drawn < fair) return drawn % limit;
    }
  };
}

function belowBig(limit: bigint, random: Random): bigint {
  const bits = limit.toString(2).length;
  const size = Math.ceil(bits / 8);
  const surplus = BigInt(size * 8 - bits);
  for (;;) {
    const drawn = BigInt(`0x${Buffer.from(random(size)).toString('hex')}`) >> surplus;
    if (drawn < limit) return drawn;
  }
}
