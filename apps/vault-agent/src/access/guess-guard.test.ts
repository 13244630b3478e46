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

test('a key that is guessed from everywhere stays open to the addresses that knew it', () => {
  const guard = new GuessGuard(() => 0);
  guard.knew('ksv_aaaaaaaaaaaa', '10.0.0.1');
  for (let index = 0; index <= accessLimits.guessesPerKeyMax; index += 1) {
    guard.guessedKey('ksv_aaaaaaaaaaaa');
  }
  expect(guard.lockOfKey('ksv_aaaaaaaaaaaa', '10.0.0.2')).toBeDefined();
  expect(guard.lockOfKey('ksv_aaaaaaaaaaaa', '10.0.0.1')).toBeUndefined();
  expect(guard.lockOfKey('ksv_bbbbbbbbbbbb', '10.0.0.2')).toBeUndefined();
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
