import { argon2Sync, createDecipheriv, createHmac, hash, hkdfSync, randomBytes } from 'node:crypto';
import { systemRandom } from '@keystead/envelope/keys';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { PasswordKey } from './password-key.ts';
import { makeKey, PasswordKeys } from './password-keys.ts';
import {
  Corrupt,
  decodeDerivation,
  encodeDerivation,
  isIntact,
  newDerivation,
  openRecord,
  recordOverheadBytes,
  sealRecord,
  WrongKey,
} from './record-format.ts';

const cheap = { memoryKib: 8 * 1024, passes: 1, parallelism: 1 };
const place = { id: 'rec_01h455vb4pex5vsknk084sn02q', token: 'tok_abcdefgh' };
const key = new PasswordKey(randomBytes(32));
const derivation = newDerivation('vault', cheap, systemRandom);

test('HKDF-Expand agrees with HKDF of Node, whose key is the extracted one', () => {
  const info = Buffer.from('keystead vault record key v1\0');
  for (const length of [16, 32, 64, 128]) {
    const [input, extractSalt, salt] = [randomBytes(length), randomBytes(16), randomBytes(16)];
    const extracted = createHmac('sha512', extractSalt).update(input).digest();
    const expected = hkdfSync('sha512', input, extractSalt, Buffer.concat([info, salt]), 64);
    expect(new PasswordKey(extracted).derive(salt)).toEqual(Buffer.from(expected));
  }
});

test('a record is readable by its description alone, without this library', async () => {
  const password = 'correct horse battery staple';
  const stored = sealRecord(
    await makeKey(password, derivation),
    derivation,
    place,
    Buffer.from('a value'),
  );
  const at = (start: number, length: number) => stored.subarray(start, start + length);
  expect(at(0, 4).toString('latin1')).toBe('KV\u0001\u0000');
  const passwordKey = argon2Sync('argon2id', {
    message: Buffer.from(password),
    nonce: at(10, 16),
    memory: stored.readUInt32BE(4),
    passes: stored[8] as number,
    parallelism: stored[9] as number,
    tagLength: 32,
  });
  const derived = createHmac('sha512', passwordKey)
    .update('keystead vault record key v1\0')
    .update(at(26, 16))
    .update(Buffer.from([1]))
    .digest();
  expect(at(58, 32)).toEqual(derived.subarray(32));
  const length = (text: string) => Buffer.from([0, text.length]);
  const bound = Buffer.concat([
    Buffer.from('keystead vault record v1\0'),
    ...[length(place.id), Buffer.from(place.id), length(place.token), Buffer.from(place.token)],
    at(0, 42),
    at(58, 32),
  ]);
  const decipher = createDecipheriv('aes-256-gcm', derived.subarray(0, 32), at(90, 12), {
    authTagLength: 16,
  });
  decipher.setAAD(bound);
  decipher.setAuthTag(stored.subarray(-16));
  const value = Buffer.concat([decipher.update(stored.subarray(102, -16)), decipher.final()]);
  expect(value.toString()).toBe('a value');
  const checked = hash('sha256', Buffer.concat([bound, stored.subarray(90)]), 'buffer');
  expect(at(42, 16)).toEqual(checked.subarray(0, 16));
});

test('a record that was stored long ago still opens', async () => {
  // Version 1, made once and kept here: a change of the format shows.
  const stored = Buffer.from(
    'S1YBAAAAIAABAZJctgK+P7mPUCKkMmW11FA40D3SIdXcilRvY2jPZ0ASpAqZMRnrf0dlcpNJNodsLvGgX6RL/LD5hBqukK6RPjWZSP2m4iVwg676FYlubrdUusEdIzB88wxl+GXpFOfOqk3byGgjVnlw9Hi5oJjqTY3keMXa53j5iuszx6U=',
    'base64',
  );
  const opened = openRecord(await makeKey('the password of old', stored.subarray(0, 26)), stored, {
    id: 'rec_01h455vb4pex5vsknk084sn02q',
    token: 'tok_kept',
  });
  expect(opened.toString()).toBe('the value of old');
});

test('any value of any length comes back as it was', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 6_000 }), (value) => {
      const stored = sealRecord(key, derivation, place, value);
      expect(stored).toHaveLength(value.length + recordOverheadBytes);
      expect(openRecord(key, stored, place)).toEqual(Buffer.from(value));
    }),
    { numRuns: 200 },
  );
});

describe('bit flips', () => {
  const value = Buffer.from('forty-two bytes of something quite secret!');
  const stored = sealRecord(key, derivation, place, value);
  const otherKey = new PasswordKey(randomBytes(32));

  test('every flipped bit of a stored record is found, under the right password and any other', () => {
    for (let bit = 0; bit < stored.length * 8; bit += 1) {
      const flipped = Buffer.from(stored);
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(() => openRecord(key, flipped, place)).toThrow(Corrupt);
      expect(() => openRecord(otherKey, flipped, place)).toThrow(Corrupt);
      expect(isIntact(flipped, place)).toBe(false);
    }
  });

  test('a record under another id or token is corrupt', () => {
    for (const [name, text] of Object.entries(place)) {
      for (let index = 0; index < text.length; index += 1) {
        const changed = `${text.slice(0, index)}${text[index] === 'x' ? 'y' : 'x'}${text.slice(index + 1)}`;
        expect(() => openRecord(key, stored, { ...place, [name]: changed })).toThrow(Corrupt);
      }
    }
    // The border between the two cannot move.
    const moved = { id: `${place.id}${place.token[0]}`, token: place.token.slice(1) };
    expect(() => openRecord(key, stored, moved)).toThrow(Corrupt);
  });

  test('a record that was cut or grew is corrupt', () => {
    for (let length = 0; length < stored.length; length += 1) {
      expect(() => openRecord(key, stored.subarray(0, length), place)).toThrow(Corrupt);
    }
    expect(() => openRecord(key, Buffer.concat([stored, Buffer.from([0])]), place)).toThrow(
      Corrupt,
    );
  });

  test('an intact record of another password is told apart from a corrupt one', () => {
    expect(() => openRecord(otherKey, stored, place)).toThrow(WrongKey);
    expect(isIntact(stored, place)).toBe(true);
  });

  test('one whose checksum was mended after a change of its value is still corrupt', () => {
    const forged = Buffer.from(stored);
    forged[110] = (forged[110] as number) ^ 1;
    const bound = Buffer.concat([
      Buffer.from('keystead vault record v1\0'),
      ...[Buffer.from([0, place.id.length]), Buffer.from(place.id)],
      ...[Buffer.from([0, place.token.length]), Buffer.from(place.token)],
      forged.subarray(0, 42),
      forged.subarray(58, 90),
    ]);
    hash('sha256', Buffer.concat([bound, forged.subarray(90)]), 'buffer').copy(forged, 42, 0, 16);
    expect(isIntact(forged, place)).toBe(true);
    expect(() => openRecord(key, forged, place)).toThrow(Corrupt);
  });
});

test('parameters in a header are bounded before any memory is taken', () => {
  const wish = (change: (bytes: Buffer) => void) => {
    const bytes = Buffer.from(derivation);
    change(bytes);
    return bytes;
  };
  expect(() => decodeDerivation(wish((bytes) => bytes.writeUInt32BE(0xffff_ffff, 4)))).toThrow(
    Corrupt,
  );
  expect(() => decodeDerivation(wish((bytes) => bytes.fill(255, 8, 9)))).toThrow(Corrupt);
  expect(() => decodeDerivation(wish((bytes) => bytes.fill(0, 9, 10)))).toThrow(Corrupt);
  expect(() => decodeDerivation(wish((bytes) => bytes.fill(2, 2, 3)))).toThrow(Corrupt);
  expect(encodeDerivation(decodeDerivation(derivation))).toEqual(derivation);
});

/**
 * Pairs of records, of one password and of two, as one vault stores them. Byte for byte: what is equal
 * within pairs of one password is as often equal within pairs of two, and no stretch of bytes behind
 * the salt of the vault occurs in both records of a pair.
 */
test('two records under one password are indistinguishable from two under different ones', async () => {
  const passwords = ['the first password', 'the second password'];
  const [first, second] = await Promise.all(passwords.map((each) => makeKey(each, derivation)));
  if (first === undefined || second === undefined) throw new Error('no keys');
  const pairs = 3_000;
  const value = Buffer.from('the same value in each of them');
  const seal = (under: PasswordKey, name: string) =>
    sealRecord(under, derivation, { id: `rec_${name}`, token: `tok_${name}` }, value);
  const equalAt = { one: [] as number[], two: [] as number[] };
  let longest = 0;
  for (let pair = 0; pair < pairs; pair += 1) {
    const left = seal(first, `left${pair}`);
    for (const [name, right] of [
      ['one', seal(first, `right${pair}`)],
      ['two', seal(second, `right${pair}`)],
    ] as const) {
      for (let index = 0; index < left.length; index += 1) {
        if (left[index] !== right[index]) continue;
        equalAt[name][index] = (equalAt[name][index] ?? 0) + 1;
      }
      longest = Math.max(longest, longestShared(left.subarray(26), right.subarray(26)));
    }
  }
  for (let index = 0; index < value.length + recordOverheadBytes; index += 1) {
    const [one, two] = [equalAt.one[index] ?? 0, equalAt.two[index] ?? 0];
    if (index < 26) expect([one, two]).toEqual([pairs, pairs]);
    // One in 256, give or take: 3,000 pairs make 11.7, and 40 is beyond any chance.
    else expect(Math.max(one, two)).toBeLessThan(40);
  }
  expect(longest).toBeLessThan(6);
});

function longestShared(left: Buffer, right: Buffer): number {
  let longest = 0;
  for (let length = 3; length <= 16; length += 1) {
    const seen = new Set<string>();
    for (let at = 0; at + length <= left.length; at += 1) {
      seen.add(left.toString('latin1', at, at + length));
    }
    let isFound = false;
    for (let at = 0; at + length <= right.length && !isFound; at += 1) {
      isFound = seen.has(right.toString('latin1', at, at + length));
    }
    if (!isFound) return longest;
    longest = length;
  }
  return longest;
}

test('a password is derived once a salt, however many ask at the same moment', async () => {
  const keys = new PasswordKeys({ maxEntries: 2, ttlMs: 60_000 });
  const [one, two] = await Promise.all([
    keys.keyFor('a password of ours', derivation),
    keys.keyFor('a password of ours', derivation),
  ]);
  expect(one).toBe(two);
  expect(await keys.keyFor('a password of ours', derivation)).toBe(one);
  // The least recently used goes when there are too many, and is wiped.
  await keys.keyFor('another one of ours', derivation);
  await keys.keyFor('a third one of ours', derivation);
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  expect(() => one.copy()).toThrow('wiped');
  expect(keys.known('a password of ours', derivation)).toBeUndefined();
  keys.clear();
});
