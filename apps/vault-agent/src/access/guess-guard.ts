/**
 * Against guessing. An address that guesses is told to wait, each time twice as long; what it sends
 * meanwhile is looked at all the same, because another program on the same machine may hold a good key,
 * and a key of 256 random bits is not found by trying. Where many wrong secrets were tried for one key, it
 * is closed to where they came from, unless it was known there before: whoever has seen the first letters
 * of a key can lock nobody else out of it.
 */
import ipaddr from 'ipaddr.js';
import { LRUCache } from 'lru-cache';
import { accessLimits } from './access-limits.ts';

interface Guesser {
  guesses: number;
  locks: number;
  lockedUntilMs: number;
  lastMs: number;
}

export interface Lock {
  retryAfterSeconds: number;
  /** Guesses so far. */
  guesses: number;
  /** Whether this guess has closed it: told once for each lock. */
  isNew: boolean;
}

export class GuessGuard {
  readonly #now: () => number;
  readonly #guessers = new LRUCache<string, Guesser>({ max: accessLimits.guessersRemembered });
  readonly #knewKey = new LRUCache<string, true>({ max: accessLimits.guessersRemembered });

  /** @param now milliseconds of a clock that never goes back */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** How long nobody at the address may try the key. */
  lockOfKey(prefix: string, address: string): Lock | undefined {
    const there = keyAt(prefix, address);
    return this.#knewKey.has(there) ? undefined : this.#lockOf(there);
  }

  /** A credential that nobody has. Answers the lock it brings or runs into, if any. */
  guessed(address: string): Lock | undefined {
    return this.#count(networkOf(address), accessLimits.freeGuesses);
  }

  /**
   * A wrong secret for a key that exists. Answers how much the key is guessed from anywhere, for people to
   * be told: it locks the address alone.
   */
  guessedKey(prefix: string, address: string): Lock | undefined {
    this.#count(keyAt(prefix, address), accessLimits.guessesPerKeyMax);
    return this.#count(prefix, accessLimits.guessesPerKeyMax);
  }

  /** How long somebody may not try passwords of something any more. */
  lockOfPassword(tried: string): Lock | undefined {
    return this.#lockOf(passwordName(tried));
  }

  /** A wrong password. @param tried whoever tries, and what it would open */
  guessedPassword(tried: string): Lock | undefined {
    return this.#count(passwordName(tried), accessLimits.freeGuesses);
  }

  /** Whoever knows a password has mistyped it before. */
  knewPassword(tried: string): void {
    this.#guessers.delete(passwordName(tried));
  }

  knew(prefix: string, address: string): void {
    this.#knewKey.set(keyAt(prefix, address), true);
  }

  #lockOf(name: string): Lock | undefined {
    const guesser = this.#guessers.get(name);
    const remainingMs = (guesser?.lockedUntilMs ?? 0) - this.#now();
    if (guesser === undefined || remainingMs <= 0) return undefined;
    return lock(remainingMs, guesser.guesses, false);
  }

  #count(name: string, free: number): Lock | undefined {
    const nowMs = this.#now();
    const before = this.#guessers.get(name);
    const isRemembered = before !== undefined && nowMs - before.lastMs < accessLimits.guessMemoryMs;
    const guesser = isRemembered
      ? before
      : { guesses: 0, locks: 0, lockedUntilMs: 0, lastMs: nowMs };
    guesser.guesses += 1;
    guesser.lastMs = nowMs;
    this.#guessers.set(name, guesser);
    const running = this.#lockOf(name);
    if (running !== undefined || guesser.guesses <= free) return running;
    guesser.locks += 1;
    const lockedMs = Math.min(
      accessLimits.firstLockMs * 2 ** Math.min(guesser.locks - 1, 30),
      accessLimits.longestLockMs,
    );
    guesser.lockedUntilMs = nowMs + lockedMs;
    return lock(lockedMs, guesser.guesses, true);
  }
}

const keyAt = (prefix: string, address: string) => `${prefix} ${networkOf(address)}`;
const passwordName = (tried: string) => `password ${tried}`;

const lock = (remainingMs: number, guesses: number, isNew: boolean): Lock => ({
  retryAfterSeconds: Math.max(1, Math.ceil(remainingMs / 1_000)),
  guesses,
  isNew,
});

/** The address itself, or of IPv6 the network of 64 bits that one customer has at least. */
export function networkOf(address: string): string {
  if (!address.includes(':')) return address;
  try {
    const parsed = ipaddr.parse(address.split('%')[0] ?? '');
    if (!(parsed instanceof ipaddr.IPv6)) return address;
    if (parsed.isIPv4MappedAddress()) return parsed.toIPv4Address().toString();
    return `${parsed.parts
      .slice(0, 4)
      .map((part) => part.toString(16))
      .join(':')}::/64`;
  } catch {
    return address;
  }
}
