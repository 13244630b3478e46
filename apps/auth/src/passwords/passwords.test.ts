import { availableParallelism } from 'node:os';
import { ServiceError } from '@keystead/contracts/errors';
import { expect, test } from 'vitest';
import { Passwords } from './passwords.ts';

test('a flood of sign-ins waits in a bounded line and the rest is turned away', async () => {
  const passwords = new Passwords(2, 6);
  const results = await Promise.allSettled(
    Array.from({ length: 30 }, () => passwords.verify('guess', null)),
  );
  const turnedAway = results.filter((result) => result.status === 'rejected');
  expect(turnedAway.length).toBe(30 - 2 - 6);
  for (const { reason } of turnedAway) {
    expect(reason).toBeInstanceOf(ServiceError);
    expect((reason as ServiceError).code).toBe('unavailable');
  }
  expect((await passwords.verify('guess', null)).right).toBe(false);
});

test('an unknown person costs the same work as a known one', async () => {
  const passwords = new Passwords(1, 10);
  const stored = await passwords.hash('the right one');
  await passwords.verify('warm up', null);
  const time = async (hash: string | null) => {
    const start = performance.now();
    await passwords.verify('a wrong guess', hash);
    return performance.now() - start;
  };
  const known: number[] = [];
  const unknown: number[] = [];
  for (let round = 0; round < 15; round += 1) {
    known.push(await time(stored));
    unknown.push(await time(null));
  }
  const best = (times: number[]) => Math.min(...times);
  const ratio = best(known) / best(unknown);
  expect(ratio, `with ${availableParallelism()} cores`).toBeGreaterThan(0.6);
  expect(ratio).toBeLessThan(1.6);
});

test('a damaged hash is never right and costs the same', async () => {
  const verdict = await new Passwords().verify('anything', 'not a hash');
  expect(verdict).toEqual({ right: false, outgrown: false });
});
