import { createDecipheriv, hash, randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { associatedData } from './aad.ts';
import {
  deriveKey,
  generateKey,
  hkdfExpand,
  type KeyPlace,
  keyCommitment,
  unwrapKey,
  wrapKey,
} from './keys.ts';
import { envelopeLimits } from './limits.ts';
import {
  Corrupt,
  type CorruptPart,
  Opener,
  open,
  seal,
  sealedBy,
  sealedOverheadBytes,
  WrongKey,
} from './sealed.ts';

const key = generateKey();
const data = associatedData('test', 'ns_1', 'sec_1', 3);
const message = Buffer.from('the value of a secret');
const sealed = seal(key, message, data);

function corruptPart(work: () => unknown): CorruptPart | 'wrong_key' {
  try {
    work();
  } catch (error) {
    if (error instanceof WrongKey) return 'wrong_key';
    if (error instanceof Corrupt) return error.part;
    throw error;
  }
  throw new Error('it was not refused');
}

test('what was sealed opens with its key and its data', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 5_000 }),
      fc.uint8Array({ maxLength: 200 }),
      (plaintext, associated) => {
        const message = seal(key, plaintext, associated);
        expect(open(key, message, associated).equals(plaintext)).toBe(true);
        const opener = new Opener(key, message, associated);
        opener.open().fill(0);
        expect(opener.open().equals(plaintext)).toBe(true);
      },
    ),
  );
});

test('a large message opens, and one beyond the limit is not sealed', () => {
  const large = randomBytes(1024 * 1024);
  expect(open(key, seal(key, large, data), data).equals(large)).toBe(true);
  const tooLarge = new Uint8Array(envelopeLimits.maxSealedBytes + 1);
  expect(() => seal(key, tooLarge, data)).toThrow(RangeError);
});

test('the envelope is as documented, byte by byte', () => {
  expect(sealed.subarray(0, 6)).toEqual(Buffer.from('4b530101 0c10'.replace(' ', ''), 'hex'));
  const commitment = hash(
    'sha256',
    Buffer.concat([Buffer.from('keystead key commitment v1\0'), key.bytes]),
    'buffer',
  );
  expect(sealed.subarray(6, 38)).toEqual(commitment);
  expect(sealed).toHaveLength(sealedOverheadBytes + message.length);
  // Another program, knowing only the layout.
  const decipher = createDecipheriv('aes-256-gcm', key.bytes, sealed.subarray(38, 50), {
    authTagLength: 16,
  });
  decipher.setAAD(Buffer.concat([sealed.subarray(0, 38), data]));
  decipher.setAuthTag(sealed.subarray(-16));
  expect(Buffer.concat([decipher.update(sealed.subarray(50, -16)), decipher.final()])).toEqual(
    message,
  );
});

test('with given randomness the envelope is the same for ever', () => {
  const fixedKey = generateKey((bytes) => bytes.fill(7));
  const made = seal(fixedKey, Buffer.from('kept'), associatedData('test'), (bytes) =>
    bytes.fill(9),
  );
  expect(made.toString('hex')).toMatchInlineSnapshot(
    `"4b5301010c10599c7446b6f16b31e311a472def4b93544bdabc56cc6a4005ecc3ccd96ab88070909090909090909090909094ce0f4e022479b981698feb4cf729ea781d9194d"`,
  );
});

test('nonces do not repeat, and randomness may be injected', () => {
  const nonces = new Set<string>();
  for (let index = 0; index < 20_000; index += 1) {
    nonces.add(seal(key, message, data).toString('latin1', 38, 50));
  }
  expect(nonces.size).toBe(20_000);
});

test('every single changed bit is refused, and told for what it is', () => {
  const expected = (position: number): CorruptPart | 'wrong_key' => {
    if (position < 2) return 'magic';
    if (position === 2) return 'version';
    if (position === 3) return 'algorithm';
    if (position === 4) return 'nonce_length';
    if (position === 5) return 'tag_length';
    return position < 38 ? 'wrong_key' : 'tag';
  };
  for (let bit = 0; bit < sealed.length * 8; bit += 1) {
    const changed = Buffer.from(sealed);
    changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7));
    expect(corruptPart(() => open(key, changed, data))).toBe(expected(bit >> 3));
  }
});

test('every version, algorithm, nonce length and tag length but the one is refused', () => {
  const parts: [number, number, CorruptPart][] = [
    [2, 1, 'version'],
    [3, 1, 'algorithm'],
    [4, 12, 'nonce_length'],
    [5, 16, 'tag_length'],
  ];
  for (const [position, right, part] of parts) {
    for (let value = 0; value < 256; value += 1) {
      if (value === right) continue;
      const changed = Buffer.from(sealed);
      changed[position] = value;
      expect(corruptPart(() => open(key, changed, data))).toBe(part);
    }
  }
});

test('cut at every length it is refused, and so is anything added', () => {
  for (let length = 0; length < sealed.length; length += 1) {
    const part = corruptPart(() => open(key, sealed.subarray(0, length), data));
    expect(part).toBe(length < sealedOverheadBytes ? 'too_short' : 'tag');
  }
  for (const more of [1, 16, 66]) {
    const longer = Buffer.concat([sealed, Buffer.alloc(more)]);
    expect(corruptPart(() => open(key, longer, data))).toBe('tag');
  }
});

test('a part swapped in from another message is refused', () => {
  const other = seal(key, randomBytes(message.length), data);
  for (const [from, to] of [
    [38, 50],
    [50, sealed.length - 16],
    [sealed.length - 16, sealed.length],
  ] as const) {
    const mixed = Buffer.from(sealed);
    other.copy(mixed, from, from, to);
    expect(corruptPart(() => open(key, mixed, data))).toBe('tag');
  }
});

test('in another place it does not open', () => {
  for (const place of [
    associatedData('test', 'ns_2', 'sec_1', 3),
    associatedData('test', 'ns_1', 'sec_2', 3),
    associatedData('test', 'ns_1', 'sec_1', 4),
    associatedData('other', 'ns_1', 'sec_1', 3),
    associatedData('test', 'ns_1', 'sec_1', '3'),
    Buffer.alloc(0),
  ]) {
    expect(corruptPart(() => open(key, sealed, place))).toBe('tag');
  }
});

test('another key is a wrong key, however the rest looks', () => {
  for (let round = 0; round < 50; round += 1) {
    expect(corruptPart(() => open(generateKey(), sealed, data))).toBe('wrong_key');
  }
  // A commitment put on by hand does not make it open.
  const forged = Buffer.from(sealed);
  const other = generateKey();
  keyCommitment(other).copy(forged, 6);
  expect(corruptPart(() => open(other, forged, data))).toBe('tag');
});

test('whatever bytes come, they are refused as corrupt or as of another key', () => {
  const arbitrary = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.concat([sealed.subarray(0, 6), bytes])),
    fc
      .uint8Array({ maxLength: 300 })
      .map((bytes) => Buffer.concat([sealed.subarray(0, 38), bytes])),
  );
  fc.assert(
    fc.property(arbitrary, (bytes) => {
      const part = corruptPart(() => open(key, bytes, data));
      expect(part).toBeTypeOf('string');
      expect(corruptPart(() => new Opener(key, bytes, data).open())).toBe(part);
    }),
  );
});

test('a view into a larger buffer is read as itself', () => {
  const framed = Buffer.concat([Buffer.alloc(13, 1), sealed, Buffer.alloc(7, 2)]);
  const view = new Uint8Array(framed.buffer, framed.byteOffset + 13, sealed.length);
  expect(open(key, view, data)).toEqual(message);
});

test('the sealing key is named without opening', () => {
  expect(sealedBy(sealed)).toEqual(keyCommitment(key));
  expect(() => sealedBy(sealed.subarray(0, 20))).toThrow(Corrupt);
});

test('no error holds the key, the data or the plaintext', () => {
  for (const work of [
    () => open(generateKey(), sealed, data),
    () => open(key, sealed, Buffer.alloc(0)),
    () => open(key, sealed.subarray(0, 40), data),
  ]) {
    try {
      work();
    } catch (error) {
      const shown = `${(error as Error).message}${(error as Error).stack}${JSON.stringify(error)}`;
      expect(shown).not.toContain(message.toString());
      expect(shown).not.toContain(key.bytes.toString('hex'));
      expect(shown).not.toContain('sec_1');
    }
  }
  expect.assertions(9);
});

// Wrapped keys

const master = generateKey();
const place: KeyPlace = { purpose: 'namespace', id: 'ns_1', version: 1 };

test('a wrapped key comes back, for its place alone', () => {
  const wrapped = wrapKey(master, key, place);
  expect(unwrapKey(master, wrapped, place).equals(key)).toBe(true);
  for (const other of [
    { ...place, purpose: 'token' },
    { ...place, id: 'ns_2' },
    { ...place, version: 2 },
  ]) {
    expect(corruptPart(() => unwrapKey(master, wrapped, other))).toBe('tag');
  }
  expect(corruptPart(() => unwrapKey(generateKey(), wrapped, place))).toBe('wrong_key');
});

test('what is sealed in the place of a key but is none is refused', () => {
  const data = associatedData('key', place.purpose, place.id, place.version);
  for (const length of [0, 16, 31, 33]) {
    const wrapped = seal(master, Buffer.alloc(length), data);
    expect(corruptPart(() => unwrapKey(master, wrapped, place))).toBe('content');
  }
});

test('a derived key depends on its key and its info, and is HKDF-Expand', () => {
  const infos = ['', 'a', 'b', 'a\0', Buffer.from([1]), Buffer.from([0]), randomBytes(32)];
  const seen = new Set<string>();
  for (const source of [key, master]) {
    for (const info of infos) {
      const derived = deriveKey(source, info);
      expect(derived.equals(deriveKey(source, info))).toBe(true);
      const label = Buffer.concat([Buffer.from('keystead derive v1\0'), Buffer.from(info)]);
      expect(derived.bytes.equals(hkdfExpand(source.bytes, label, 32))).toBe(true);
      seen.add(derived.bytes.toString('hex'));
    }
    seen.add(source.bytes.toString('hex'));
    seen.add(keyCommitment(source).toString('hex'));
  }
  expect(seen.size).toBe(2 * (infos.length + 2));
});
