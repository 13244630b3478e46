/**
 * Private keys at rest: AES-256-GCM under a key derived from the installation's sealing key.
 *
 * `KSK1` | nonce (16) | key commitment (32) | ciphertext | tag (16). AES-GCM does not commit to its
 * key, so the commitment is compared first: a wrong sealing key is told from a damaged record. The
 * header and what the key is for are authenticated, so that a record cannot stand in for another.
 */
import { createCipheriv, createDecipheriv, hkdfSync, timingSafeEqual } from 'node:crypto';

const magic = Buffer.from('KSK1');
const nonceBytes = 16;
const commitmentBytes = 32;
const headerBytes = magic.length + nonceBytes + commitmentBytes;
const tagBytes = 16;

export type Opened = { outcome: 'opened'; plain: Buffer } | { outcome: 'wrong_key' | 'damaged' };

/**
 * @param sealingKey 32 bytes
 * @param purpose what the key is for, for example `root 1`; the same is needed to open it
 * @throws RangeError where the sealing key does not have 32 bytes
 */
export function sealKey(
  plain: Uint8Array,
  sealingKey: Uint8Array,
  purpose: string,
  random: (bytes: number) => Buffer,
): Buffer {
  const nonce = random(nonceBytes);
  const derived = derive(sealingKey, nonce);
  const header = Buffer.concat([magic, nonce, derived.commitment]);
  const cipher = createCipheriv('aes-256-gcm', derived.key, derived.iv, {
    authTagLength: tagBytes,
  });
  cipher.setAAD(Buffer.concat([header, Buffer.from(purpose)]));
  return Buffer.concat([header, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

/** @throws RangeError where the sealing key does not have 32 bytes */
export function openKey(sealed: Uint8Array, sealingKey: Uint8Array, purpose: string): Opened {
  const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
  if (bytes.length < headerBytes + tagBytes || !bytes.subarray(0, 4).equals(magic)) {
    return { outcome: 'damaged' };
  }
  const header = bytes.subarray(0, headerBytes);
  const nonce = header.subarray(magic.length, magic.length + nonceBytes);
  const derived = derive(sealingKey, nonce);
  if (!timingSafeEqual(derived.commitment, header.subarray(headerBytes - commitmentBytes))) {
    return { outcome: 'wrong_key' };
  }
  const decipher = createDecipheriv('aes-256-gcm', derived.key, derived.iv, {
    authTagLength: tagBytes,
  });
  decipher.setAAD(Buffer.concat([header, Buffer.from(purpose)]));
  decipher.setAuthTag(bytes.subarray(bytes.length - tagBytes));
  try {
    const plain = Buffer.concat([
      decipher.update(bytes.subarray(headerBytes, bytes.length - tagBytes)),
      decipher.final(),
    ]);
    return { outcome: 'opened', plain };
  } catch {
    return { outcome: 'damaged' };
  }
}

function derive(sealingKey: Uint8Array, nonce: Uint8Array) {
  if (sealingKey.length !== 32) throw new RangeError('a sealing key has 32 bytes');
  const bytes = Buffer.from(hkdfSync('sha256', sealingKey, nonce, 'keystead sealed key 1', 76));
  return {
    key: bytes.subarray(0, 32),
    iv: bytes.subarray(32, 44),
    commitment: bytes.subarray(44, 76),
  };
}
