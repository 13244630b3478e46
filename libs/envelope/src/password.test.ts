import fc from 'fast-check';
import { expect, test } from 'vitest';
import { envelopeLimits as limits } from './limits.ts';
import {
  DerivedKeys,
  decodePasswordParameters,
  defaultPasswordCost,
  derivePasswordKey,
  encodePasswordParameters,
  findOutOfBounds,
  newPasswordParameters,
  type PasswordParameters,
  passwordBytes,
  requirePassphraseLength,
  TooManyDerivations,
} from './password.ts';
import { Corrupt } from './sealed.ts';

const cheap = { memoryKib: 8 * 1024, passes: 1, parallelism: 1 };
const parameters: PasswordParameters = { ...cheap, salt: Buffer.alloc(16, 1) };

test('the key depends on the password, the salt and every parameter', async () => {
  const keys = await Promise.all([
    derivePasswordKey('one', parameters),
    derivePasswordKey('two', parameters),
    derivePasswordKey('one', { ...parameters, salt: Buffer.alloc(16, 2) }),
    derivePasswordKey('one', { ...parameters, passes: 2 }),
    derivePasswordKey('one', { ...parameters, memoryKib: 9 * 1024 }),
    derivePasswordKey('one', { ...parameters, parallelism: 2 }),
  ]);
  expect(new Set(keys.map((key) => key.bytes.toString('hex'))).size).toBe(keys.length);
  expect((await derivePasswordKey('one', parameters)).equals(keys[0] as never)).toBe(true);
});

test('a password is the same however its letters are composed', async () => {
  const composed = await derivePasswordKey('caf\u00e9', parameters);
  expect((await derivePasswordKey('cafe\u0301', parameters)).equals(composed)).toBe(true);
  expect((await derivePasswordKey(Buffer.from('caf\u00e9'), parameters)).equals(composed)).toBe(
    true,
  );
});

test('the caller keeps its password, the copies are zeroed', async () => {
  const password = Buffer.from('a password');
  await derivePasswordKey(password, parameters);
  expect(password.toString()).toBe('a password');
  const copy = passwordBytes(password);
  copy.fill(0);
  expect(password.toString()).toBe('a password');
});

test('an empty and an endless password are refused', async () => {
  await expect(derivePasswordKey('', parameters)).rejects.toThrow(RangeError);
  await expect(derivePasswordKey('x'.repeat(4_097), parameters)).rejects.toThrow(RangeError);
});

test('parameters come back from their bytes, wherever those lie', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: limits.minArgonMemoryKib, max: limits.maxArgonMemoryKib }),
      fc.integer({ min: 1, max: 16 }),
      fc.integer({ min: 1, max: 16 }),
      fc.uint8Array({ minLength: 16, maxLength: 64 }),
      fc.uint8Array({ maxLength: 20 }),
      (memoryKib, passes, parallelism, salt, more) => {
        const made = { memoryKib, passes, parallelism, salt: Buffer.from(salt) };
        fc.pre(findOutOfBounds(made) === undefined);
        const encoded = encodePasswordParameters(made);
        const decoded = decodePasswordParameters(Buffer.concat([encoded, more]));
        expect(decoded).toEqual({ parameters: made, length: encoded.length });
      },
    ),
  );
});

test('a header may not ask for more than the machine has', () => {
  const encoded = encodePasswordParameters(parameters);
  const attempts: [number, number, 1 | 4][] = [
    [1, 2 ** 32 - 1, 4],
    [1, limits.maxArgonMemoryKib + 1, 4],
    [1, limits.minArgonMemoryKib - 1, 4],
    [1, 0, 4],
    [5, 2 ** 32 - 1, 4],
    [5, limits.maxArgonPasses + 1, 4],
    [5, 0, 4],
    [9, 0, 1],
    [9, limits.maxArgonParallelism + 1, 1],
    [10, 15, 1],
    [10, 65, 1],
    [0, 0, 1],
    [0, 2, 1],
  ];
  for (const [offset, value, length] of attempts) {
    const changed = Buffer.concat([encoded, Buffer.alloc(80)]);
    changed.writeUIntBE(value, offset, length);
    expect(() => decodePasswordParameters(changed)).toThrow(Corrupt);
  }
  const both = Buffer.from(encoded);
  both.writeUInt32BE(limits.maxArgonMemoryKib, 1);
  both.writeUInt32BE(limits.maxArgonPasses, 5);
  expect(() => decodePasswordParameters(both)).toThrow(Corrupt);
});

test('cut at every length they are refused', () => {
  const encoded = encodePasswordParameters(parameters);
  for (let length = 0; length < encoded.length; length += 1) {
    expect(() => decodePasswordParameters(encoded.subarray(0, length))).toThrow(Corrupt);
  }
});

test('the default cost is within the bounds and has a fresh salt each time', () => {
  const [first, second] = [newPasswordParameters(), newPasswordParameters()];
  expect(findOutOfBounds(first)).toBeUndefined();
  expect(first.memoryKib).toBe(defaultPasswordCost.memoryKib);
  expect(Buffer.from(first.salt).equals(second.salt)).toBe(false);
  expect(() => newPasswordParameters({ ...cheap, memoryKib: 16 })).toThrow(RangeError);
});

test('many derivations at once wait in line and all come out right', async () => {
  const one = await derivePasswordKey('one', parameters);
  const keys = await Promise.all(
    Array.from({ length: 12 }, () => derivePasswordKey('one', parameters)),
  );
  expect(keys.every((key) => key.equals(one))).toBe(true);
  await expect(derivePasswordKey('', parameters)).rejects.toThrow();
  expect((await derivePasswordKey('one', parameters)).equals(one)).toBe(true);
});

test('a passphrase is long enough in letters, not in bytes', () => {
  expect(() => requirePassphraseLength('twelve chars')).not.toThrow();
  expect(() => requirePassphraseLength('eleven char')).toThrow(RangeError);
  expect(() => requirePassphraseLength('é'.repeat(11))).toThrow(RangeError);
});

test('a line of derivations that is full is no place to wait', async () => {
  const most = limits.maxConcurrentDerivations + limits.maxWaitingDerivations;
  const asked = Array.from({ length: most + 3 }, () => derivePasswordKey('one', parameters));
  const settled = await Promise.allSettled(asked);
  const refused = settled.filter(({ status }) => status === 'rejected');
  expect(refused).toHaveLength(3);
  for (const each of refused) {
    expect((each as PromiseRejectedResult).reason).toBeInstanceOf(TooManyDerivations);
  }
  // And the line moves on.
  expect((await derivePasswordKey('one', parameters)).isWiped).toBe(false);
});

test('what was derived is remembered until it is wiped, also where nothing more can be derived', async () => {
  const derived = new DerivedKeys();
  const first = await derived.derive('one', parameters);
  const most = limits.maxConcurrentDerivations + limits.maxWaitingDerivations;
  const others = Array.from({ length: most }, () => derivePasswordKey('two', parameters));
  await expect(derivePasswordKey('one', parameters)).rejects.toThrow(TooManyDerivations);
  const second = await derived.derive('one', parameters);
  expect(second.equals(first)).toBe(true);
  second.wipe();
  expect((await derived.derive('one', parameters)).equals(first)).toBe(true);
  await Promise.all(others);
  derived[Symbol.dispose]();
  expect((await derived.derive('one', parameters)).equals(first)).toBe(true);
});
