/**
 * AES-256-GCM (NIST SP 800-38D) with nonces of 96 bits and tags of 128. Node takes shorter tags where the
 * length is not named; here it always is.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import type { SecretKey } from './secret-key.ts';

export const gcmNonceBytes = 12;
export const gcmTagBytes = 16;
const algorithm = 'aes-256-gcm';
const options = { authTagLength: gcmTagBytes } as const;

/**
 * @param data authenticated as one, one after the other
 * @returns ciphertext and tag
 */
export function encryptGcm(
  key: SecretKey,
  nonce: Uint8Array,
  data: readonly Uint8Array[],
  plaintext: Uint8Array,
): [Buffer, Buffer] {
  const cipher = createCipheriv(algorithm, key.object, nonce, options);
  for (const part of data) cipher.setAAD(part);
  const ciphertext = cipher.update(plaintext);
  cipher.final();
  return [ciphertext, cipher.getAuthTag()];
}

/** Undefined where the tag does not verify; what was decrypted by then is zeroed. */
export function decryptGcm(
  key: SecretKey,
  nonce: Uint8Array,
  data: readonly Uint8Array[],
  ciphertext: Uint8Array,
  tag: Uint8Array,
): Buffer | undefined {
  const decipher = createDecipheriv(algorithm, key.object, nonce, options);
  for (const part of data) decipher.setAAD(part);
  decipher.setAuthTag(tag);
  const plaintext = decipher.update(ciphertext);
  try {
    decipher.final();
  } catch {
    plaintext.fill(0);
    return undefined;
  }
  return plaintext;
}
