/** The answers that the standards print, so that what is built on top is built on the right thing. */
import { expect, test } from 'vitest';
import { decryptGcm, encryptGcm } from './aes-gcm.ts';
import { hkdf, hkdfExpand, hkdfExtract, SecretKey } from './keys.ts';
import { argon2id } from './password.ts';
import { publicKeyOf } from './sealed-stream.ts';

const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
const range = (from: number, to: number) =>
  Buffer.from(Array.from({ length: to - from + 1 }, (_, index) => from + index));

const text64 =
  'd9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72' +
  '1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255';
const cipher64 =
  '522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa' +
  '8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad';
const feffe = 'feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308';

// The Galois/Counter Mode of Operation (McGrew, Viega), submitted to NIST, appendix B, cases 13 to 16;
// and the NIST CAVP file gcmEncryptExtIV256.rsp, its first case without and with associated data.
test.each([
  ['case 13', '00'.repeat(32), '00'.repeat(12), '', '', '', '530f8afbc74536b9a963b4f1c4cb738b'],
  [
    'case 14',
    '00'.repeat(32),
    '00'.repeat(12),
    '',
    '00'.repeat(16),
    'cea7403d4d606b6e074ec5d3baf39d18',
    'd0d1c8a799996bf0265b98b5d48ab919',
  ],
  [
    'case 15',
    feffe,
    'cafebabefacedbaddecaf888',
    '',
    text64,
    cipher64,
    'b094dac5d93471bdec1a502270e3cc6c',
  ],
  [
    'case 16',
    feffe,
    'cafebabefacedbaddecaf888',
    'feedfacedeadbeeffeedfacedeadbeefabaddad2',
    text64.slice(0, -8),
    cipher64.slice(0, -8),
    '76fc6ece0f4e1768cddf8853bb2d551b',
  ],
  [
    'CAVP, nothing',
    'b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4',
    '516c33929df5a3284ff463d7',
    '',
    '',
    '',
    'bdc1ac884d332457a1d2664f168c76f0',
  ],
  [
    'CAVP, data alone',
    '78dc4e0aaf52d935c3c01eea57428f00ca1fd475f5da86a49c8dd73d68c8e223',
    'd79cf22d504cc793c3fb6c8a',
    'b96baa8c1c75a671bfb2d08d06be5f36',
    '',
    '',
    '3e5d486aa2e30b22e040b85723a06e76',
  ],
  [
    'CAVP, text alone',
    '31bdadd96698c204aa9ce1448ea94ae1fb4a9a0b3c9d773b51bb1822666b8f22',
    '0d18e06c7c725ac9e362e1ce',
    '',
    '2db5168e932556f8089a0622981d017d',
    'fa4362189661d163fcd6a56d8bf0405a',
    'd636ac1bbedd5cc3ee727dc2ab4a9489',
  ],
])('AES-256-GCM %s', (_, keyText, nonce, data, plaintext, ciphertext, tag) => {
  const key = SecretKey.from(hex(keyText));
  expect(encryptGcm(key, hex(nonce), [hex(data)], hex(plaintext))).toEqual([
    hex(ciphertext),
    hex(tag),
  ]);
  expect(decryptGcm(key, hex(nonce), [hex(data)], hex(ciphertext), hex(tag))).toEqual(
    hex(plaintext),
  );
  // The data is one, however it is cut.
  const [first, second] = [hex(data).subarray(0, 5), hex(data).subarray(5)];
  expect(decryptGcm(key, hex(nonce), [first, second], hex(ciphertext), hex(tag))).toBeDefined();
  for (let bit = 0; bit < 128; bit += 1) {
    const changed = hex(tag);
    changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7));
    expect(decryptGcm(key, hex(nonce), [hex(data)], hex(ciphertext), changed)).toBeUndefined();
  }
});

test.each([4, 8, 12, 13, 14, 15])('AES-256-GCM refuses a tag of %i bytes', (length) => {
  const key = SecretKey.from(Buffer.alloc(32));
  const [ciphertext, tag] = encryptGcm(key, Buffer.alloc(12), [], Buffer.from('text'));
  expect(() =>
    decryptGcm(key, Buffer.alloc(12), [], ciphertext, tag.subarray(0, length)),
  ).toThrow();
});

// RFC 5869, appendix A.1 to A.3.
test.each([
  [
    'A.1',
    '0b'.repeat(22),
    range(0x00, 0x0c),
    range(0xf0, 0xf9),
    '077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5',
    '3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865',
  ],
  [
    'A.2',
    range(0x00, 0x4f).toString('hex'),
    range(0x60, 0xaf),
    range(0xb0, 0xff),
    '06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244',
    'b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87',
  ],
  [
    'A.3',
    '0b'.repeat(22),
    Buffer.alloc(0),
    Buffer.alloc(0),
    '19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04',
    '8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8',
  ],
])('HKDF-SHA-256 %s', (_, input, salt, info, extracted, expanded) => {
  const length = expanded.length / 2;
  expect(hkdfExtract(hex(input), salt)).toEqual(hex(extracted));
  expect(hkdfExpand(hex(extracted), info, length)).toEqual(hex(expanded));
  expect(hkdf(hex(input), salt, info, length)).toEqual(hex(expanded));
});

test.each([0, -1, 1.5, 255 * 32 + 1])('HKDF does not expand to %d bytes', (length) => {
  expect(() => hkdfExpand(Buffer.alloc(32), Buffer.alloc(0), length)).toThrow(RangeError);
});

test('HKDF expands to the last byte it can', () => {
  const key = Buffer.alloc(32, 7);
  const info = Buffer.from('x');
  expect(hkdfExpand(key, info, 255 * 32)).toHaveLength(255 * 32);
});

test('Argon2id of RFC 9106, 5.3', async () => {
  const tag = await argon2id({
    message: Buffer.alloc(32, 1),
    nonce: Buffer.alloc(16, 2),
    secret: Buffer.alloc(8, 3),
    associatedData: Buffer.alloc(12, 4),
    parallelism: 4,
    tagLength: 32,
    memory: 32,
    passes: 3,
  });
  expect(tag.toString('hex')).toBe(
    '0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659',
  );
});

test('Argon2id of the reference implementation, version 0x13, 64 MiB', async () => {
  const tag = await argon2id({
    message: 'password',
    nonce: 'somesalt',
    parallelism: 1,
    tagLength: 32,
    memory: 65_536,
    passes: 2,
  });
  expect(tag.toString('hex')).toBe(
    '09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7',
  );
});

test("X25519 of RFC 7748, 6.1: Bob's keys", () => {
  const bob = SecretKey.from(
    hex('5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb'),
  );
  expect(publicKeyOf(bob).toString('hex')).toBe(
    'de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f',
  );
});
