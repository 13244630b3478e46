/**
 * What a rollout does next: given its stages, how far the agents of the vaults are that it reached,
 * and the time. No I/O.
 */
import type { RolloutHalt, RolloutStage } from '@keystead/contracts/policy';
import { isAbove } from '../replays/replay-verdict.ts';

export interface RolloutFacts {
  stage: number;
  stages: readonly RolloutStage[];
  halt: RolloutHalt;
  /** What was counted before somebody resumed a halted rollout: it does not halt it again. */
  forgiven: Troubles;
  stageStartedAtMs: number;
}

export interface Troubles {
  rejected: number;
  errors: number;
  newlyDenied: number;
  /** Found by the newest replay of what the set says; 0 without one. */
  replayedDenials: number;
}

export interface Progress extends Troubles {
  /** Agents of the vaults reached so far. */
  agents: number;
  active: number;
  /** Heard now, and not yet deciding by the set; those that are away converge when they return. */
  waiting: number;
  /** Of those, how many have been for longer than they may. */
  unanswered: number;
  /** Not waited for: somebody said that it goes on without them. */
  skipped: number;
  /** Of the decisions that the replay could evaluate, from 0 to 1. */
  replayedShare: number;
}

export type HaltReason =
  | 'halted_rejections'
  | 'halted_errors'
  | 'halted_denials'
  | 'halted_replay'
  | 'halted_unanswered';

export type RolloutStep =
  | { do: 'nothing' }
  | { do: 'halt'; reason: HaltReason }
  | { do: 'advance' }
  /** The stage is done and somebody has to say that it goes on. */
  | { do: 'pause' }
  | { do: 'complete' };

/**
 * What is still forgiven: of what went away meanwhile, because an agent was mended or removed, nothing is
 * kept in store for the next one.
 */
export function stillForgiven(forgiven: Troubles, counted: Troubles): Troubles {
  const still = { ...forgiven };
  for (const kind of Object.keys(forgiven) as (keyof Troubles)[]) {
    still[kind] = Math.min(forgiven[kind], counted[kind]);
  }
  return still;
}

export function nextStep(rollout: RolloutFacts, progress: Progress, nowMs: number): RolloutStep {
  const { halt, forgiven, stages, stage } = rollout;
  const rejected = progress.rejected - forgiven.rejected;
  // Where none is left that could take it, a threshold that is not reached waits for ever.
  const isRejectedByAll = rejected > 0 && progress.rejected >= progress.agents;
  if (rejected >= halt.rejectedAgents || isRejectedByAll) {
    return { do: 'halt', reason: 'halted_rejections' };
  }
  if (progress.errors - forgiven.errors >= halt.evaluationErrors) {
    return { do: 'halt', reason: 'halted_errors' };
  }
  if (halt.newDenials !== null && progress.newlyDenied - forgiven.newlyDenied >= halt.newDenials) {
    return { do: 'halt', reason: 'halted_denials' };
  }
  const { replayedDenials, replayedShare } = progress;
  if (
    halt.stopAboveNewDenials !== null &&
    replayedDenials > forgiven.replayedDenials &&
    isAbove(halt.stopAboveNewDenials, {
      newlyDenied: replayedDenials,
      newlyDeniedShare: replayedShare,
    })
  ) {
    return { do: 'halt', reason: 'halted_replay' };
  }
  const current = stages[stage];
  if (current === undefined) return { do: 'complete' };
  // It waits for them anyway: people hear of it, and may say that it goes on without them.
  if (progress.unanswered > 0) return { do: 'halt', reason: 'halted_unanswered' };
  const { agents, active, skipped } = progress;
  const hasAnswered = agents === 0 || active > 0 || skipped > 0 || forgiven.rejected > 0;
  const isSettled = progress.waiting === 0 && hasAnswered;
  const isWatched = nowMs - rollout.stageStartedAtMs >= current.watchSeconds * 1_000;
  if (!isSettled || !isWatched) return { do: 'nothing' };
  if (stage >= stages.length - 1) return { do: 'complete' };
  return current.afterwards === 'wait' ? { do: 'pause' } : { do: 'advance' };
}
