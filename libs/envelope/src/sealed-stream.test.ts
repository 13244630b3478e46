import { createCipheriv, randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { associatedData } from './aad.ts';
import { generateKey, hkdf } from './keys.ts';
import { Corrupt, open, WrongKey } from './sealed.ts';
import {
  describeStream,
  formatIdentity,
  formatRecipient,
  generateRecipient,
  maxStreamHeaderBytes,
  opening,
  openStream,
  parseIdentity,
  parseRecipient,
  publicKeyOf,
  type SealStreamOptions,
  type StreamIdentity,
  type StreamRecipient,
  sealing,
  sealStream,
} from './sealed-stream.ts';

const key = generateKey();
const pair = generateRecipient();
const cost = { memoryKib: 8 * 1024, passes: 1, parallelism: 1 };
const passphrase = 'correct horse battery';
const rawRecipient: StreamRecipient[] = [{ kind: 'key', key }];
const rawIdentity: StreamIdentity[] = [{ kind: 'key', key }];
const small = { chunkBytesLog2: 12 };
const chunk = 4096;

async function sealAll(
  plaintext: Uint8Array,
  recipients = rawRecipient,
  options: SealStreamOptions = small,
): Promise<Buffer> {
  return buffer(Readable.from(sealStream([plaintext], recipients, options)));
}

async function openAll(
  sealed: Uint8Array | Uint8Array[],
  identities = rawIdentity,
  context?: Uint8Array,
): Promise<Buffer> {
  const pieces = Array.isArray(sealed) ? sealed : [sealed];
  const parts: Buffer[] = [];
  for await (const part of openStream(pieces, identities, context ? { context } : {})) {
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** Cuts into pieces at the given distances. */
function cut(bytes: Buffer, distances: number[]): Buffer[] {
  const pieces: Buffer[] = [];
  let offset = 0;
  for (let index = 0; offset < bytes.length; index += 1) {
    const length = distances[index % distances.length] ?? 1;
    pieces.push(bytes.subarray(offset, offset + length));
    offset += length;
  }
  return pieces;
}

test('what was sealed comes back, whatever its length and however it is cut', async () => {
  const lengths = [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk + 5];
  for (const length of lengths) {
    const plaintext = randomBytes(length);
    expect((await openAll(await sealAll(plaintext))).equals(plaintext)).toBe(true);
  }
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 0, max: 5 * chunk }),
      fc.array(fc.integer({ min: 1, max: 9_000 }), { minLength: 1, maxLength: 5 }),
      async (length, distances) => {
        const plaintext = randomBytes(length);
        const sealed = await buffer(
          Readable.from(sealStream(cut(plaintext, distances), rawRecipient, small)),
        );
        expect((await openAll(cut(sealed, distances))).equals(plaintext)).toBe(true);
        expect((await openAll(sealed)).equals(plaintext)).toBe(true);
      },
    ),
    { numRuns: 40 },
  );
});

test('every recipient opens it, and nobody else', async () => {
  const recipients: StreamRecipient[] = [
    { kind: 'passphrase', passphrase, cost },
    { kind: 'x25519', publicKey: pair.publicKey },
    { kind: 'x25519', publicKey: generateRecipient().publicKey },
    { kind: 'key', key },
  ];
  const plaintext = randomBytes(chunk * 2 + 9);
  const sealed = await sealAll(plaintext, recipients);
  const right: StreamIdentity[] = [
    { kind: 'passphrase', passphrase },
    { kind: 'x25519', privateKey: pair.privateKey },
    { kind: 'key', key },
  ];
  const wrong: StreamIdentity[] = [
    { kind: 'passphrase', passphrase: 'incorrect horse battery' },
    { kind: 'x25519', privateKey: generateRecipient().privateKey },
    { kind: 'key', key: generateKey() },
    // A key of one kind is none of another.
    { kind: 'key', key: pair.privateKey },
    { kind: 'x25519', privateKey: key },
  ];
  for (const identity of right) {
    expect((await openAll(sealed, [identity])).equals(plaintext)).toBe(true);
    expect((await openAll(sealed, [...wrong, identity])).equals(plaintext)).toBe(true);
  }
  for (const identity of wrong) await expect(openAll(sealed, [identity])).rejects.toThrow(WrongKey);
  await expect(openAll(sealed, [])).rejects.toThrow(WrongKey);
  expect(await describeStream(sealed)).toEqual({
    recipients: ['passphrase', 'x25519', 'x25519', 'key'],
  });
});

test('an archive of one kind does not open as another', async () => {
  const context = Buffer.from('backup');
  const sealed = await sealAll(Buffer.from('x'), rawRecipient, { ...small, context });
  expect((await openAll(sealed, rawIdentity, context)).toString()).toBe('x');
  for (const other of [undefined, Buffer.alloc(0), Buffer.from('export')]) {
    await expect(openAll(sealed, rawIdentity, other)).rejects.toThrow(Corrupt);
  }
});

test('every changed bit of the header and of a chunk is refused', async () => {
  const sealed = await sealAll(Buffer.from('a short text'));
  for (let bit = 0; bit < sealed.length * 8; bit += 1) {
    const changed = Buffer.from(sealed);
    changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7));
    const error = await openAll(changed).catch((caught: unknown) => caught);
    expect(error instanceof Corrupt || error instanceof WrongKey).toBe(true);
  }
});

test('cut anywhere it is refused, also between chunks', async () => {
  const sealed = await sealAll(randomBytes(3 * chunk));
  const header = sealed.length - 3 * (chunk + 16);
  const lengths = [
    ...Array.from({ length: header + 40 }, (_, index) => index),
    header + chunk + 15,
    header + chunk + 16,
    header + chunk + 17,
    header + 2 * (chunk + 16),
    sealed.length - 17,
    sealed.length - 16,
    sealed.length - 1,
  ];
  for (const length of lengths) {
    await expect(openAll(sealed.subarray(0, length))).rejects.toThrow(Corrupt);
  }
});

test('extended, reordered, repeated and dropped chunks are refused', async () => {
  const sealed = await sealAll(randomBytes(4 * chunk));
  const size = chunk + 16;
  const header = sealed.subarray(0, sealed.length - 4 * size);
  const chunks = [0, 1, 2, 3].map((index) =>
    sealed.subarray(header.length + index * size, header.length + (index + 1) * size),
  );
  const [a, b, c, d] = chunks as [Buffer, Buffer, Buffer, Buffer];
  const foreign = await sealAll(randomBytes(4 * chunk));
  const e = foreign.subarray(foreign.length - 4 * size, foreign.length - 3 * size);
  const mixed = [
    [b, a, c, d],
    [a, c, b, d],
    [a, b, d, c],
    [a, a, c, d],
    [a, c, d],
    [b, c, d],
    [a, b, c],
    [a, b, c, d, d],
    [a, b, c, d, Buffer.alloc(1)],
    [a, b, c, d, Buffer.alloc(16)],
    [a, b, c, d, Buffer.alloc(size)],
    [d],
    [e, b, c, d],
    [],
  ];
  for (const parts of mixed) {
    await expect(openAll(Buffer.concat([header, ...parts]))).rejects.toThrow(Corrupt);
  }
  expect(await openAll(Buffer.concat([header, a, b, c, d]))).toHaveLength(4 * chunk);
});

test('a header swapped in from another archive of the same key is refused', async () => {
  const [first, second] = await Promise.all([sealAll(randomBytes(50)), sealAll(randomBytes(50))]);
  const header = first.length - 66;
  await expect(
    openAll(Buffer.concat([first.subarray(0, header), second.subarray(header)])),
  ).rejects.toThrow(Corrupt);
  // The recipients of one with the salt of the other.
  const mixed = Buffer.from(first);
  second.copy(mixed, 44, 44, header);
  await expect(openAll(mixed)).rejects.toThrow(Corrupt);
});

test('nothing of a chunk comes out before its tag was verified', async () => {
  const plaintext = randomBytes(3 * chunk);
  const sealed = await sealAll(plaintext);
  const changed = Buffer.from(sealed);
  const last = changed.length - 1;
  changed[last] = (changed[last] as number) ^ 1;
  const parts: Buffer[] = [];
  const error = await (async () => {
    for await (const part of openStream([changed], rawIdentity)) parts.push(part);
  })().catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(Corrupt);
  expect(Buffer.concat(parts).equals(plaintext.subarray(0, 2 * chunk))).toBe(true);
});

test('whatever bytes come, they are refused as corrupt or as of another key', async () => {
  const sealed = await sealAll(Buffer.from('x'));
  const arbitrary = fc.oneof(
    fc.uint8Array({ maxLength: 400 }),
    fc
      .tuple(fc.integer({ min: 8, max: 44 }), fc.uint8Array({ maxLength: 600 }))
      .map(([kept, bytes]) => Buffer.concat([sealed.subarray(0, kept), bytes])),
  );
  await fc.assert(
    fc.asyncProperty(arbitrary, async (bytes) => {
      const error = await openAll(bytes, [
        ...rawIdentity,
        { kind: 'x25519', privateKey: pair.privateKey },
      ]).catch((caught: unknown) => caught);
      expect(error instanceof Corrupt || error instanceof WrongKey).toBe(true);
    }),
    { numRuns: 300 },
  );
});

test('a header that asks for a bomb is refused at once', async () => {
  const sealed = await sealAll(Buffer.from('x'), [{ kind: 'passphrase', passphrase, cost }]);
  const memory = Buffer.from(sealed);
  memory.writeUInt32BE(2 ** 31, 48);
  const chunks = Buffer.from(sealed);
  chunks[10] = 40;
  const recipients = Buffer.from(sealed);
  recipients[11] = 255;
  const long = Buffer.from(sealed);
  long.writeUInt16BE(65_535, 45);
  for (const bytes of [memory, chunks, recipients, long]) {
    const startedAt = performance.now();
    await expect(openAll(bytes, [{ kind: 'passphrase', passphrase }])).rejects.toThrow(Corrupt);
    expect(performance.now() - startedAt).toBeLessThan(200);
  }
  // Twice a passphrase is twice the work for whoever opens it: one is all there may be.
  const twice = Buffer.concat([
    sealed.subarray(0, 44),
    sealed.subarray(44, sealed.length - 32 - 17),
    sealed.subarray(44),
  ]);
  twice[11] = 2;
  await expect(openAll(twice, [{ kind: 'passphrase', passphrase }])).rejects.toThrow(Corrupt);
});

test('recipients that cannot be are refused when sealing', async () => {
  const refused: StreamRecipient[][] = [
    [],
    Array.from({ length: 17 }, () => ({ kind: 'key', key })),
    [
      { kind: 'passphrase', passphrase, cost },
      { kind: 'passphrase', passphrase: 'another passphrase', cost },
    ],
    [{ kind: 'x25519', publicKey: Buffer.alloc(31) }],
    // Points of small order: the result would not depend on the private key.
    [{ kind: 'x25519', publicKey: Buffer.alloc(32) }],
    [{ kind: 'x25519', publicKey: Buffer.from(`01${'00'.repeat(31)}`, 'hex') }],
    [{ kind: 'passphrase', passphrase: '' }],
  ];
  for (const recipients of refused) {
    await expect(sealAll(Buffer.from('x'), recipients)).rejects.toThrow(RangeError);
  }
  for (const chunkBytesLog2 of [0, 11, 21, 12.5]) {
    await expect(sealAll(Buffer.from('x'), rawRecipient, { chunkBytesLog2 })).rejects.toThrow(
      RangeError,
    );
  }
});

test('the longest header is within the bytes that describing needs', async () => {
  const recipients: StreamRecipient[] = [
    { kind: 'passphrase', passphrase, cost },
    ...Array.from({ length: 15 }, () => ({
      kind: 'x25519' as const,
      publicKey: generateRecipient().publicKey,
    })),
  ];
  const sealed = await sealAll(randomBytes(20_000), recipients);
  const described = await describeStream(sealed.subarray(0, maxStreamHeaderBytes));
  expect(described.recipients).toHaveLength(16);
});

test('it flows through pipelines, and an error at either end stops the other', async () => {
  const plaintext = randomBytes(300_000);
  const out: Buffer[] = [];
  await pipeline(
    Readable.from(cut(plaintext, [7_777])),
    sealing(rawRecipient),
    opening(rawIdentity),
    async function* (source) {
      for await (const bytes of source) {
        out.push(bytes as Buffer);
        yield bytes;
      }
    },
    async (source) => {
      for await (const _ of source);
    },
  );
  expect(Buffer.concat(out).equals(plaintext)).toBe(true);

  const broken = Readable.from(
    (async function* () {
      yield randomBytes(100_000);
      throw new Error('the disk is gone');
    })(),
  );
  await expect(
    pipeline(broken, sealing(rawRecipient), async (source) => {
      for await (const _ of source);
    }),
  ).rejects.toThrow('the disk is gone');

  let closed = false;
  const endless = (async function* () {
    try {
      for (;;) yield randomBytes(10_000);
    } finally {
      closed = true;
    }
  })();
  await expect(
    (async () => {
      for await (const _ of openStream(endless, rawIdentity));
    })(),
  ).rejects.toThrow(Corrupt);
  expect(closed).toBe(true);
});

test('memory is flat: 256 MiB through both ends', async () => {
  const piece = randomBytes(1024 * 1024);
  const count = 256;
  let received = 0;
  let peak = 0;
  const source = (async function* () {
    for (let index = 0; index < count; index += 1) yield piece;
  })();
  const before = process.memoryUsage().arrayBuffers;
  for await (const bytes of openStream(sealStream(source, rawRecipient), rawIdentity)) {
    received += bytes.length;
    if (received % (8 * piece.length) === 0) {
      peak = Math.max(peak, process.memoryUsage().arrayBuffers - before);
    }
  }
  expect(received).toBe(count * piece.length);
  expect(peak).toBeLessThan(128 * 1024 * 1024);
});

test('keys of people come back from their text, and a slip of the hand is noticed', () => {
  const recipient = formatRecipient(pair.publicKey);
  const identity = formatIdentity(pair.privateKey);
  expect(parseRecipient(recipient)).toEqual(pair.publicKey);
  expect(parseRecipient(` ${recipient}\n`)).toEqual(pair.publicKey);
  expect(parseIdentity(identity).equals(pair.privateKey)).toBe(true);
  expect(publicKeyOf(parseIdentity(identity))).toEqual(pair.publicKey);
  for (let index = 0; index < recipient.length; index += 1) {
    const letter = recipient[index] === 'x' ? 'y' : 'x';
    const slipped = recipient.slice(0, index) + letter + recipient.slice(index + 1);
    expect(() => parseRecipient(slipped)).toThrow(RangeError);
  }
  for (const text of ['', identity, `${recipient}A`, recipient.slice(0, -1)]) {
    expect(() => parseRecipient(text)).toThrow(RangeError);
  }
  expect(() => parseIdentity(recipient)).toThrow(RangeError);
});

test('another program can write one by the documented layout, and in one form alone', async () => {
  const plaintext = randomBytes(chunk);
  const sealed = await sealAll(plaintext);
  const header = sealed.subarray(0, sealed.length - chunk - 16);
  const salt = header.subarray(12, 44);
  const data = associatedData('sealed-stream recipient', 'key', salt);
  const fileKey = open(key, header.subarray(47, 47 + 98), data);
  const derive = (purpose: string, length: number) =>
    hkdf(fileKey, salt, associatedData('sealed-stream', purpose, Buffer.alloc(0)), length);
  const chunkOf = (number: number, isLast: boolean, bytes: Buffer) => {
    const nonce = Buffer.concat([derive('nonces', 7), Buffer.alloc(5)]);
    nonce.writeUInt32BE(number, 7);
    nonce[11] = isLast ? 1 : 0;
    const cipher = createCipheriv('aes-256-gcm', derive('chunks', 32), nonce);
    return Buffer.concat([cipher.update(bytes), cipher.final(), cipher.getAuthTag()]);
  };
  const own = Buffer.concat([header, chunkOf(0, true, plaintext)]);
  expect(own.equals(sealed)).toBe(true);
  // The same text with an empty chunk behind it would be a second form of it.
  const second = Buffer.concat([
    header,
    chunkOf(0, false, plaintext),
    chunkOf(1, true, Buffer.alloc(0)),
  ]);
  await expect(openAll(second)).rejects.toThrow(Corrupt);
});
