import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatHash, hashPassword, isOutgrown, matchesHash, parseHash } from './password-hash.ts';

/** Any bytes as text: controls, NUL and all. */
const anyText = fc
  .uint8Array({ maxLength: 120 })
  .map((bytes) => Buffer.from(bytes).toString('latin1'));

const cheap = { memoryKib: 64, passes: 1, parallelism: 1 };

test('a password matches its own hash and no other does', async () => {
  const passwords = anyText;
  await fc.assert(
    fc.asyncProperty(passwords, passwords, async (password, other) => {
      const hash = parseHash(await hashPassword(password, cheap));
      if (!hash) throw new Error('not a hash');
      expect(await matchesHash(password, hash)).toBe(true);
      const same = Buffer.from(other.normalize('NFC')).equals(
        Buffer.from(password.normalize('NFC')),
      );
      expect(await matchesHash(other, hash)).toBe(same);
    }),
    { numRuns: 20 },
  );
});

test('the same characters composed otherwise are the same password', async () => {
  const hash = parseHash(await hashPassword('caf\u00e9', cheap));
  if (!hash) throw new Error('not a hash');
  expect(await matchesHash('cafe\u0301', hash)).toBe(true);
});

test('two hashes of one password differ', async () => {
  expect(await hashPassword('same', cheap)).not.toBe(await hashPassword('same', cheap));
});

test('a hash is Argon2id with at least 19 MiB and two passes, in the PHC format', async () => {
  const text = await hashPassword('correct horse');
  expect(text).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/);
  const hash = parseHash(text);
  expect(hash && formatHash(hash)).toBe(text);
});

test('a hash agrees with the reference implementation of Argon2', async () => {
  // echo -n password | argon2 somesalt -id -t 2 -k 65536 -p 1 -l 32
  const reference = parseHash(
    '$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
  );
  if (!reference) throw new Error('not a hash');
  expect(await matchesHash('password', reference)).toBe(true);
});

test('what is no hash, or would cost too much, is not computed', () => {
  const salt = 'c29tZXNhbHQ';
  const tag = 'CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc';
  for (const text of [
    '',
    'plain',
    `$argon2i$v=19$m=65536,t=2,p=1$${salt}$${tag}`,
    `$argon2id$v=16$m=65536,t=2,p=1$${salt}$${tag}`,
    `$argon2id$v=19$m=9999999,t=2,p=1$${salt}$${tag}`,
    `$argon2id$v=19$m=65536,t=200,p=1$${salt}$${tag}`,
    `$argon2id$v=19$m=4,t=2,p=1$${salt}$${tag}`,
    `$argon2id$v=19$m=65536,t=2,p=1$${salt}$${tag}\n`,
  ]) {
    expect(parseHash(text), text).toBeUndefined();
  }
});

test('a hash is outgrown when any of its parameters is smaller than today', () => {
  const wanted = { memoryKib: 100, passes: 2, parallelism: 1 };
  const made = (parameters: typeof wanted) => ({
    parameters,
    salt: Buffer.alloc(16),
    tag: Buffer.alloc(32),
  });
  expect(isOutgrown(made(wanted), wanted)).toBe(false);
  expect(isOutgrown(made({ ...wanted, memoryKib: 200 }), wanted)).toBe(false);
  expect(isOutgrown(made({ ...wanted, memoryKib: 99 }), wanted)).toBe(true);
  expect(isOutgrown(made({ ...wanted, passes: 1 }), wanted)).toBe(true);
});
