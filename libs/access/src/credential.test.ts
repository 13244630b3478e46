import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  type CredentialKind,
  credentialPrefixes,
  hashCredential,
  isCredential,
  newCredential,
} from './credential.ts';

/** Any bytes as text: controls, NUL and all. */
const anyText = fc
  .uint8Array({ maxLength: 120 })
  .map((bytes) => Buffer.from(bytes).toString('latin1'));

const kinds = Object.keys(credentialPrefixes) as CredentialKind[];
const characters = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

test('a credential is recognized as its own kind and no other', () => {
  for (const kind of kinds) {
    const { text, hash, prefix } = newCredential(kind);
    expect(text).toMatch(new RegExp(`^${credentialPrefixes[kind]}[0-9A-Za-z]{33}$`));
    expect(text.startsWith(prefix)).toBe(true);
    expect(hash.equals(hashCredential(text))).toBe(true);
    expect(kinds.filter((other) => isCredential(other, text))).toEqual([kind]);
  }
});

test('a mistyped character is noticed without a look-up', () => {
  fc.assert(
    fc.property(fc.nat(32), fc.constantFrom(...characters), (place, character) => {
      const { text } = newCredential('apiKey');
      const index = credentialPrefixes.apiKey.length + place;
      fc.pre(text[index] !== character);
      const mistyped = `${text.slice(0, index)}${character}${text.slice(index + 1)}`;
      expect(isCredential('apiKey', mistyped)).toBe(false);
    }),
  );
});

test('the smallest and the largest secret have the same length', () => {
  for (const byte of [0, 255]) {
    const { text } = newCredential('apiKey', (length) => Buffer.alloc(length, byte));
    expect(isCredential('apiKey', text)).toBe(true);
  }
});

test('any other text is no credential', () => {
  fc.assert(
    fc.property(fc.constantFrom(...kinds), anyText, (kind, text) => {
      expect(isCredential(kind, text)).toBe(false);
      expect(isCredential(kind, `${credentialPrefixes[kind]}${text}`)).toBe(false);
    }),
  );
});

test('what is shown of a credential leaves its secret unknown', () => {
  const { text, prefix } = newCredential('apiKey');
  expect(text.length - prefix.length).toBeGreaterThanOrEqual(27);
});
