/** What another set would decide differently. */
import type { CompiledSet } from './compile.ts';
import { type Decision, decide } from './decide.ts';
import type { AccessRequest } from './facts.ts';
import { limits } from './limits.ts';
import { Pieces } from './pieces.ts';

export type Change =
  | 'newly_denied'
  | 'newly_allowed'
  /** Allowed by both, with other obligations. */
  | 'obligations_changed'
  /** The same answer for another reason or by other policies. */
  | 'reason_changed';

export interface Difference {
  /** Which of the requests, counted from zero. */
  index: number;
  change: Change;
  before: Decision;
  after: Decision;
}

export interface Simulation {
  requests: number;
  counts: Readonly<Record<Change | 'unchanged', number>>;
  /** How many the new set allows. */
  allowed: number;
  /** Policies of the new set that could not be evaluated, over all requests. */
  errors: number;
  /** The first of each kind that matters most come first: denials, permissions, then the rest. */
  differences: readonly Difference[];
  /** How many more there are than are told. */
  untold: number;
}

const obligationsOf = (decision: Decision) =>
  JSON.stringify(decision.obligations.map(({ policyId, ...obligation }) => obligation));

export function changeBetween(before: Decision, after: Decision): Change | undefined {
  if (before.decision !== after.decision) {
    return after.decision === 'deny' ? 'newly_denied' : 'newly_allowed';
  }
  if (after.decision === 'allow' && obligationsOf(before) !== obligationsOf(after)) {
    return 'obligations_changed';
  }
  return before.reason === after.reason && before.policyIds.join() === after.policyIds.join()
    ? undefined
    : 'reason_changed';
}

/** Decides each request with both sets. Requests beyond the limit are not looked at. */
export async function simulate(
  before: CompiledSet,
  after: CompiledSet,
  requests: Iterable<AccessRequest>,
): Promise<Simulation> {
  const counts = {
    newly_denied: 0,
    newly_allowed: 0,
    obligations_changed: 0,
    reason_changed: 0,
    unchanged: 0,
  };
  const found: Record<Change, Difference[]> = {
    newly_denied: [],
    newly_allowed: [],
    obligations_changed: [],
    reason_changed: [],
  };
  const pieces = new Pieces();
  let index = 0;
  let errors = 0;
  let allowed = 0;
  for (const request of requests) {
    if (index >= limits.simulatedRequests) break;
    const was = decide(before, request);
    const will = decide(after, request);
    errors += will.errors.length;
    if (will.decision === 'allow') allowed += 1;
    const change = changeBetween(was, will);
    counts[change ?? 'unchanged'] += 1;
    if (change && found[change].length < limits.differencesReported) {
      found[change].push({ index, change, before: was, after: will });
    }
    index += 1;
    await pieces.rest();
  }
  const differences = Object.values(found).flat().slice(0, limits.differencesReported);
  const all = index - counts.unchanged;
  return {
    requests: index,
    counts,
    allowed,
    errors,
    differences,
    untold: all - differences.length,
  };
}
