import { expect, test } from 'vitest';
import {
  type KnownAgent,
  nextDelivery,
  offerAgainAfterMs,
  resendAfterMs,
} from './next-delivery.ts';

const assigned = { number: 5, digest: 'a'.repeat(64) };
const older = { number: 4, digest: 'b'.repeat(64) };
const known = (changes: Partial<KnownAgent>): KnownAgent => ({
  state: 'delivered',
  number: 5,
  deliveredAtMs: 0,
  updatedAtMs: 0,
  ...changes,
});

test('what holds its set is active; what holds another is told once, and again only after a while', () => {
  expect(nextDelivery(assigned, assigned, undefined, 0)).toEqual({ state: 'active', send: false });
  expect(nextDelivery(assigned, older, undefined, 0)).toEqual({ state: 'delivered', send: true });
  expect(nextDelivery(assigned, older, known({}), resendAfterMs - 1).send).toBe(false);
  expect(nextDelivery(assigned, older, known({}), resendAfterMs).send).toBe(true);
});

test('an agent that loses what it held has drifted and is mended', () => {
  for (const held of [older, null]) {
    expect(nextDelivery(assigned, held, known({ state: 'active' }), 1)).toEqual({
      state: 'drifted',
      send: true,
    });
  }
  expect(nextDelivery(assigned, assigned, known({ state: 'drifted' }), 1).state).toBe('active');
});

test('a new number begins anew, whatever became of the one before', () => {
  for (const state of ['active', 'rejected', 'drifted', 'delivered'] as const) {
    expect(nextDelivery(assigned, older, known({ state, number: 4 }), 1)).toEqual({
      state: 'delivered',
      send: true,
    });
  }
});

test('a rejected set is not pressed on an agent', () => {
  const rejected = known({ state: 'rejected' });
  expect(nextDelivery(assigned, older, rejected, offerAgainAfterMs - 1).send).toBe(false);
  expect(nextDelivery(assigned, older, rejected, offerAgainAfterMs)).toEqual({
    state: 'rejected',
    send: true,
  });
});

test('where nothing is assigned nothing is told', () => {
  expect(nextDelivery(null, older, undefined, 0)).toEqual({ state: null, send: false });
});
