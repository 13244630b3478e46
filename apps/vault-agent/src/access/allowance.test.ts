import { ServiceError } from '@keystead/contracts/errors';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Allowance } from './allowance.ts';

const refused = (work: () => void) => {
  try {
    work();
    return false;
  } catch (error) {
    expect(error).toBeInstanceOf(ServiceError);
    expect((error as ServiceError).retryAfterSeconds).toBeGreaterThanOrEqual(1);
    return true;
  }
};

test('over any stretch of time a name gets its rate and its burst, and no more', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 400 }), { minLength: 1, maxLength: 200 }),
      fc.integer({ min: 1, max: 20 }),
      (pausesMs, perSecond) => {
        let nowMs = 0;
        const allowance = new Allowance({
          perSecond,
          burstSeconds: 2,
          namesMax: 10,
          now: () => nowMs,
        });
        let admitted = 0;
        for (const pauseMs of pausesMs) {
          nowMs += pauseMs;
          if (!refused(() => allowance.take('a'))) admitted += 1;
        }
        expect(admitted).toBeLessThanOrEqual(2 * perSecond + (perSecond * nowMs) / 1_000 + 1);
      },
    ),
  );
});

test('names do not take from each other, and a wait fills up again', () => {
  let nowMs = 0;
  const allowance = new Allowance({
    perSecond: 1,
    burstSeconds: 1,
    namesMax: 10,
    now: () => nowMs,
  });
  expect(refused(() => allowance.take('a'))).toBe(false);
  expect(refused(() => allowance.take('a'))).toBe(true);
  expect(refused(() => allowance.take('b'))).toBe(false);
  nowMs += 1_000;
  expect(refused(() => allowance.take('a'))).toBe(false);
});
