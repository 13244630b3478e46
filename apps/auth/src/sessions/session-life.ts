/** What becomes of a session when a refresh token of ours is shown. */
import { limits } from '@keystead/contracts/limits';

export interface SessionState {
  refreshHash: Uint8Array;
  expiresAt: Date;
  revokedAt: Date | null;
  createdAt: Date;
}

export type RefreshDecision =
  | { kind: 'rotate'; expiresAt: Date }
  /** Gone, revoked or run out: nothing is left to protect. */
  | { kind: 'ended' }
  /** A token that was traded before: whoever shows it, somebody else may hold the new one. */
  | { kind: 'reused' };

export function decideRefresh(
  session: SessionState | undefined,
  shownHash: Uint8Array,
  now: Date,
): RefreshDecision {
  if (!session || session.revokedAt || session.expiresAt.getTime() <= now.getTime()) {
    return { kind: 'ended' };
  }
  if (Buffer.compare(session.refreshHash, shownHash) !== 0) return { kind: 'reused' };
  return { kind: 'rotate', expiresAt: sessionEnd(session.createdAt, now) };
}

/** A session slides on with every refresh, but not past its longest life. */
export function sessionEnd(createdAt: Date, now: Date): Date {
  return new Date(
    Math.min(
      now.getTime() + limits.refreshTokenTtlSeconds * 1_000,
      createdAt.getTime() + limits.sessionMaxTtlSeconds * 1_000,
    ),
  );
}
