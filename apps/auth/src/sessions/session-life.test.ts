import { limits } from '@keystead/contracts/limits';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decideRefresh, type SessionState, sessionEnd } from './session-life.ts';

const hash = (byte: number) => new Uint8Array(32).fill(byte);
const start = new Date('2026-01-01T00:00:00Z');
const later = (seconds: number) => new Date(start.getTime() + seconds * 1_000);
const session = (given: Partial<SessionState> = {}): SessionState => ({
  refreshHash: hash(1),
  createdAt: start,
  expiresAt: sessionEnd(start, start),
  revokedAt: null,
  ...given,
});

test('the current token is traded, an older one ends the session', () => {
  expect(decideRefresh(session(), hash(1), later(60)).kind).toBe('rotate');
  expect(decideRefresh(session(), hash(2), later(60)).kind).toBe('reused');
});

test('a session that is gone, revoked or run out trades nothing', () => {
  expect(decideRefresh(undefined, hash(1), start).kind).toBe('ended');
  expect(decideRefresh(session({ revokedAt: start }), hash(1), later(1)).kind).toBe('ended');
  expect(decideRefresh(session({ revokedAt: start }), hash(2), later(1)).kind).toBe('ended');
  const end = later(limits.refreshTokenTtlSeconds);
  expect(decideRefresh(session(), hash(1), end).kind).toBe('ended');
});

test('however often it is refreshed, a session does not outlive its longest life', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: limits.refreshTokenTtlSeconds - 1 }), { maxLength: 60 }),
      (pauses) => {
        let state = session();
        let now = start;
        for (const pause of pauses) {
          now = new Date(now.getTime() + pause * 1_000);
          const decision = decideRefresh(state, hash(1), now);
          if (decision.kind !== 'rotate') break;
          state = { ...state, expiresAt: decision.expiresAt };
        }
        expect(state.expiresAt.getTime()).toBeLessThanOrEqual(
          later(limits.sessionMaxTtlSeconds).getTime(),
        );
      },
    ),
  );
});
