import { randomFillSync } from 'node:crypto';
import { expect, test } from 'vitest';
import { PasswordKeys } from './password-keys.ts';
import { newDerivation } from './record-format.ts';

const derivation = newDerivation(
  'record',
  { memoryKib: 8_192, passes: 1, parallelism: 1 },
  (bytes) => void randomFillSync(bytes),
);

test('guesses take no place from keys that have opened something', async () => {
  const keys = new PasswordKeys({ maxEntries: 2, ttlMs: 60_000 });
  for (const password of ['one', 'two']) keys.proved(await keys.keyFor(password, derivation));
  const [one, two] = [keys.known('one', derivation), keys.known('two', derivation)];
  for (let guess = 0; guess < 5; guess += 1) await keys.keyFor(`guess ${guess}`, derivation);
  expect(keys.known('one', derivation)).toBe(one);
  expect(keys.known('two', derivation)).toBe(two);
  expect(one).toBeDefined();
  expect(keys.known('guess 0', derivation)).toBeUndefined();
  // What was proved last stays, and the oldest of the others goes.
  keys.proved(await keys.keyFor('three', derivation));
  expect(keys.known('one', derivation)).toBeUndefined();
  expect(keys.known('three', derivation)).toBeDefined();
  keys.clear();
  expect(keys.known('three', derivation)).toBeUndefined();
});
