import { availableParallelism } from 'node:os';
import type { ServiceError } from '@keystead/contracts/errors';
import { expect, test } from 'vitest';
import { Passwords } from './passwords.ts';

async function codes(work: Promise<unknown>[]): Promise<string[]> {
  const results = await Promise.allSettled(work);
  return results.map((result) =>
    result.status === 'fulfilled' ? 'ok' : (result.reason as ServiceError).code,
  );
}

test('a flood of sign-ins is turned away at the door, and the door opens again', async () => {
  const passwords = new Passwords({ atOnce: 2, underWay: 6 });
  const signIn = () => passwords.admit(() => passwords.verify('guess', null));
  const answers = await codes(Array.from({ length: 30 }, signIn));
  expect(answers.filter((answer) => answer === 'ok').length).toBe(6);
  expect(answers.filter((answer) => answer === 'unavailable').length).toBe(24);
  expect((await signIn()).right).toBe(false);
});

test('what waits too long for its turn is given up, and the line goes on', async () => {
  const passwords = new Passwords({ atOnce: 1, waitMs: 1 });
  const answers = await codes(Array.from({ length: 12 }, () => passwords.verify('guess', null)));
  expect(answers[0]).toBe('ok');
  expect(answers.filter((answer) => answer === 'unavailable').length).toBeGreaterThan(8);
  expect((await passwords.verify('guess', null)).right).toBe(false);
});

test('no more hashes are computed at once than there are places', async () => {
  const passwords = new Passwords({ atOnce: 2 });
  const before = process.memoryUsage.rss();
  await codes(Array.from({ length: 24 }, () => passwords.verify('guess', null)));
  // All at once would take 456 MiB.
  expect(process.memoryUsage.rss() - before).toBeLessThan(250 * 1024 * 1024);
});

test('an unknown person costs the same work as a known one', { timeout: 60_000 }, async () => {
  const passwords = new Passwords({ atOnce: 1 });
  const stored = await passwords.hash('the right one');
  await passwords.verify('warm up', null);
  const time = async (hash: string | null) => {
    const start = performance.now();
    await passwords.verify('a wrong guess', hash);
    return performance.now() - start;
  };
  const known: number[] = [];
  const unknown: number[] = [];
  for (let round = 0; round < 8; round += 1) {
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
