/** What is told of a plan: one answer does not carry all that may be said of many policies. No I/O. */

import { AnswerRoom } from '@keystead/access/answer-size';
import type { Output } from '@keystead/contracts/operation';
import type { applyPolicies } from '@keystead/contracts/policy';

export type Answer = Output<typeof applyPolicies>;
export type Step = Answer['steps'][number];

/** What a plan tells of one file; the rest is there when the file is checked by itself. */
const problemsPerFile = 20;

/** As much as one answer carries: what changes before what does not, then one problem of each file, and so on. */
export function answerOf(applied: boolean, steps: readonly Step[]): Answer {
  const counts = { create: 0, update: 0, unchanged: 0, delete: 0, keep: 0 };
  for (const { action } of steps) counts[action] += 1;
  const room = new AnswerRoom();
  const shown = new Map<Step, Step>();
  const changesNothing = ({ action }: Step) => action === 'unchanged' || action === 'keep';
  for (const step of [
    ...steps.filter((step) => !changesNothing(step)),
    ...steps.filter(changesNothing),
  ]) {
    const without: Step = { ...step, problems: [] };
    if (!room.takes(without)) break;
    shown.set(step, without);
  }
  let untold = 0;
  for (let at = 0; at < problemsPerFile; at += 1) {
    for (const [{ problems }, told] of shown) {
      const problem = problems[at];
      if (problem === undefined) continue;
      if (room.takes(problem)) told.problems.push(problem);
      else untold += 1;
    }
  }
  for (const { problems } of steps) untold += Math.max(0, problems.length - problemsPerFile);
  return {
    applied,
    counts,
    truncated: untold > 0 || shown.size < steps.length,
    steps: steps.flatMap((step) => shown.get(step) ?? []),
  };
}
