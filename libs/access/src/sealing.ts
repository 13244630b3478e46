/**
 * Keys of the installation and what is sealed under them. Every use has a key of its own, drawn
 * from the installation's key by HKDF (RFC 5869), so that one cannot stand in for another.
 */
import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';

const version = 1;
const nonceBytes = 12;
const tagBytes = 16;

export class InstallationKey {
  readonly #key: Buffer;

  constructor(key: Buffer) {
    if (key.length !== 32) throw new Error('the installation key must have 32 bytes');
    if (key.every((byte) => byte === key[0])) throw new Error('the installation key is a sample');
    this.#key = key;
  }

  /** Reads 32 random bytes in base64. */
  static fromFile(path: string): InstallationKey {
    return new InstallationKey(Buffer.from(readFileSync(path, 'utf8').trim(), 'base64'));
  }

  /** A 32-byte key for one use, optionally bound to a salt. */
  derive(use: string, salt: Buffer | string = ''): Buffer {
    return Buffer.from(hkdfSync('sha256', this.#key, salt, `keystead/${use}`, 32));
  }

  /** AES-256-GCM: version, nonce, tag, ciphertext. `bound` is authenticated with it. */
  seal(use: string, bound: string, plain: Buffer | string, salt: Buffer | string = ''): Buffer {
    const nonce = randomBytes(nonceBytes);
    const cipher = createCipheriv('aes-256-gcm', this.derive(use, salt), nonce, {
      authTagLength: tagBytes,
    });
    cipher.setAAD(Buffer.from(bound));
    const sealed = Buffer.concat([cipher.update(plain), cipher.final()]);
    return Buffer.concat([Buffer.from([version]), nonce, cipher.getAuthTag(), sealed]);
  }

  /** @throws when it was sealed for another use, was bound to something else, or was changed */
  open(use: string, bound: string, sealed: Uint8Array, salt: Buffer | string = ''): Buffer {
    const bytes = Buffer.from(sealed);
    if (bytes[0] !== version || bytes.length < 1 + nonceBytes + tagBytes) {
      throw new Error('not sealed by this program');
    }
    const decipher = createDecipheriv(
      'aes-256-gcm',
      this.derive(use, salt),
      bytes.subarray(1, 1 + nonceBytes),
      { authTagLength: tagBytes },
    );
    decipher.setAAD(Buffer.from(bound));
    decipher.setAuthTag(bytes.subarray(1 + nonceBytes, 1 + nonceBytes + tagBytes));
    return Buffer.concat([
      decipher.update(bytes.subarray(1 + nonceBytes + tagBytes)),
      decipher.final(),
    ]);
  }

  /** HMAC-SHA-256 under a key of its own. */
  sign(use: string, text: string): Buffer {
    return createHmac('sha256', this.derive(use)).update(text).digest();
  }
}
