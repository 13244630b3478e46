/**
 * Bearer credentials made by the control plane: a prefix people and scanners recognize, 160 random
 * bits, and a checksum that tells a mistyped one from a wrong one without a look-up. Only the
 * SHA-256 is stored: a guess at 160 random bits gains nothing from a fast hash.
 */
import { createHash, randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';

const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const bodyLength = 27;
const checksumLength = 6;

export const credentialPrefixes = {
  apiKey: 'ks_',
  enrollmentToken: 'ket_',
  refreshToken: 'ksr_',
  invitation: 'ksi_',
  confirmation: 'ksc_',
} as const;
export type CredentialKind = keyof typeof credentialPrefixes;

function encode(number: bigint, length: number): string {
  let text = '';
  let rest = number;
  for (let index = 0; index < length; index += 1) {
    text = alphabet[Number(rest % 62n)] + text;
    rest /= 62n;
  }
  return text;
}

export function newCredential(
  kind: CredentialKind,
  random: (length: number) => Buffer = randomBytes,
): { text: string; hash: Buffer; prefix: string } {
  const body = encode(BigInt(`0x${random(20).toString('hex')}`), bodyLength);
  const start = `${credentialPrefixes[kind]}${body}`;
  const text = `${start}${encode(BigInt(crc32(start)), checksumLength)}`;
  return {
    text,
    hash: hashCredential(text),
    prefix: text.slice(0, credentialPrefixes[kind].length + 6),
  };
}

/** Whether the text has the form and the checksum of a credential of that kind. */
export function isCredential(kind: CredentialKind, text: string): boolean {
  const prefix = credentialPrefixes[kind];
  if (!text.startsWith(prefix) || text.length !== prefix.length + bodyLength + checksumLength) {
    return false;
  }
  const start = text.slice(0, -checksumLength);
  return text.slice(-checksumLength) === encode(BigInt(crc32(start)), checksumLength);
}

export function hashCredential(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
