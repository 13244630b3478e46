import { randomBytes } from 'node:crypto';
import { InstallationKey } from '@keystead/access/sealing';
import { newUuid } from '@keystead/contracts/ids';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { newRefreshToken, openRefreshToken } from './refresh-token.ts';

/** Any bytes as text: controls, NUL and all. */
const anyText = fc
  .uint8Array({ maxLength: 120 })
  .map((bytes) => Buffer.from(bytes).toString('latin1'));

const key = new InstallationKey(randomBytes(32));
const session = () => ({ organizationId: newUuid(), sessionId: newUuid() });

test('a refresh token names its session', () => {
  const named = session();
  expect(openRefreshToken(key, newRefreshToken(key, named).text)).toEqual(named);
});

test('a refresh token with any character changed is not ours', () => {
  const { text } = newRefreshToken(key, session());
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  fc.assert(
    fc.property(
      fc.nat(text.length - 1),
      fc.constantFrom(...alphabet, '=', ' ', '\0'),
      (index, character) => {
        fc.pre(text[index] !== character);
        const changed = `${text.slice(0, index)}${character}${text.slice(index + 1)}`;
        expect(openRefreshToken(key, changed)).toBeUndefined();
      },
    ),
  );
});

test('a refresh token of another installation is not ours', () => {
  const other = new InstallationKey(randomBytes(32));
  expect(openRefreshToken(key, newRefreshToken(other, session()).text)).toBeUndefined();
});

test('any text is answered without throwing', () => {
  fc.assert(
    fc.property(anyText, (text) => {
      expect(openRefreshToken(key, `ksr_${text}`)).toBeUndefined();
      expect(openRefreshToken(key, text)).toBeUndefined();
    }),
  );
});
