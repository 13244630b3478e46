/** Why a request is decided as it is: each policy that could apply, and which of its conditions hold. */
import type { Expr, PolicyJson } from '@cedar-policy/cedar-wasm/nodejs';
import { bench } from './cedar.ts';
import type { CompiledSet } from './compile.ts';
import { type Decision, decide } from './decide.ts';
import { type AccessRequest, cedarCallOf, type Facts, factsOf, textReaderOf } from './facts.ts';
import { limits } from './limits.ts';
import { Pieces } from './pieces.ts';
import type { LevelName } from './policy-set.ts';
import type { CompiledPolicy } from './slices.ts';

export interface ExplainedCondition {
  /** As Cedar writes it. */
  text: string;
  holds: boolean;
  /** It could not be evaluated. */
  failed?: string;
}

export interface ExplainedPolicy {
  id: string;
  level: LevelName;
  namespace?: string;
  effect: 'permit' | 'forbid';
  priority: number;
  /** All of its conditions hold. */
  applies: boolean;
  /** Its words had a part in the decision. */
  decided: boolean;
  conditions: readonly ExplainedCondition[];
}

export interface Explanation {
  decision: Decision;
  /** The levels that are asked for this request. */
  levels: readonly {
    level: LevelName;
    namespace?: string;
    otherwise: 'deny' | 'permit';
    permits: boolean;
  }[];
  /** Those whose principal, action and resource fit; the others are only counted. */
  policies: readonly ExplainedPolicy[];
  outOfScope: number;
  /** Of those in scope, how many more there are than are told. */
  untold: number;
}

const anything = { op: 'All' } as const;

function conditionPolicy(body: Expr): PolicyJson {
  return {
    effect: 'permit',
    principal: anything,
    action: anything,
    resource: anything,
    conditions: [{ kind: 'when', body }],
  };
}

function textOf(policy: PolicyJson): string {
  const written = bench.run((cedar) => cedar.policyToText(policy));
  if (written.type !== 'success') return 'a condition';
  return (/when \{([\s\S]*)\};?\s*$/.exec(written.text)?.[1] ?? written.text)
    .replace(/\s+/g, ' ')
    .trim();
}

/** Explains one request. Slower than deciding, and for people. */
export async function explain(set: CompiledSet, request: AccessRequest): Promise<Explanation> {
  const decision = decide(set, request);
  const facts = factsOf(request, set.networks);
  if (typeof facts === 'string' || set.refusal !== undefined) {
    return { decision, levels: [], policies: [], outOfScope: 0, untold: 0 };
  }
  const slice = set.slices.sliceFor(facts);
  const pieces = new Pieces();
  const told: ExplainedPolicy[] = [];
  const permitting = new Set<LevelName>();
  for (const policy of slice.policies.slice(0, limits.explainedPolicies)) {
    const one = explainPolicy(policy, decision, facts);
    if (one.applies && one.effect === 'permit') permitting.add(one.level);
    told.push(one);
    await pieces.rest();
  }
  const all = slice.levels.reduce(
    (sum, { policies }) => sum + policies.filter(({ enabled }) => enabled).length,
    0,
  );
  return {
    decision,
    levels: slice.levels.map(({ level, namespace, otherwise }) => ({
      level,
      ...(namespace === undefined ? {} : { namespace }),
      otherwise,
      permits: permitting.has(level) || otherwise === 'permit',
    })),
    policies: told,
    outOfScope: all - slice.policies.length,
    untold: slice.policies.length - told.length,
  };
}

function explainPolicy(policy: CompiledPolicy, decision: Decision, facts: Facts): ExplainedPolicy {
  const { study } = policy;
  const matched = study.matches
    .filter(({ path, pattern }) => {
      const text = textReaderOf(path)(facts);
      return text !== undefined && pattern.matcher(text).find();
    })
    .map(({ literal }) => literal);
  const call = cedarCallOf(facts, undefined, undefined, true, matched, study.mentions.zones);
  const itself = bench.run((cedar) =>
    cedar.isAuthorized({ ...call, policies: { staticPolicies: study.text } }),
  );
  const found = itself.type === 'success' ? itself.response.diagnostics : undefined;
  const applies = (found?.reason.length ?? 0) > 0;
  const conditions = explainConditions(policy, call) ?? [
    {
      text: study.text.slice(study.text.search(/\b(?:when|unless)\s*\{/)),
      holds: applies,
      ...(found?.errors[0] ? { failed: found.errors[0].error.message } : {}),
    },
  ];
  return {
    id: policy.id,
    level: policy.level,
    ...(policy.namespace === undefined ? {} : { namespace: policy.namespace }),
    effect: study.effect,
    priority: policy.priority,
    applies,
    decided: decision.policyIds.includes(policy.id),
    conditions,
  };
}

/** Each condition by itself; undefined for numbers that JSON cannot carry without loss. */
function explainConditions(
  { study }: CompiledPolicy,
  call: ReturnType<typeof cedarCallOf>,
): ExplainedCondition[] | undefined {
  if (/"Value":-?\d{16}/.test(JSON.stringify(study.conjuncts))) return undefined;
  const asked = study.conjuncts.map(conditionPolicy);
  if (asked.length === 0) return [];
  const answer = bench.run((cedar) =>
    cedar.isAuthorized({
      ...call,
      policies: {
        staticPolicies: Object.fromEntries(asked.map((one, at) => [`condition${at}`, one])),
      },
    }),
  );
  if (answer.type !== 'success') return undefined;
  const { reason, errors } = answer.response.diagnostics;
  return asked.map((one, at) => {
    const failed = errors.find(({ policyId }) => policyId === `condition${at}`)?.error.message;
    return {
      text: textOf(one),
      holds: reason.includes(`condition${at}`),
      ...(failed === undefined ? {} : { failed }),
    };
  });
}
