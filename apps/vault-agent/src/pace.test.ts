import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Contact } from './contact.ts';
import { clockJumpMs, nextBeatMs, nextRetryMs, renewalDueMs, toldDelayMs } from './pace.ts';

const chance = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

test('heartbeats keep to the told pace within ten percent', () => {
  fc.assert(
    fc.property(fc.integer({ min: 500, max: 3_600_000 }), chance, (intervalMs, random) => {
      const next = nextBeatMs(intervalMs, random);
      expect(next).toBeGreaterThanOrEqual(Math.floor(intervalMs * 0.9));
      expect(next).toBeLessThanOrEqual(Math.ceil(intervalMs * 1.1));
    }),
  );
});

test('retries are spread over everything up to a bound that stops growing', () => {
  fc.assert(
    fc.property(fc.nat({ max: 10_000 }), chance, (failures, random) => {
      expect(nextRetryMs(failures, random)).toBeLessThanOrEqual(15_000);
    }),
  );
  expect(nextRetryMs(0, 0.999)).toBeLessThanOrEqual(500);
  expect(nextRetryMs(3, 0)).toBe(0);
});

test('a delay that is told is kept to the letter, and none is for ever, nor longer than a timer can wait', () => {
  expect([0, 1, 2_500, 3_600_000].map(toldDelayMs)).toEqual([undefined, 1, 2_500, 3_600_000]);
  // Beyond 2^31 a timer would fire at once, again and again.
  expect(toldDelayMs(2 ** 32 - 1)).toBe(3_600_000);
});

test('renewal falls due between half and six tenths of the life', () => {
  expect(renewalDueMs(0, 1_000, 0)).toBe(500);
  expect(renewalDueMs(0, 1_000, 0.999)).toBeLessThan(600);
});

test('a clock that is slewed did not jump, one that was set did', () => {
  expect(clockJumpMs(1_001, 1_000)).toBe(0);
  expect(clockJumpMs(-1, 1_000)).toBe(0);
  expect(clockJumpMs(3_601_000, 1_000)).toBe(3_600_000);
  expect(clockJumpMs(-3_599_000, 1_000)).toBe(-3_600_000);
});

const at = (seconds: number) => ({
  unixMs: 1_000_000 + seconds * 1_000,
  monotonicMs: seconds * 1_000,
});

test('a session that is reopened at once is no loss of contact', () => {
  const contact = new Contact(at(0));
  expect(contact.recorded(at(1))).toBeUndefined();
  expect(contact.recorded(at(9))).toBeUndefined();
  expect(contact.isLost).toBe(false);
});

test('the account of a gap runs from the last recorded beat to the next', () => {
  const contact = new Contact(at(0));
  contact.recorded(at(10));
  expect(contact.attemptFailed('unreachable')).toEqual({
    kind: 'lost',
    lastContactUnixMs: at(10).unixMs,
    reason: 'stream_ended',
  });
  expect(contact.attemptFailed('unreachable')).toBeUndefined();
  expect(contact.unanswered()).toBeUndefined();
  expect(contact.recorded(at(70))).toEqual({
    kind: 'regained',
    lostAtUnixMs: at(10).unixMs,
    gapMs: 60_000,
    attempts: 2,
    reason: 'stream_ended',
  });
  expect(contact.recorded(at(80))).toBeUndefined();
});

test('a control plane that is away from the start is unreachable, not lost after contact', () => {
  const contact = new Contact(at(0));
  expect(contact.attemptFailed('unreachable')).toEqual({
    kind: 'lost',
    lastContactUnixMs: 0,
    reason: 'unreachable',
  });
});

test('beats that are not recorded are a loss after three intervals', () => {
  const contact = new Contact(at(0));
  contact.recorded(at(10));
  expect(contact.notRecorded(at(15), 5_000)).toBeUndefined();
  expect(contact.notRecorded(at(25), 5_000)).toMatchObject({ reason: 'not_recorded' });
});

test('every loss has one regain, however events fall', () => {
  const happening = fc.constantFrom('recorded', 'failed', 'unanswered', 'notRecorded');
  fc.assert(
    fc.property(fc.array(happening, { maxLength: 60 }), (happenings) => {
      const contact = new Contact(at(0));
      const notes = happenings.flatMap((what, second) => {
        switch (what) {
          case 'recorded':
            return contact.recorded(at(second)) ?? [];
          case 'failed':
            return contact.attemptFailed('unreachable') ?? [];
          case 'unanswered':
            return contact.unanswered() ?? [];
          default:
            return contact.notRecorded(at(second), 1_000) ?? [];
        }
      });
      notes.forEach((note, index) => {
        expect(note.kind).toBe(index % 2 === 0 ? 'lost' : 'regained');
      });
    }),
  );
});
