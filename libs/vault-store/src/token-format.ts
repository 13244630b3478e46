/**
 * Generated tokens: `tok_` + random base 32 + checksum of seven characters. The prefix lets scanners
 * find a leaked one, the checksum tells a mistyped one from an unknown one without a look-up.
 *
 * The alphabet is Crockford's in lower case: no `i`, `l`, `o`, `u`, so that it survives being read out.
 */
import { crc32 } from 'node:zlib';
import { type RandomFill, systemRandom } from '@keystead/envelope/keys';
import { vaultLimits } from './limits.ts';

const alphabet = '0123456789abcdefghjkmnpqrstvwxyz';
const checksumCharacters = 7;

export interface TokenShape {
  /** Without the underscore. */
  prefix: string;
  /** Random bits: a multiple of 5 is used whole, so this rounds up to one. */
  bits: number;
}

export const defaultTokenShape: TokenShape = { prefix: 'tok', bits: 160 };

/** @throws RangeError for a prefix or a number of bits out of bounds */
export function requireTokenShape(shape: TokenShape): TokenShape {
  const { prefix, bits } = shape;
  if (!/^[a-z][a-z0-9]*$/.test(prefix) || prefix.length > vaultLimits.maxTokenPrefixCharacters) {
    throw new RangeError(
      `a prefix of tokens is 1 to ${vaultLimits.maxTokenPrefixCharacters} of a–z and 0–9`,
    );
  }
  if (
    !Number.isInteger(bits) ||
    bits < vaultLimits.minTokenBits ||
    bits > vaultLimits.maxTokenBits
  ) {
    throw new RangeError(
      `a token has between ${vaultLimits.minTokenBits} and ${vaultLimits.maxTokenBits} random bits`,
    );
  }
  return shape;
}

export function generateToken(
  shape: TokenShape = defaultTokenShape,
  random: RandomFill = systemRandom,
): string {
  const { prefix, bits } = requireTokenShape(shape);
  const bytes = new Uint8Array(Math.ceil(bits / 5));
  random(bytes);
  let body = `${prefix}_`;
  // 256 is a multiple of 32: the low five bits of a random byte are evenly distributed.
  for (const byte of bytes) body += alphabet[byte & 31];
  return body + checksum(body);
}

/** Whether the text is what {@link generateToken} makes: its form and its checksum. */
export function isGeneratedToken(text: string, prefix = defaultTokenShape.prefix): boolean {
  const start = `${prefix}_`;
  const leastBody = Math.ceil(vaultLimits.minTokenBits / 5);
  if (!text.startsWith(start)) return false;
  if (text.length < start.length + leastBody + checksumCharacters) return false;
  for (let index = start.length; index < text.length; index += 1) {
    if (!alphabet.includes(text[index] as string)) return false;
  }
  return checksum(text.slice(0, -checksumCharacters)) === text.slice(-checksumCharacters);
}

/** CRC-32: finds every wrong character and every two neighbours that changed places. */
function checksum(body: string): string {
  let number = crc32(body);
  let text = '';
  for (let index = 0; index < checksumCharacters; index += 1) {
    text = alphabet[number & 31] + text;
    number >>>= 5;
  }
  return text;
}
