import { newUuid, toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import { applyPolicies } from '@keystead/contracts/policy';
import { expect, test } from 'vitest';
import { answerOf, type Step } from './plan-answer.ts';

const step = (action: Step['action'], at: number, problems = 0, what = 'is wrong'): Step => ({
  action,
  name: `${at} ${'ж'.repeat(limits.nameMaxLength - 5)}`,
  policyId: toId('policy', newUuid()),
  version: 1,
  detail: `the policy set ${'ж'.repeat(limits.nameMaxLength)} holds it`,
  problems: Array.from({ length: problems }, (_, index) => ({
    severity: 'error' as const,
    where: { line: index + 1, column: 1 },
    what,
  })),
});
const many = (count: number, make: (at: number) => Step) =>
  Array.from({ length: count }, (_, at) => make(at));
const bytesOf = (answer: unknown) =>
  Buffer.byteLength(JSON.stringify(applyPolicies.output.parse(answer)));

test('a plan that fits is told whole, in its order', () => {
  const steps = [step('unchanged', 0), step('create', 1, 2), step('keep', 2), step('delete', 3)];
  expect(answerOf(false, steps)).toEqual({
    applied: false,
    counts: { create: 1, update: 0, unchanged: 1, delete: 1, keep: 1 },
    truncated: false,
    steps,
  });
});

test('of a plan that the bus does not carry what changes is told first, the counts are of all, and it says so', () => {
  const kept = many(limits.policiesPerOrganization, (at) => step('keep', at));
  const deleted = many(800, (at) => step('delete', at));
  const answer = answerOf(true, [...kept, ...deleted]);
  expect(bytesOf(answer)).toBeLessThan(limits.busPayloadMaxBytes);
  expect(answer).toMatchObject({
    truncated: true,
    counts: { keep: limits.policiesPerOrganization, delete: 800 },
  });
  expect(answer.steps.filter(({ action }) => action === 'delete')).toEqual(deleted);
});

test('of problems that the bus does not carry each file tells its first, and it says so', () => {
  const steps = many(limits.policyFilesPerApply, (at) => step('create', at, 30, 'x'.repeat(1_000)));
  const answer = answerOf(false, steps);
  expect(bytesOf(answer)).toBeLessThan(limits.busPayloadMaxBytes);
  expect(answer.truncated).toBe(true);
  expect(answer.steps).toHaveLength(limits.policyFilesPerApply);
  expect(answer.steps.every(({ problems }) => problems[0]?.where.line === 1)).toBe(true);
  // A single file tells a part of them too.
  expect(answerOf(false, [step('create', 0, 30)])).toMatchObject({ truncated: true });
});
