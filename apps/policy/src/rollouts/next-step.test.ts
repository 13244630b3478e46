import type { ReplayThreshold } from '@keystead/contracts/policy';
import { expect, test } from 'vitest';
import { nextStep, type Progress, type RolloutFacts, stillForgiven } from './next-step.ts';

const rollout = (changes: Partial<RolloutFacts> = {}): RolloutFacts => ({
  stage: 0,
  stages: [
    { vaults: { kind: 'percent', percent: 1 }, watchSeconds: 60, afterwards: 'continue' },
    { vaults: { kind: 'all' }, watchSeconds: 0, afterwards: 'continue' },
  ],
  halt: {
    rejectedAgents: 1,
    evaluationErrors: 5,
    newDenials: 100,
    stopAboveNewDenials: null,
    answerWithinSeconds: 900,
  },
  forgiven: { rejected: 0, errors: 0, newlyDenied: 0, replayedDenials: 0 },
  stageStartedAtMs: 0,
  ...changes,
});
const progress = (changes: Partial<Progress> = {}): Progress => ({
  agents: 2,
  active: 2,
  waiting: 0,
  unanswered: 0,
  skipped: 0,
  rejected: 0,
  errors: 0,
  newlyDenied: 0,
  replayedDenials: 0,
  replayedShare: 0,
  ...changes,
});

test('a stage goes on when its agents decide by the set and it was watched for its time', () => {
  expect(nextStep(rollout(), progress(), 59_999)).toEqual({ do: 'nothing' });
  expect(nextStep(rollout(), progress({ waiting: 1 }), 60_000)).toEqual({ do: 'nothing' });
  expect(nextStep(rollout(), progress(), 60_000)).toEqual({ do: 'advance' });
  expect(nextStep(rollout({ stage: 1 }), progress(), 0)).toEqual({ do: 'complete' });
});

test('agents that are away hold nothing up, but canaries of which none answers prove nothing', () => {
  expect(nextStep(rollout(), progress({ active: 1 }), 60_000)).toEqual({ do: 'advance' });
  expect(nextStep(rollout(), progress({ active: 0 }), 60_000)).toEqual({ do: 'nothing' });
  expect(nextStep(rollout(), progress({ agents: 0, active: 0 }), 60_000)).toEqual({
    do: 'advance',
  });
});

test('it halts at once on rejections, failing evaluations and new denials', () => {
  const halted = (changes: Partial<Progress>) => nextStep(rollout(), progress(changes), 0);
  expect(halted({ rejected: 1 })).toEqual({ do: 'halt', reason: 'halted_rejections' });
  expect(halted({ errors: 5 })).toEqual({ do: 'halt', reason: 'halted_errors' });
  expect(halted({ newlyDenied: 100 })).toEqual({ do: 'halt', reason: 'halted_denials' });
  expect(halted({ errors: 4, newlyDenied: 99 })).toEqual({ do: 'nothing' });
  const unlimited = rollout({
    halt: { ...rollout().halt, newDenials: null },
  });
  expect(nextStep(unlimited, progress({ newlyDenied: 1e9 }), 0)).toEqual({ do: 'nothing' });
});

test('what was forgiven does not halt it again, what comes on top does', () => {
  const forgiven = { rejected: 1, errors: 0, newlyDenied: 0, replayedDenials: 0 };
  expect(nextStep(rollout({ forgiven }), progress({ rejected: 1 }), 0)).toEqual({ do: 'nothing' });
  expect(nextStep(rollout({ forgiven }), progress({ rejected: 2 }), 0)).toMatchObject({
    do: 'halt',
  });
});

test('a stage that all reject halts below the threshold too, and goes on where that is forgiven', () => {
  const halt = { ...rollout().halt, rejectedAgents: 100 };
  const all = progress({ agents: 2, active: 0, rejected: 2 });
  expect(nextStep(rollout({ halt }), { ...all, rejected: 1 }, 60_000)).toEqual({ do: 'nothing' });
  expect(nextStep(rollout({ halt }), all, 0)).toMatchObject({ do: 'halt' });
  const forgiven = { ...rollout().forgiven, rejected: 2 };
  expect(nextStep(rollout({ halt, forgiven }), all, 60_000)).toEqual({ do: 'advance' });
});

test('it halts when a replay finds more newly denied than was allowed, in number or as a share', () => {
  const stopped = (threshold: ReplayThreshold, changes: Partial<Progress>, forgiven = 0) =>
    nextStep(
      rollout({
        halt: { ...rollout().halt, stopAboveNewDenials: threshold },
        forgiven: { rejected: 0, errors: 0, newlyDenied: 0, replayedDenials: forgiven },
      }),
      progress(changes),
      0,
    );
  const halt = { do: 'halt', reason: 'halted_replay' };
  const some = { replayedDenials: 11, replayedShare: 0.02 };
  expect(stopped({ count: 10 }, some)).toEqual(halt);
  expect(stopped({ count: 11 }, some)).toEqual({ do: 'nothing' });
  expect(stopped({ share: 0.01 }, some)).toEqual(halt);
  expect(stopped({ share: 0.02, count: 100 }, some)).toEqual({ do: 'nothing' });
  expect(stopped({ count: 0 }, {})).toEqual({ do: 'nothing' });
  expect(stopped({ count: 10 }, some, 11)).toEqual({ do: 'nothing' });
  expect(stopped({ count: 10 }, { ...some, replayedDenials: 12 }, 11)).toEqual(halt);
});

test('what went away is no longer forgiven: the next one counts', () => {
  const none = { ...rollout().forgiven };
  expect(stillForgiven({ ...none, rejected: 1, errors: 3 }, { ...none, errors: 9 })).toEqual({
    ...none,
    errors: 3,
  });
});

test('agents that are heard and do not answer in time halt it, after everything that is worse', () => {
  const silent = progress({ active: 1, waiting: 1, unanswered: 1 });
  expect(nextStep(rollout(), silent, 0)).toEqual({ do: 'halt', reason: 'halted_unanswered' });
  expect(nextStep(rollout(), { ...silent, rejected: 1 }, 0)).toEqual({
    do: 'halt',
    reason: 'halted_rejections',
  });
  expect(nextStep(rollout(), { ...silent, unanswered: 0 }, 60_000)).toEqual({ do: 'nothing' });
  // Somebody said that it goes on without them.
  const without = progress({ active: 0, waiting: 0, skipped: 2 });
  expect(nextStep(rollout(), without, 60_000)).toEqual({ do: 'advance' });
});

test('a stage that waits for somebody pauses', () => {
  const waits = rollout();
  waits.stages = waits.stages.map((stage) => ({ ...stage, afterwards: 'wait' as const }));
  expect(nextStep(waits, progress(), 60_000)).toEqual({ do: 'pause' });
});
