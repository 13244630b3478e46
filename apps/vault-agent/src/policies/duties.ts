/**
 * The agent's own duties come over no network and have no hours. A policy stops them only where it
 * forbids and speaks of `System`.
 */
import type { CompiledSet } from '@keystead/policy-engine/compile';
import type { Decision } from '@keystead/policy-engine/decide';

const naming = new WeakMap<CompiledSet, ReadonlySet<string>>();

/** Policies that forbid and speak of the agent's own duties. */
function dutyPolicies(set: CompiledSet): ReadonlySet<string> {
  let ids = naming.get(set);
  if (ids === undefined) {
    const found = set.policies.filter(
      ({ study }) => study.effect === 'forbid' && /\bSystem\b/.test(study.text),
    );
    ids = new Set(found.map(({ id }) => id));
    naming.set(set, ids);
  }
  return ids;
}

export function namesDuties(set: CompiledSet): boolean {
  return dutyPolicies(set).size > 0;
}

/** Those that stop a duty; none where it goes on. */
export function policiesAgainstDuty(set: CompiledSet, decision: Decision): readonly string[] {
  return decision.reason === 'forbidden' || decision.reason === 'policy_failed'
    ? decision.policyIds.filter((id) => dutyPolicies(set).has(id))
    : [];
}
