import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Admission } from './admission.ts';
import { Hearing } from './hearing.ts';

test('a storm is let in at the pace, after one burst', () => {
  const admission = new Admission(100, 0);
  let admitted = admission.take(5_000, 0);
  expect(admitted).toBe(100);
  for (let nowMs = 10; nowMs <= 10_000; nowMs += 10) admitted += admission.take(5_000, nowMs);
  expect(admitted).toBeGreaterThanOrEqual(1_095);
  expect(admitted).toBeLessThanOrEqual(1_100);
});

test('whoever is sent away gets a time of its own, one after another at the pace', () => {
  const admission = new Admission(100, 0);
  const delays = Array.from({ length: 500 }, () => admission.delayFor(10_000, 0));
  expect(delays[0]).toBeGreaterThanOrEqual(3_000);
  expect(delays.at(-1)).toBeLessThanOrEqual(3_000 + 5_000);
  for (let index = 1; index < delays.length; index += 1) {
    expect(delays[index]).toBeGreaterThanOrEqual(delays[index - 1] ?? 0);
  }
  expect(new Set(delays).size).toBeGreaterThan(400);
});

test('a short line is simply waited in', () => {
  expect(new Admission(100, 0).delayFor(50, 0)).toBe(0);
});

test('never more than burst and pace allow, whenever asked', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat({ max: 500 }), fc.nat({ max: 200 })), { maxLength: 100 }),
      (asks) => {
        const admission = new Admission(50, 0);
        let nowMs = 0;
        let admitted = 0;
        for (const [elapsedMs, wanted] of asks) {
          nowMs += elapsedMs;
          admitted += admission.take(wanted, nowMs);
          expect(admitted).toBeLessThanOrEqual(50 + nowMs * 0.05 + 1e-6);
        }
      },
    ),
  );
});

test('a gateway is deaf when nothing was acknowledged for the time, and hears with the next', () => {
  const hearing = new Hearing(30_000, 0);
  expect(hearing.isDeaf(30_000)).toBe(false);
  expect(hearing.isDeaf(30_001)).toBe(true);
  hearing.acknowledged(30_500);
  expect(hearing.isDeaf(31_000)).toBe(false);
});
