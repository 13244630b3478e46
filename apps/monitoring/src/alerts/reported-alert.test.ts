import { expect, test } from 'vitest';
import { nextReportedAlert, type OpenReport, type Report } from './reported-alert.ts';

const raised = (agentId: string, reason: string): Report => ({ agentId, reason, state: 'raised' });
const cleared = (agentId: string, reason: string): Report => ({
  agentId,
  reason,
  state: 'cleared',
});
const open = (agents: Record<string, string[]>, told: string[]): OpenReport => ({
  id: 'known',
  agents: new Map(Object.entries(agents).map(([id, reasons]) => [id, new Set(reasons)])),
  told: new Set(told),
});

test('what is new is told, and what was told goes on', () => {
  expect(nextReportedAlert(undefined, [raised('a', 'x'), raised('b', 'x')])).toMatchObject({
    do: 'raise',
    reasons: ['x'],
    supersedes: null,
    status: 'open',
  });
  expect(nextReportedAlert(open({ a: ['x'] }, ['x']), [raised('b', 'x')])).toMatchObject({
    do: 'keep',
    id: 'known',
    agents: new Map([
      ['a', new Set(['x'])],
      ['b', new Set(['x'])],
    ]),
  });
  expect(nextReportedAlert(open({ a: ['x'] }, ['x']), [raised('a', 'y')])).toMatchObject({
    do: 'raise',
    reasons: ['x', 'y'],
    supersedes: 'known',
  });
});

test('it ends when the last agent takes the last reason back, and not before', () => {
  const known = open({ a: ['x'], b: ['x', 'y'] }, ['x', 'y']);
  expect(nextReportedAlert(known, [cleared('a', 'x')])).toMatchObject({ do: 'keep' });
  expect(nextReportedAlert(known, [cleared('a', 'x'), cleared('b', 'x')])).toMatchObject({
    do: 'keep',
  });
  expect(
    nextReportedAlert(known, [cleared('a', 'x'), cleared('b', 'x'), cleared('b', 'y')]),
  ).toMatchObject({ do: 'resolve', id: 'known' });
  expect(nextReportedAlert(undefined, [cleared('a', 'x')])).toEqual({ do: 'nothing' });
});

test('what began and ended before anybody could be told is told as ended', () => {
  expect(nextReportedAlert(undefined, [raised('a', 'x'), cleared('a', 'x')])).toMatchObject({
    do: 'raise',
    reasons: ['x'],
    status: 'resolved',
  });
});

test('a reason that comes back is not told again while its alert is open', () => {
  expect(nextReportedAlert(open({ a: ['x'] }, ['x', 'y']), [raised('a', 'y')])).toMatchObject({
    do: 'keep',
  });
});
