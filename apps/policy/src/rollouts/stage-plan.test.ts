import type { RolloutStage } from '@keystead/contracts/policy';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { planStages } from './stage-plan.ts';

const stage = (vaults: RolloutStage['vaults']): RolloutStage => ({
  vaults,
  watchSeconds: 0,
  afterwards: 'continue',
});
const named = (...ids: string[]) => stage({ kind: 'named', vaultIds: ids as never });
const percent = (share: number) => stage({ kind: 'percent', percent: share });
const all = stage({ kind: 'all' });
const ids = (count: number) => Array.from({ length: count }, (_, index) => `v${index}`);
const sizes = (plan: Map<string, number>, stages: number) =>
  Array.from(
    { length: stages },
    (_, index) => [...plan.values()].filter((at) => at === index).length,
  );

test('canaries go first, then shares of all, then the rest', () => {
  const stages = [named('v7', 'v9'), percent(10), percent(50), all];
  const plan = planStages(ids(100), stages, (id) => id);
  expect(sizes(plan, 4)).toEqual([2, 8, 40, 50]);
  expect(plan.get('v7')).toBe(0);
});

test('a share takes at least one vault, and what no stage reaches stays out', () => {
  expect(
    sizes(
      planStages(ids(3), [percent(0.1), percent(1)], (id) => id),
      2,
    ),
  ).toEqual([1, 1]);
  expect(planStages(ids(3), [named('elsewhere')], (id) => id).size).toBe(0);
});

test('every vault has one stage at most, and a last stage for all leaves none out', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 300 }),
      fc.array(fc.double({ min: 0.01, max: 100, noNaN: true }), { maxLength: 6 }),
      (count, shares) => {
        const plan = planStages(ids(count), [...shares.map(percent), all], (id) => id);
        expect(plan.size).toBe(count);
      },
    ),
  );
});
