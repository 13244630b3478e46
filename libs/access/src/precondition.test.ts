import { ServiceError } from '@keystead/contracts/errors';
import { expect, test } from 'vitest';
import { checkMatch, etagOf } from './precondition.ts';

function answer(ifMatch: string | null, revision: number, required: boolean): string {
  try {
    checkMatch(ifMatch, revision, required);
    return 'goes on';
  } catch (error) {
    return (error as ServiceError).code;
  }
}

test('a write goes on where it names the state as it is, one of several, or any', () => {
  for (const named of [etagOf(3), `W/${etagOf(3)}`, `"1", ${etagOf(3)}`, '*', ' * ']) {
    expect(answer(named, 3, true), named).toBe('goes on');
  }
});

test('a write that names another state changes nothing', () => {
  for (const named of [etagOf(2), '3', '"33"', '', '""', '"*"']) {
    expect(answer(named, 3, false), named).toBe('precondition_failed');
  }
});

test('a write that must name a state and does not is told so', () => {
  expect(answer(null, 3, true)).toBe('precondition_required');
  expect(answer(null, 3, false)).toBe('goes on');
});
