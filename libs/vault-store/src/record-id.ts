/**
 * Ids of records: `rec_` and a UUIDv7 (RFC 9562) in Crockford's base 32, as all ids of this repository.
 * Written out here, because the module that all ids share brings a schema language with it, which costs a
 * rekey a tenth of its memory.
 */
import type { RandomFill } from '@keystead/envelope/keys';

const alphabet = '0123456789abcdefghjkmnpqrstvwxyz';

export function newRecordId(nowMs: number, random: RandomFill): string {
  const bytes = Buffer.alloc(16);
  random(bytes);
  bytes.writeUIntBE(Math.floor(nowMs), 0, 6);
  bytes[6] = 0x70 | ((bytes[6] as number) & 0x0f);
  bytes[8] = 0x80 | ((bytes[8] as number) & 0x3f);
  let number = BigInt(`0x${bytes.toString('hex')}`);
  let text = '';
  for (let character = 0; character < 26; character += 1) {
    text = alphabet[Number(number & 31n)] + text;
    number >>= 5n;
  }
  return `rec_${text}`;
}
