import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  attemptsMax,
  channelHealthAfter,
  jitterMaxMs,
  nextAttempt,
  retryAfterMaxMs,
  retryPausesMs,
} from './next-attempt.ts';
import { retryAfterMs } from './retry-after.ts';
import type { SendOutcome } from './send-outcome.ts';

const hour = 3_600_000;
const day = 24 * hour;
const failed = (retryAfterMs?: number): SendOutcome => ({
  result: 'temporary',
  reason: 'status',
  detail: 'the receiver answered 503',
  blame: 'receiver',
  durationMs: 3,
  ...(retryAfterMs !== undefined && { retryAfterMs }),
});
const delivered: SendOutcome = { result: 'delivered', durationMs: 3 };
const permanent = (gone?: true): SendOutcome => ({
  result: 'permanent',
  reason: 'status',
  detail: 'no',
  blame: 'receiver',
  durationMs: 3,
  ...(gone && { gone }),
});

const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const attempt = fc.integer({ min: 1, max: attemptsMax + 3 });

describe('the next attempt', () => {
  it('comes until about 75 hours have passed, whatever the jitter', () => {
    fc.assert(
      fc.property(fc.infiniteStream(random), (stream) => {
        let totalMs = 0;
        let made = 1;
        for (; ; made += 1) {
          const next = nextAttempt(failed(), made, stream.next().value as number);
          if (next.next !== 'retry') {
            expect(next).toEqual({ next: 'dead', why: 'exhausted' });
            break;
          }
          totalMs += next.inMs;
        }
        expect(made).toBe(attemptsMax);
        expect(totalMs).toBeGreaterThan(71 * hour);
        expect(totalMs).toBeLessThan(79 * hour);
      }),
    );
    expect(retryPausesMs.reduce((sum, pause) => sum + pause)).toBe(
      ((74 * 60 + 52) * 60 + 35) * 1_000,
    );
  });

  it('is spread around its time, so that a crowd does not return at once', () => {
    const [first = 0] = retryPausesMs;
    expect(nextAttempt(failed(), 1, 0)).toEqual({ next: 'retry', inMs: first * 0.8 });
    expect(nextAttempt(failed(), 1, 0.5)).toEqual({ next: 'retry', inMs: first });
    expect(nextAttempt(failed(), 1, 0.999_999)).toEqual({ next: 'retry', inMs: first * 1.2 });
  });

  it('never comes before the receiver asked for it, within bounds', () => {
    fc.assert(
      fc.property(attempt, random, fc.nat({ max: 10 * day }), (made, share, asked) => {
        const next = nextAttempt(failed(asked), made, share);
        expect(next.next).toBe(made < attemptsMax ? 'retry' : 'dead');
        if (next.next !== 'retry') return;
        const [pause = 0] = retryPausesMs.slice(made - 1);
        expect(next.inMs).toBeGreaterThanOrEqual(Math.min(asked, retryAfterMaxMs) - 1);
        expect(next.inMs).toBeLessThanOrEqual(Math.max(pause, retryAfterMaxMs) + jitterMaxMs + 1);
        expect(next.inMs).toBeGreaterThanOrEqual(pause * 0.8 - jitterMaxMs);
      }),
    );
  });

  it('never comes after a success or a permanent answer', () => {
    fc.assert(
      fc.property(attempt, random, (made, share) => {
        expect(nextAttempt(delivered, made, share)).toEqual({ next: 'done' });
        expect(nextAttempt(permanent(), made, share)).toEqual({ next: 'dead', why: 'permanent' });
        expect(nextAttempt(permanent(true), made, share).next).toBe('dead');
      }),
    );
  });

  it('comes for recipients who were refused for now, not for those refused for good', () => {
    const refused = (isPermanent: boolean): SendOutcome => ({
      ...delivered,
      undelivered: [{ address: 'a@example.com', answer: '4xx', permanent: isPermanent }],
    });
    expect(nextAttempt(refused(false), 1, 0.5).next).toBe('retry');
    expect(nextAttempt(refused(true), 1, 0.5).next).toBe('done');
  });
});

describe('a channel', () => {
  it('is disabled after five days of failure without one success, never sooner', () => {
    const step = fc.record({ afterMs: fc.nat({ max: 2 * day }), good: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        let health: { failingSinceMs: number | null } = { failingSinceMs: null };
        let nowMs = 0;
        let runStart: number | null = null;
        for (const { afterMs, good } of steps) {
          nowMs += afterMs;
          runStart = good ? null : (runStart ?? nowMs);
          const verdict = channelHealthAfter(health, good ? delivered : failed(), nowMs, 5 * day);
          expect(verdict.disable).toBe(
            runStart !== null && nowMs - runStart >= 5 * day ? 'failing' : undefined,
          );
          expect(verdict.failingSinceMs).toBe(runStart);
          health = { failingSinceMs: verdict.failingSinceMs };
        }
      }),
    );
  });

  it('is disabled at once when its receiver says that it is gone', () => {
    const verdict = channelHealthAfter({ failingSinceMs: null }, permanent(true), 7, 5 * day);
    expect(verdict).toEqual({ failingSinceMs: 7, disable: 'gone' });
  });

  it('does not answer for failures of the installation', () => {
    const ours: SendOutcome = { ...failed(), blame: 'installation' } as SendOutcome;
    expect(channelHealthAfter({ failingSinceMs: null }, ours, 9 * day, 5 * day)).toEqual({
      failingSinceMs: null,
    });
    expect(channelHealthAfter({ failingSinceMs: 1 }, ours, 9 * day, 5 * day)).toEqual({
      failingSinceMs: 1,
    });
  });
});

describe('Retry-After', () => {
  const now = Date.parse('2026-11-21T06:00:00Z');
  it('is seconds or a date; anything else is as if it were absent', () => {
    expect(retryAfterMs('120', now)).toBe(120_000);
    expect(retryAfterMs(' 0 ', now)).toBe(0);
    expect(retryAfterMs('Sat, 21 Nov 2026 06:01:00 GMT', now)).toBe(60_000);
    for (const header of [
      undefined,
      '',
      '-1',
      '1.5',
      'soon',
      '1e9',
      '99999999999999',
      'Sat, 21 Nov 2020 06:01:00 GMT',
    ]) {
      expect(retryAfterMs(header, now)).toBeUndefined();
    }
  });
});
