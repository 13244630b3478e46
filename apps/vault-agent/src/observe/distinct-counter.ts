/** About how many different texts there were, in one kilobyte whatever comes (linear counting). */
import { suspicionLimits } from './suspicion-limits.ts';

const bits = suspicionLimits.distinctBits;

export class DistinctCounter {
  readonly #bits = new Uint32Array(bits / 32);
  #set = 0;

  /** Of a text in two parts. @returns whether the count may have grown */
  add(one: string, two = ''): boolean {
    const bit = hashOf(one, two) % bits;
    const word = bit >>> 5;
    const mask = 1 << (bit & 31);
    const before = this.#bits[word] ?? 0;
    if ((before & mask) !== 0) return false;
    this.#bits[word] = before | mask;
    this.#set += 1;
    return true;
  }

  get count(): number {
    return estimate(this.#set);
  }

  /** Of those that were in this one, or the other, or both. */
  countWith(other: DistinctCounter): number {
    let set = 0;
    for (let word = 0; word < this.#bits.length; word += 1) {
      set += bitsIn((this.#bits[word] ?? 0) | (other.#bits[word] ?? 0));
    }
    return estimate(set);
  }
}

function estimate(set: number): number {
  return set >= bits ? Number.POSITIVE_INFINITY : Math.round(-bits * Math.log(1 - set / bits));
}

/** FNV-1a with a finish that spreads it. Who could aim at it reads fewer secrets than it seems, not more. */
function hashOf(one: string, two: string): number {
  // The separator is in no name, so that parts cannot be cut elsewhere.
  let hash = mixed(Math.imul(mixed(0x811c9dc5, one), 0x01000193), two);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function mixed(start: number, text: string): number {
  let hash = start;
  for (let at = 0; at < text.length; at += 1) {
    hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  }
  return hash;
}

function bitsIn(word: number): number {
  let value = word - ((word >>> 1) & 0x55555555);
  value = (value & 0x33333333) + ((value >>> 2) & 0x33333333);
  return Math.imul((value + (value >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
