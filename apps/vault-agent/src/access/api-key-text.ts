/**
 * What an API key looks like: `ksv_`, twelve characters that name it, `_`, 256 random bits, and a checksum,
 * so that scanners find keys and slips of the keyboard are told apart from guesses. Only the SHA-256 of
 * the whole is stored: with 256 random bits there is nothing for a slow hash to protect.
 */
import { hash, randomBytes, timingSafeEqual } from 'node:crypto';
import { crc32 } from 'node:zlib';

const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const mark = 'ksv_';
const nameLength = 12;
/** 62^43 > 2^256 */
const secretLength = 43;
/** 62^6 > 2^32 */
const checksumLength = 6;
const prefixLength = mark.length + nameLength;
const keyLength = prefixLength + 1 + secretLength + checksumLength;
/** Of what names a key. */
export const prefixForm = /^ksv_[0-9A-Za-z]{12}$/;
const form = /^ksv_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}$/;

export interface NewApiKey {
  key: string;
  prefix: string;
  digest: Buffer;
}

export function newApiKey(random: (length: number) => Buffer = randomBytes): NewApiKey {
  const prefix = `${mark}${randomText(nameLength, random)}`;
  const body = `${prefix}_${randomText(secretLength, random)}`;
  const key = `${body}${checksumOf(body)}`;
  return { key, prefix, digest: digestOf(key) };
}

/** Whether it claims to be a key of ours at all. */
export function looksLikeApiKey(text: string): boolean {
  return text.length === keyLength && text.startsWith(mark);
}

/** The part that names the key, of a text that looks like one. */
export function prefixOf(text: string): string {
  return text.slice(0, prefixLength);
}

/** Whether form and checksum hold, so that it is worth a look-up. */
export function isWellFormed(text: string): boolean {
  if (!form.test(text)) return false;
  const body = text.slice(0, -checksumLength);
  return checksumOf(body) === text.slice(-checksumLength);
}

export function digestOf(key: string): Buffer {
  return hash('sha256', key, 'buffer');
}

/** In a time that does not depend on where they differ. */
export function isSameDigest(one: Buffer, other: Buffer): boolean {
  return one.length === other.length && timingSafeEqual(one, other);
}

function checksumOf(body: string): string {
  let number = crc32(body);
  let text = '';
  for (let index = 0; index < checksumLength; index += 1) {
    text = alphabet[number % 62] + text;
    number = Math.floor(number / 62);
  }
  return text;
}

/** Every character as likely as any other: bytes beyond the largest multiple of 62 are thrown away. */
function randomText(length: number, random: (length: number) => Buffer): string {
  let text = '';
  while (text.length < length) {
    for (const byte of random(length)) {
      if (byte < 248 && text.length < length) text += alphabet[byte % 62];
    }
  }
  return text;
}
