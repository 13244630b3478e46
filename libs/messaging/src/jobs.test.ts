import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Jobs } from './jobs.ts';

test('a duty that is under way ends before its process closes what it needs, and none begins after', async () => {
  // Without Redis: the process paces its duties itself.
  const jobs = new Jobs({ redisUrl: 'redis://127.0.0.1:1', onError: () => undefined });
  const order: string[] = [];
  const begun = Promise.withResolvers<void>();
  const closed = Promise.withResolvers<void>();
  const { runNow } = jobs.every({
    name: 'test',
    periodMs: 60_000,
    work: async () => {
      order.push('begun');
      begun.resolve();
      // Long enough for whoever does not wait.
      await Promise.race([closed.promise, delay(200)]);
      order.push('ended');
    },
  });
  runNow();
  await begun.promise;
  runNow();
  await jobs.close();
  order.push('closed');
  closed.resolve();
  runNow();
  await delay(1);
  expect(order).toEqual(['begun', 'ended', 'closed']);
});
