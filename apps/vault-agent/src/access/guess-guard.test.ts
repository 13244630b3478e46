import { expect, test } from 'vitest';
import { accessLimits } from './access-limits.ts';
import { GuessGuard, networkOf } from './guess-guard.ts';

test('after the free guesses each lock is twice as long, and a calm time forgets them', () => {
  let nowMs = 0;
  const guard = new GuessGuard(() => nowMs);
  for (let index = 0; index < accessLimits.freeGuesses; index += 1) {
    expect(guard.guessed('10.0.0.1')).toBeUndefined();
  }
  const seconds: number[] = [];
  for (let round = 0; round < 12; round += 1) {
    const lock = guard.guessed('10.0.0.1');
    expect(lock?.isNew).toBe(true);
    seconds.push(lock?.retryAfterSeconds ?? 0);
    // What comes meanwhile runs into the lock and makes it no longer.
    expect(guard.guessed('10.0.0.1')).toMatchObject({ isNew: false });
    nowMs += (lock?.retryAfterSeconds ?? 0) * 1_000;
  }
  expect(seconds.slice(0, 4)).toEqual([1, 2, 4, 8]);
  expect(seconds.at(-1)).toBe(accessLimits.longestLockMs / 1_000);
  expect(guard.guessed('10.0.0.2')).toBeUndefined();
  nowMs += accessLimits.guessMemoryMs;
  expect(guard.guessed('10.0.0.1')).toBeUndefined();
});

test('whoever guesses at a key locks their own network out of it, and nobody else', () => {
  const guard = new GuessGuard(() => 0);
  const key = 'ksv_aaaaaaaaaaaa';
  guard.knew(key, '2001:db8::1');
  const told: (boolean | undefined)[] = [];
  for (let index = 0; index <= accessLimits.guessesPerKeyMax; index += 1) {
    told.push(guard.guessedKey(key, '10.0.0.2')?.isNew);
    guard.guessedKey(key, '2001:db8::2');
  }
  expect(guard.lockOfKey(key, '10.0.0.2')).toBeDefined();
  // Who was known there is not locked out by a neighbour, and the owner comes in from anywhere else.
  expect(guard.lockOfKey(key, '2001:db8::3')).toBeUndefined();
  expect(guard.lockOfKey(key, '10.0.0.3')).toBeUndefined();
  expect(guard.lockOfKey('ksv_bbbbbbbbbbbb', '10.0.0.2')).toBeUndefined();
  // People are told that somebody is after the key, wherever from.
  expect(told).toContain(false);
});

test('of a key that is guessed from many networks people are told, and it stays open', () => {
  const guard = new GuessGuard(() => 0);
  const key = 'ksv_aaaaaaaaaaaa';
  const locks = Array.from({ length: accessLimits.guessesPerKeyMax + 1 }, (_, index) =>
    guard.guessedKey(key, `10.0.${index >> 8}.${index & 255}`),
  );
  expect(locks.filter((lock) => lock?.isNew)).toEqual([
    expect.objectContaining({ guesses: accessLimits.guessesPerKeyMax + 1 }),
  ]);
  expect(guard.lockOfKey(key, '10.0.0.1')).toBeUndefined();
});

test('one customer’s IPv6 network counts as one address', () => {
  expect(networkOf('2001:db8:1:2:3:4:5:6')).toBe(networkOf('2001:db8:1:2::1'));
  expect(networkOf('2001:db8:1:2::1')).not.toBe(networkOf('2001:db8:1:3::1'));
  expect(networkOf('::ffff:10.0.0.1')).toBe('10.0.0.1');
  expect(networkOf('fe80::1%eth0')).toBe(networkOf('fe80::2%eth0'));
  expect(networkOf('10.0.0.1')).toBe('10.0.0.1');
  expect(networkOf('not an address:')).toBe('not an address:');
});

test('passwords are counted by who tries them, and forgotten when one was right', () => {
  const guard = new GuessGuard(() => 0);
  for (let index = 0; index < accessLimits.freeGuesses; index += 1) {
    expect(guard.guessedPassword('ann')).toBeUndefined();
  }
  guard.knewPassword('ann');
  for (let index = 0; index < accessLimits.freeGuesses; index += 1) guard.guessedPassword('ann');
  expect(guard.lockOfPassword('ann')).toBeUndefined();
  expect(guard.guessedPassword('ann')?.isNew).toBe(true);
  expect(guard.lockOfPassword('ann')).toBeDefined();
  expect(guard.lockOfPassword('bob')).toBeUndefined();
});
