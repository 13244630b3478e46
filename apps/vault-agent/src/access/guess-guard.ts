/**
 * Against guessing: who was refused too often waits, each time twice as long. Counted for a network
 * address, and for a key that somebody tries to guess from many addresses: then only addresses that
 * have known the key are let try. Whoever is known already does not come by here, so that nobody is
 * locked out of a machine by what a neighbour on it does.
 */
import ipaddr from 'ipaddr.js';
import { LRUCache } from 'lru-cache';
import { accessLimits } from './access-limits.ts';

interface Guesser {
  guesses: number;
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

  /** Whether somebody at the address may try at all, or how long not. */
  lockOf(address: string): Lock | undefined {
    return this.#lock(networkOf(address));
  }

  /** As {@link lockOf}, for one key. */
  lockOfKey(prefix: string, address: string): Lock | undefined {
    if (this.#knewKey.has(`${prefix} ${networkOf(address)}`)) return undefined;
    return this.#lock(prefix);
  }

  /** A credential that nobody has. Answers the lock it brings, if any. */
  guessed(address: string): Lock | undefined {
    return this.#count(networkOf(address), accessLimits.freeGuesses);
  }

  /** A wrong secret for a key that exists. */
  guessedKey(prefix: string): Lock | undefined {
    return this.#count(prefix, accessLimits.guessesPerKeyMax);
  }

  knew(prefix: string, address: string): void {
    this.#knewKey.set(`${prefix} ${networkOf(address)}`, true);
  }

  #lock(name: string): Lock | undefined {
    const guesser = this.#guessers.get(name);
    const remainingMs = (guesser?.lockedUntilMs ?? 0) - this.#now();
    if (guesser === undefined || remainingMs <= 0) return undefined;
    return lock(remainingMs, guesser.guesses, false);
  }

  #count(name: string, free: number): Lock | undefined {
    const nowMs = this.#now();
    const before = this.#guessers.get(name);
    const isRemembered = before !== undefined && nowMs - before.lastMs < accessLimits.guessMemoryMs;
    const guesser = isRemembered ? before : { guesses: 0, lockedUntilMs: 0, lastMs: nowMs };
    guesser.guesses += 1;
    guesser.lastMs = nowMs;
    this.#guessers.set(name, guesser);
    const beyond = guesser.guesses - free;
    if (beyond < 0) return undefined;
    const lockedMs = Math.min(
      accessLimits.firstLockMs * 2 ** Math.min(beyond, 30),
      accessLimits.longestLockMs,
    );
    guesser.lockedUntilMs = nowMs + lockedMs;
    return lock(lockedMs, guesser.guesses, true);
  }
}

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
