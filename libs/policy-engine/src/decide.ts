/**
 * May this be done? Synchronous, and never anything but an answer: whatever goes wrong is a denial
 * that says so. Cedar decides; what it decided is remembered under everything that the policies of
 * the slice can read, so that an equal question has an equal answer.
 */

import { bench } from './cedar.ts';
import type { CompiledSet, Refusal } from './compile.ts';
import { type AccessRequest, cedarCallOf, type Facts, factsOf } from './facts.ts';
import { limits } from './limits.ts';
import type { Memory } from './memory.ts';
import type { Obligation } from './obligations.ts';
import { type LevelName } from './policy-set.ts';
import { type Candidates, type CompiledPolicy, levelOrder, type Slice } from './slices.ts';

export type DecisionReason =
  /** Every level permits. */
  | 'permitted'
  /** A policy forbids it. */
  | 'forbidden'
  /** No policy of some level permits it. */
  | 'not_permitted'
  /** A policy that forbids could not be evaluated. */
  | 'policy_failed'
  | 'clock_untrusted'
  | 'cost_limit'
  | 'invalid_request'
  | 'engine_failed'
  | Refusal;

export interface Decision {
  decision: 'allow' | 'deny';
  reason: DecisionReason;
  /** The first level that does not permit; only with `not_permitted`. */
  level?: LevelName;
  /** Which decided: those of the highest priority that permit at each level, or those that forbid. */
  policyIds: readonly string[];
  /** What must be done besides; on a denial there is only what tells somebody. */
  obligations: readonly Obligation[];
  /** Policies that could not be evaluated, and what else went wrong; for the log. */
  errors: readonly { policyId?: string; message: string }[];
}

const nothing = Object.freeze([]) as readonly never[];

function denied(reason: DecisionReason, message?: string, level?: LevelName): Decision {
  return {
    decision: 'deny',
    reason,
    ...(level === undefined ? {} : { level }),
    policyIds: nothing,
    obligations: nothing,
    errors: message === undefined ? nothing : [{ message }],
  };
}

/**
 * Decides, and remembers. Takes some microseconds when an equal question was asked before.
 * @param memory where it is remembered: another for questions that would push out those of every day
 */
export function decide(
  set: CompiledSet,
  request: AccessRequest,
  memory: Memory<Decision> = set.memory,
): Decision {
  set.counts.decided += 1;
  if (set.refusal !== undefined) return denied(set.refusal);
  try {
    const facts = factsOf(request, set.networks);
    if (typeof facts === 'string') return denied('invalid_request', facts);
    const slice = set.slices.sliceFor(facts);
    if (slice.readsClock && request.context.clockTrusted === false) {
      return denied('clock_untrusted');
    }
    const fingerprint = slice.fingerprint?.(facts);
    if (fingerprint === undefined) return evaluate(set, slice, facts);
    const key = `${slice.key.length}:${slice.key}${fingerprint}`;
    const known = memory.get(key);
    if (known !== undefined) {
      set.counts.remembered += 1;
      return known;
    }
    const decision = evaluate(set, slice, facts);
    // What went wrong once may go well the next time.
    if (decision.errors.length === 0 && decision.reason !== 'cost_limit') {
      memory.set(key, deepFreeze(decision));
    }
    return decision;
  } catch (error) {
    set.counts.failed += 1;
    return denied('engine_failed', error instanceof Error ? error.message : 'unknown');
  }
}

/** Whether every secret that lies beside that of the request would be decided about as it is. */
export function decidesAlike(set: CompiledSet, request: AccessRequest): boolean {
  if (set.refusal !== undefined) return true;
  const facts = factsOf(request, set.networks);
  return typeof facts !== 'string' && set.slices.decidesAlike(facts);
}

function deepFreeze(decision: Decision): Decision {
  Object.freeze(decision.policyIds);
  Object.freeze(decision.obligations);
  Object.freeze(decision.errors);
  return Object.freeze(decision);
}

function evaluate(set: CompiledSet, slice: Slice, facts: Facts): Decision {
  const candidates = set.slices.candidatesOf(slice, facts);
  if (candidates === undefined) {
    return denied('cost_limit', 'too many policies apply to this request');
  }
  if (candidates.policies.length === 0) return concludeFrom(slice, [], [], []);
  const matched = matchPatterns(candidates, facts);
  if (matched === undefined) return denied('cost_limit', 'the patterns would take too long');
  set.counts.evaluated += 1;
  const call = cedarCallOf(
    facts,
    candidates.reads,
    candidates.roles,
    candidates.navigates,
    matched,
    candidates.zones,
  );
  const permits: CompiledPolicy[] = [];
  const forbids: CompiledPolicy[] = [];
  const failed: { policy: CompiledPolicy; message: string }[] = [];
  for (const block of candidates.blocks) {
    const { slot } = set.slices.prepared(block);
    const answer = bench.run((cedar) =>
      cedar.statefulIsAuthorized({ ...call, preparsedPolicySetId: slot, validateRequest: false }),
    );
    if (answer.type !== 'success') {
      set.counts.failed += 1;
      return denied('engine_failed', answer.errors[0]?.message ?? 'no answer');
    }
    const policyOf = (id: string) =>
      block.policies[Number(id.slice('policy'.length))] as CompiledPolicy;
    for (const id of answer.response.diagnostics.reason) {
      const policy = policyOf(id);
      (policy.study.effect === 'permit' ? permits : forbids).push(policy);
    }
    for (const { policyId, error } of answer.response.diagnostics.errors) {
      failed.push({ policy: policyOf(policyId), message: error.message });
    }
  }
  return concludeFrom(slice, permits, forbids, failed);
}

/** The literals of `context.matches`; undefined when finding them would cost too much. */
function matchPatterns(candidates: Candidates, facts: Facts): string[] | undefined {
  const matched: string[] = [];
  let steps = 0;
  for (const { match, read } of candidates.matches) {
    const text = read(facts);
    if (text === undefined) continue;
    steps += match.programSize * text.length;
    if (steps > limits.patternStepsPerDecision) return undefined;
    if (match.pattern.matcher(text).find()) matched.push(match.literal);
  }
  return matched;
}

const byLevelAndId = (a: CompiledPolicy, b: CompiledPolicy) =>
  levelOrder(a.level) - levelOrder(b.level) || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);

/** Explicit denial wins; then every level must permit; then priority decides whose obligations hold. */
export function concludeFrom(
  slice: Pick<Slice, 'levels'>,
  permits: readonly CompiledPolicy[],
  forbids: readonly CompiledPolicy[],
  failed: readonly { policy: CompiledPolicy; message: string }[],
): Decision {
  const errors = failed.map(({ policy, message }) => ({ policyId: policy.id, message }));
  if (forbids.length > 0) {
    const deciding = [...forbids].sort(byLevelAndId);
    return {
      decision: 'deny',
      reason: 'forbidden',
      policyIds: deciding.map(({ id }) => id),
      obligations: deciding.flatMap(({ obligations }) => obligations),
      errors,
    };
  }
  const brokenForbid = failed.filter(({ policy }) => policy.study.effect === 'forbid');
  if (brokenForbid.length > 0) {
    return {
      ...denied('policy_failed'),
      policyIds: brokenForbid.map(({ policy }) => policy.id).sort(),
      errors,
    };
  }
  const deciding: CompiledPolicy[] = [];
  let silent: LevelName | undefined;
  for (const { level, otherwise } of slice.levels) {
    const permitting = permits.filter((policy) => policy.level === level);
    if (permitting.length === 0) {
      if (otherwise === 'deny') return { ...denied('not_permitted', undefined, level), errors };
      silent ??= level;
      continue;
    }
    const highest = permitting.reduce((most, { priority }) => Math.max(most, priority), -Infinity);
    deciding.push(...permitting.filter(({ priority }) => priority === highest).sort(byLevelAndId));
  }
  if (deciding.length === 0) return { ...denied('not_permitted', undefined, silent), errors };
  return {
    decision: 'allow',
    reason: 'permitted',
    policyIds: deciding.map(({ id }) => id),
    obligations: deciding.flatMap(({ obligations }) => obligations),
    errors,
  };
}
