/** What people and the control plane are told of a rotation; names leave the agent as keyed hashes only. */
import type { RotatorKind } from '@keystead/contracts/agent-api/rotation';

/** `gave-up`: the last attempt failed. `rolled-back`: somebody else's value is in force. */
export type ReportedOutcome = 'succeeded' | 'failed' | 'gave-up' | 'rolled-back' | 'due-soon';

export interface RotationReport {
  /** The same for every telling of the same fact. */
  id: string;
  namespace: string;
  secret: string;
  outcome: ReportedOutcome;
  /** From 1; 0 for a notice ahead of time. */
  attempt: number;
  rotator: RotatorKind;
  nextDueMs: number | null;
  /** Where and why it failed, without a value. */
  problem: { step: string; code: string; message: string } | null;
  atMs: number;
}

/** Told at least once of everything; must not fail for long. */
export type Report = (report: RotationReport) => void | Promise<void>;
