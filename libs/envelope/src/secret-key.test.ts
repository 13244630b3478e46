import { inspect } from 'node:util';
import { expect, test } from 'vitest';
import { deriveKey, generateKey, KeyWiped, SecretKey, wrapKey } from './keys.ts';
import { open, seal } from './sealed.ts';

test('wiping zeroes the bytes, wherever they are looked at, and nothing works after', () => {
  const key = generateKey();
  const view = key.bytes;
  const sealed = seal(key, Buffer.from('text'), Buffer.alloc(0));
  expect(view.some((byte) => byte !== 0)).toBe(true);
  key.wipe();
  key.wipe();
  expect(key.isWiped).toBe(true);
  expect(view.every((byte) => byte === 0)).toBe(true);
  for (const use of [
    () => key.bytes,
    () => key.object,
    () => seal(key, Buffer.from('text'), Buffer.alloc(0)),
    () => open(key, sealed, Buffer.alloc(0)),
    () => wrapKey(generateKey(), key, { purpose: 'x', id: 'y', version: 1 }),
    () => deriveKey(key, 'info'),
  ]) {
    expect(use).toThrow(KeyWiped);
  }
});

test('the end of a scope wipes', () => {
  let view: Buffer;
  {
    using key = generateKey();
    view = key.bytes;
  }
  expect(view.every((byte) => byte === 0)).toBe(true);
});

test('taking bytes zeroes where they came from, copying does not', () => {
  const source = Buffer.alloc(32, 5);
  const copied = SecretKey.from(source);
  expect(source[0]).toBe(5);
  const taken = SecretKey.take(source);
  expect(source.every((byte) => byte === 0)).toBe(true);
  expect(taken.equals(copied)).toBe(true);
  copied.wipe();
  expect(taken.bytes[0]).toBe(5);
});

test('bytes of another length are no key, and are zeroed where they were given away', () => {
  for (const length of [0, 16, 31, 33, 64]) {
    const source = Buffer.alloc(length, 5);
    expect(() => SecretKey.from(source)).toThrow(RangeError);
    expect(source.every((byte) => byte === 5)).toBe(true);
    expect(() => SecretKey.take(source)).toThrow(RangeError);
    expect(source.every((byte) => byte === 0)).toBe(true);
  }
});

test('the key has memory of its own: wiping it leaves neighbours alone', () => {
  const keys = Array.from({ length: 100 }, () => generateKey());
  const buffers = new Set(keys.map((key) => key.bytes.buffer));
  expect(buffers.size).toBe(100);
});

test('no way of printing shows the key', () => {
  const key = SecretKey.from(Buffer.from('0123456789abcdef0123456789ABCDEF'));
  // What comes from the key by using it is not shown either.
  expect(key.object.type).toBe('secret');
  expect(key.commitment).toHaveLength(32);
  const shown = [
    String(key),
    `${key}`,
    JSON.stringify({ key, list: [key] }),
    inspect(key, { depth: 20, showHidden: true, getters: true }),
    inspect({ deep: { key } }, { depth: 20 }),
    inspect(new Map([[key, key]])),
    Object.keys(key).join(),
    JSON.stringify(Object.entries(Object.getOwnPropertyDescriptors(key))),
  ].join('\n');
  expect(shown).not.toMatch(/0123456789/);
  expect(shown).not.toContain(Buffer.from('0123456789abcdef').toString('hex'));
  expect(shown).not.toContain(Buffer.from('0123456789abcdef').toString('base64').slice(0, 12));
  expect(shown).not.toMatch(/30, ?31, ?32|48, ?49, ?50/);
});

test('two keys are equal by their bytes', () => {
  const key = generateKey();
  expect(key.equals(SecretKey.from(key.bytes))).toBe(true);
  expect(key.equals(generateKey())).toBe(false);
});
