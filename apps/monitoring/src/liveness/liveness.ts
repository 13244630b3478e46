/**
 * The decision about one agent: given its row, the time and what we could hear, what is its state
 * now and when is it to be looked at again. No I/O; the sweep applies what comes out.
 */
import { limits } from '@keystead/contracts/limits';
import type { AgentStatus } from '@keystead/contracts/registry';
import type { Hearing } from './hearing.ts';

/** Times are milliseconds since 1970 by the database's clock. */
export interface LivenessRow {
  status: AgentStatus;
  lastSeenAt: number | null;
  statusSince: number;
  countsFrom: number | null;
  gatewayId: string | null;
  offlineAfterMs: number;
  intervalMs: number;
  maintenanceUntil: number | null;
}

export interface Verdict {
  status: AgentStatus;
  /** When to look again; null: only a heartbeat changes anything. */
  dueAt: number | null;
}

/** The soonest second look, so that a row that waits for our own hearing does not spin. */
const soonestMs = 250;

export function nextLiveness(row: LivenessRow, now: number, hearing: Hearing): Verdict {
  switch (row.status) {
    case 'pending':
    case 'offline':
    case 'revoked':
      return { status: row.status, dueAt: null };
    case 'stopped': {
      const until = Math.max(
        row.statusSince + limits.stoppedBecomesOfflineAfterSeconds * 1_000,
        row.maintenanceUntil ?? 0,
      );
      return until <= now
        ? { status: 'offline', dueAt: null }
        : { status: 'stopped', dueAt: until };
    }
    case 'online':
    case 'late': {
      if (row.lastSeenAt === null) return { status: 'pending', dueAt: null };
      const from = Math.max(row.lastSeenAt, row.countsFrom ?? 0);
      const lateAfterMs = limits.lateAfterIntervals * row.intervalMs;
      const offline = hearing.silence(row.gatewayId, from, now, row.offlineAfterMs);
      if (offline.countedMs >= row.offlineAfterMs) return { status: 'offline', dueAt: null };
      const late = hearing.silence(row.gatewayId, from, now, lateAfterMs);
      return late.countedMs >= lateAfterMs
        ? { status: 'late', dueAt: now + Math.max(soonestMs, offline.remainingMs) }
        : { status: 'online', dueAt: now + Math.max(soonestMs, late.remainingMs) };
    }
  }
}

/** When an agent that was heard just now is to be looked at. */
export function dueAfterBeat(now: number, intervalMs: number): number {
  return now + limits.lateAfterIntervals * intervalMs;
}
