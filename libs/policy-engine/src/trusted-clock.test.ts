import { expect, test } from 'vitest';
import { limits } from './limits.ts';
import { TrustedClock } from './trusted-clock.ts';

function world(startMs = 1_000_000_000, notBeforeMs = 0) {
  const now = { wall: startMs, monotonic: 5_000 };
  const clock = new TrustedClock(
    () => now.wall,
    () => now.monotonic,
    notBeforeMs,
  );
  const pass = (ms: number) => {
    now.wall += ms;
    now.monotonic += ms;
    return clock.read();
  };
  return { now, clock, pass };
}
const hour = 3_600_000;

test('a clock that runs evenly is trusted, small corrections included', () => {
  const { now, pass } = world();
  for (let at = 0; at < 1_000; at += 1) {
    now.wall += at % 2 === 0 ? 900 : -900;
    expect(pass(10_000).trusted).toBe(true);
  }
});

test('a clock that was set back is not trusted until it is where it was', () => {
  const { now, clock, pass } = world();
  pass(1_000);
  now.wall -= hour;
  expect(clock.read()).toEqual({ atMs: now.wall, trusted: false });
  expect(pass(limits.clockSettlesAfterMs * 2).trusted).toBe(false);
  expect(pass(hour).trusted).toBe(true);
  expect(clock.jumps).toBe(1);
});

test('a clock that is turned back little by little is found out', () => {
  const { now, pass } = world();
  let trusted = true;
  for (let at = 0; at < 10; at += 1) {
    now.wall -= limits.clockToleranceMs - 1;
    trusted = pass(1).trusted;
  }
  expect(trusted).toBe(false);
});

test('a clock that was set ahead is trusted after it ran evenly, or when it is confirmed', () => {
  const { now, clock, pass } = world();
  now.wall += 9 * hour;
  expect(pass(1).trusted).toBe(false);
  expect(pass(limits.clockSettlesAfterMs - 2).trusted).toBe(false);
  expect(pass(10).trusted).toBe(true);
  now.wall += 9 * hour;
  expect(pass(1).trusted).toBe(false);
  expect(clock.confirm(now.wall - hour)).toBe(false);
  expect(pass(1).trusted).toBe(false);
  expect(clock.confirm(now.wall + 1_000)).toBe(true);
  expect(pass(1).trusted).toBe(true);
});

test('what is surely past may be learned later, and who agrees with the clock makes it trusted', () => {
  const { pass, clock, now } = world();
  clock.notBefore(now.wall + hour);
  expect(pass(limits.clockSettlesAfterMs * 2).trusted).toBe(false);
  clock.agree(now.wall + hour);
  expect(pass(1).trusted).toBe(false);
  clock.agree(now.wall + 1_000);
  expect(pass(1).trusted).toBe(true);
  clock.agree(now.wall + hour);
  expect(pass(1).trusted).toBe(true);
});

test('a clock that stands before what is surely past is not trusted', () => {
  const { pass, clock, now } = world(1_000_000_000, 2_000_000_000);
  expect(pass(1).trusted).toBe(false);
  expect(clock.confirm(now.wall)).toBe(true);
  expect(pass(1).trusted).toBe(true);
});
