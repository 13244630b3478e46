import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { InstallationKey } from './sealing.ts';

const key = new InstallationKey(randomBytes(32));

test('what was sealed opens for the same use, binding and salt, and for nothing else', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 500 }), (bytes) => {
      const sealed = key.seal('use', 'bound', Buffer.from(bytes), 'salt');
      expect(key.open('use', 'bound', sealed, 'salt').equals(Buffer.from(bytes))).toBe(true);
      expect(() => key.open('other', 'bound', sealed, 'salt')).toThrow();
      expect(() => key.open('use', 'other', sealed, 'salt')).toThrow();
      expect(() => key.open('use', 'bound', sealed, 'other')).toThrow();
      const elsewhere = new InstallationKey(randomBytes(32));
      expect(() => elsewhere.open('use', 'bound', sealed, 'salt')).toThrow();
    }),
  );
});

test('a changed bit or a missing end is noticed', () => {
  const sealed = key.seal('use', 'bound', 'a secret of some length');
  fc.assert(
    fc.property(fc.nat(sealed.length - 1), fc.nat(7), (index, bit) => {
      const changed = Buffer.from(sealed);
      changed[index] = (changed[index] as number) ^ (1 << bit);
      expect(() => key.open('use', 'bound', changed)).toThrow();
    }),
  );
  for (let length = 0; length < sealed.length; length += 1) {
    expect(() => key.open('use', 'bound', sealed.subarray(0, length))).toThrow();
  }
});

test('sealing twice looks different', () => {
  expect(key.seal('use', 'bound', 'same').equals(key.seal('use', 'bound', 'same'))).toBe(false);
});

test('a key that is a sample, or no key, is refused', () => {
  expect(() => new InstallationKey(Buffer.alloc(32))).toThrow('sample');
  expect(() => new InstallationKey(Buffer.alloc(32, 7))).toThrow('sample');
  expect(() => new InstallationKey(randomBytes(16))).toThrow('32 bytes');
});
