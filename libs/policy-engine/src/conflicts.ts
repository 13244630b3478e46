/**
 * What is odd about a set as a whole: policies that never apply, that others make idle, that contradict
 * each other, or whose obligations meet. It reads scopes and simple conditions (names, tags, numbers)
 * and takes everything else as it stands, so what it reports as shadowed is; an overlap is reported
 * unless it can be excluded.
 */
import type { Expr } from '@cedar-policy/cedar-wasm/nodejs';
import { agentActions } from '@keystead/contracts/agent-api/actions';
import type { CompiledSet } from './compile.ts';
import { limits } from './limits.ts';
import { Pieces } from './pieces.ts';
import type { CompiledPolicy } from './slices.ts';
import {
  type Alternative,
  bodyOf,
  chainOf,
  constantOf,
  likeTest,
  operatorOf,
  readName,
  textOf,
} from './study.ts';
import { resourceTypesOf } from './vocabulary.ts';

export type ConflictKind =
  /** Its scope or its conditions exclude themselves. */
  | 'never_matching'
  /** Whenever it applies another applies too and makes it idle. */
  | 'shadowed'
  /** One permits and one forbids; where both apply, it is forbidden. */
  | 'contradictory'
  /** Both permit, and the obligations of one or both hold where they meet. */
  | 'overlapping';

export interface Conflict {
  kind: ConflictKind;
  /** The one it is about, then the other. */
  policyIds: readonly string[];
  what: string;
}

export interface ConflictReport {
  conflicts: readonly Conflict[];
  /** False: there were too many pairs or too many findings to look at all. */
  complete: boolean;
}

type PatternPart = 'Wildcard' | { Literal: string };
type Pair = { left: Expr; right: Expr };

interface Interval {
  least: number;
  most: number;
}

/** What a policy demands, as far as it is understood. */
interface Demands {
  policy: CompiledPolicy;
  actions: ReadonlySet<string> | undefined;
  /** Of each number that is read. */
  intervals: Map<string, Interval>;
  /** Texts that a reading must be one of. */
  equals: Map<string, string>;
  likes: Map<string, string[]>;
  contains: Map<string, Set<string>>;
  /** Every condition, so that the same words are known to mean the same. */
  words: Set<string>;
  /** Conditions that are not understood, which may exclude anything. */
  opaque: string[];
  impossible: boolean;
}

const turned: Record<string, string> = { '<': '>', '<=': '>=', '>': '<', '>=': '<=', '==': '==' };

function demandsOf(policy: CompiledPolicy): Demands {
  const demands: Demands = {
    policy,
    actions: policy.study.actions && new Set(policy.study.actions),
    intervals: new Map(),
    equals: new Map(),
    likes: new Map(),
    contains: new Map(),
    words: new Set(),
    opaque: [],
    impossible: false,
  };
  for (const conjunct of policy.study.conjuncts) {
    const written = JSON.stringify(conjunct);
    // Numbers that JSON cannot carry look alike and are not.
    const word = /"Value":-?\d{16}/.test(written)
      ? `${policy.level} ${policy.id}: ${written}`
      : written;
    demands.words.add(word);
    if (!understand(conjunct, demands)) demands.opaque.push(word);
  }
  for (const { least, most } of demands.intervals.values()) {
    if (least > most) demands.impossible = true;
  }
  for (const [name, text] of demands.equals) {
    for (const like of demands.likes.get(name) ?? []) {
      if (!fits(like, text)) demands.impossible = true;
    }
  }
  if (!scopesMeet(policy)) demands.impossible = true;
  return demands;
}

/** A pattern as text: `*` for anything, a star of its own behind a backslash. */
const patternText = (pattern: readonly PatternPart[]) =>
  pattern.map((part) => (part === 'Wildcard' ? '\u0001' : part.Literal)).join('');

const fitters = new Map<string, (text: string) => boolean>();

function fits(pattern: string, text: string): boolean {
  let fitter = fitters.get(pattern);
  if (fitter === undefined) {
    fitter = likeTest(
      [...pattern].map((sign) => (sign === '\u0001' ? ('Wildcard' as const) : { Literal: sign })),
    );
    if (fitters.size > 10_000) fitters.clear();
    fitters.set(pattern, fitter);
  }
  return fitter(text);
}

function understand(expr: Expr, demands: Demands): boolean {
  const operator = operatorOf(expr);
  if (operator === 'like') {
    const { left, pattern } = bodyOf(expr) as { left: Expr; pattern: PatternPart[] };
    const chain = chainOf(left);
    if (!chain) return false;
    const name = readName(chain);
    demands.likes.set(name, [...(demands.likes.get(name) ?? []), patternText(pattern)]);
    return true;
  }
  if (operator === 'contains') {
    const { left, right } = bodyOf(expr) as Pair;
    const chain = chainOf(left);
    const text = textOf(right);
    if (!chain || text === undefined) return false;
    const name = readName(chain);
    const known = demands.contains.get(name) ?? new Set();
    known.add(text);
    demands.contains.set(name, known);
    return true;
  }
  if (!(operator in turned)) return false;
  const { left, right } = bodyOf(expr) as Pair;
  for (const [side, other, sign] of [
    [left, right, operator],
    [right, left, turned[operator] as string],
  ] as const) {
    const chain = chainOf(side);
    if (!chain) continue;
    const name = readName(chain);
    const text = textOf(other);
    if (sign === '==' && text !== undefined) {
      const known = demands.equals.get(name);
      if (known !== undefined && known !== text) demands.impossible = true;
      demands.equals.set(name, text);
      return true;
    }
    const constant = constantOf(other);
    if (constant === undefined) continue;
    const interval = demands.intervals.get(name) ?? { least: -Infinity, most: Infinity };
    if (sign === '<') interval.most = Math.min(interval.most, constant - 1);
    if (sign === '<=') interval.most = Math.min(interval.most, constant);
    if (sign === '>') interval.least = Math.max(interval.least, constant + 1);
    if (sign === '>=') interval.least = Math.max(interval.least, constant);
    if (sign === '==') {
      interval.least = Math.max(interval.least, constant);
      interval.most = Math.min(interval.most, constant);
    }
    demands.intervals.set(name, interval);
    return true;
  }
  return false;
}

const typesWithin: Record<string, readonly string[]> = {
  Secret: ['Secret'],
  Namespace: ['Namespace', 'Secret'],
  Vault: ['Vault', 'Namespace', 'Secret'],
};

/** Whether some action of the scope is done to something of its resources. */
function scopesMeet({ study, namespace }: CompiledPolicy): boolean {
  const reached = new Set(
    (study.resource ?? [{}]).flatMap(({ type, entity }: Alternative) => {
      const within = entity ? (typesWithin[entity.type] ?? []) : ['Secret', 'Namespace', 'Vault'];
      return within.filter((one) => type === undefined || one === type);
    }),
  );
  if (namespace !== undefined) reached.delete('Vault');
  return agentActions.some(
    (action) =>
      (study.actions?.includes(action) ?? true) &&
      resourceTypesOf(action).some((type) => reached.has(type)),
  );
}

const isGroup = (type: string) => type === 'Role' || type === 'Namespace' || type === 'Vault';

/** Whether everything that fits `inner` fits `outer`. */
function alternativeCovers(outer: Alternative, inner: Alternative): boolean {
  if (outer.type !== undefined && outer.type !== inner.type) return false;
  if (outer.entity === undefined) return true;
  const { entity } = inner;
  if (entity === undefined) return false;
  if (entity.type === outer.entity.type && entity.id === outer.entity.id) return true;
  // A secret says in its own name where it lies.
  return (
    outer.entity.type === 'Namespace' &&
    entity.type === 'Secret' &&
    entity.id.startsWith(`${outer.entity.id}:`)
  );
}

function scopeCovers(
  outer: readonly Alternative[] | undefined,
  inner: readonly Alternative[] | undefined,
): boolean {
  if (outer === undefined) return true;
  return (inner ?? [{}]).every((one) => outer.some((other) => alternativeCovers(other, one)));
}

function scopesDisjoint(
  a: readonly Alternative[] | undefined,
  b: readonly Alternative[] | undefined,
): boolean {
  if (a === undefined || b === undefined) return false;
  return a.every((one) => b.every((other) => alternativesDisjoint(one, other)));
}

function alternativesDisjoint(a: Alternative, b: Alternative): boolean {
  if (a.type !== undefined && b.type !== undefined && a.type !== b.type) return true;
  if (a.entity === undefined || b.entity === undefined) return false;
  if (a.entity.type === b.entity.type) {
    // Two roles may meet in one person; two namespaces never in one secret.
    return a.entity.id !== b.entity.id && a.entity.type !== 'Role';
  }
  if (isGroup(a.entity.type) && isGroup(b.entity.type)) return false;
  const [group, single] = isGroup(a.entity.type) ? [a.entity, b.entity] : [b.entity, a.entity];
  return (
    group.type === 'Namespace' && single.type === 'Secret' && !single.id.startsWith(`${group.id}:`)
  );
}

/** Whenever `inner` applies, `outer` applies. */
function covers(outer: Demands, inner: Demands): boolean {
  const a = outer.policy.study;
  const b = inner.policy.study;
  if (outer.policy.namespace !== undefined && outer.policy.namespace !== inner.policy.namespace) {
    return false;
  }
  const actions = outer.actions;
  if (actions && !(b.actions?.every((action) => actions.has(action)) ?? false)) return false;
  if (!scopeCovers(a.principal, b.principal) || !scopeCovers(a.resource, b.resource)) return false;
  if (!outer.opaque.every((word) => inner.words.has(word))) return false;
  for (const [name, { least, most }] of outer.intervals) {
    const within = inner.intervals.get(name);
    if (!within || within.least < least || within.most > most) return false;
  }
  for (const [name, text] of outer.equals) if (inner.equals.get(name) !== text) return false;
  for (const [name, patterns] of outer.likes) {
    const text = inner.equals.get(name);
    for (const pattern of patterns) {
      const implied =
        (text !== undefined && fits(pattern, text)) ||
        (inner.likes.get(name) ?? []).some((narrower) => fits(pattern, narrower));
      if (!implied) return false;
    }
  }
  for (const [name, wanted] of outer.contains) {
    const has = inner.contains.get(name);
    for (const text of wanted) if (!has?.has(text)) return false;
  }
  return true;
}

/** Certainly never apply together. */
function disjoint(a: Demands, b: Demands): boolean {
  if (
    a.policy.namespace !== undefined &&
    b.policy.namespace !== undefined &&
    a.policy.namespace !== b.policy.namespace
  ) {
    return true;
  }
  if (a.actions && b.actions && ![...a.actions].some((action) => b.actions?.has(action)))
    return true;
  if (scopesDisjoint(a.policy.study.principal, b.policy.study.principal)) return true;
  if (scopesDisjoint(a.policy.study.resource, b.policy.study.resource)) return true;
  for (const [name, one] of a.intervals) {
    const other = b.intervals.get(name);
    if (other && (one.most < other.least || other.most < one.least)) return true;
  }
  for (const [one, other] of [
    [a, b],
    [b, a],
  ] as const) {
    for (const [name, text] of one.equals) {
      const same = other.equals.get(name);
      if (same !== undefined && same !== text) return true;
      if ((other.likes.get(name) ?? []).some((pattern) => !fits(pattern, text))) return true;
    }
    // `x` and `!x` never hold together.
    for (const word of one.words) if (other.words.has(`{"!":{"arg":${word}}}`)) return true;
  }
  return prefixesDiffer(a, b);
}

function prefixesDiffer(a: Demands, b: Demands): boolean {
  for (const [name, patterns] of a.likes) {
    for (const one of patterns) {
      for (const other of b.likes.get(name) ?? []) {
        const first = one.split('\u0001')[0] ?? '';
        const second = other.split('\u0001')[0] ?? '';
        if (!first.startsWith(second) && !second.startsWith(first)) return true;
      }
    }
  }
  return false;
}

/** What people call a policy; undefined where it has no name but its id. */
export type PolicyNames = (policyId: string) => string | undefined;
type Named = (policy: CompiledPolicy) => string;

function namedBy(names: PolicyNames): Named {
  return ({ id, level, namespace }) => {
    const place = namespace === undefined ? level : `namespace ${namespace}`;
    const name = names(id);
    return name === undefined ? `${id} (${place})` : `"${name}" (${id}, ${place})`;
  };
}

function compare(a: Demands, b: Demands, named: Named): Conflict | undefined {
  const one = a.policy;
  const other = b.policy;
  if (disjoint(a, b)) return undefined;
  const sameLevel = one.level === other.level && one.namespace === other.namespace;
  if (one.study.effect !== other.study.effect) {
    const [permit, forbid] = one.study.effect === 'permit' ? [a, b] : [b, a];
    if (covers(forbid, permit)) {
      return {
        kind: 'shadowed',
        policyIds: [permit.policy.id, forbid.policy.id],
        what: `${named(permit.policy)} permits only what ${named(forbid.policy)} forbids`,
      };
    }
    // That a level forbids some of what a lower one permits is what levels are for.
    if (!sameLevel) return undefined;
    return {
      kind: 'contradictory',
      policyIds: [permit.policy.id, forbid.policy.id],
      what: `where both apply, ${named(forbid.policy)} forbids what ${named(permit.policy)} permits`,
    };
  }
  for (const [inner, outer] of [
    [a, b],
    [b, a],
  ] as const) {
    const idle = inner.policy.obligations.length === 0;
    if (!covers(outer, inner)) continue;
    if (inner.policy.study.effect === 'forbid') {
      if (idle) {
        return {
          kind: 'shadowed',
          policyIds: [inner.policy.id, outer.policy.id],
          what: `${named(inner.policy)} forbids only what ${named(outer.policy)} forbids too`,
        };
      }
      continue;
    }
    if (!sameLevel) continue;
    if (
      outer.policy.priority > inner.policy.priority ||
      (idle && outer.policy.priority === inner.policy.priority)
    ) {
      return {
        kind: 'shadowed',
        policyIds: [inner.policy.id, outer.policy.id],
        what: `${named(inner.policy)} permits only what ${named(outer.policy)} permits too, and ${
          idle ? 'adds no obligation' : 'its obligations never hold'
        }`,
      };
    }
  }
  const oblige = one.obligations.length + other.obligations.length > 0;
  if (!sameLevel || !oblige || one.study.effect === 'forbid') return undefined;
  const [higher, lower] = one.priority >= other.priority ? [one, other] : [other, one];
  return {
    kind: 'overlapping',
    policyIds: [higher.id, lower.id],
    what:
      higher.priority === lower.priority
        ? `where ${named(higher)} and ${named(lower)} both apply, the obligations of both hold`
        : `where ${named(lower)} applies too, only the obligations of ${named(higher)} hold`,
  };
}

const order: readonly ConflictKind[] = [
  'never_matching',
  'shadowed',
  'contradictory',
  'overlapping',
];

/** Looks at every policy and at every pair that shares an action. */
export async function conflicts(
  set: CompiledSet,
  names: PolicyNames = () => undefined,
): Promise<ConflictReport> {
  const named = namedBy(names);
  const pieces = new Pieces();
  const found: Conflict[] = [];
  const byAction = new Map<string, Demands[]>();
  const everywhere: Demands[] = [];
  const all: Demands[] = [];
  for (const policy of set.policies) {
    if (!policy.enabled) continue;
    const demands = demandsOf(policy);
    await pieces.rest();
    if (demands.impossible) {
      found.push({
        kind: 'never_matching',
        policyIds: [policy.id],
        what: `${named(policy)} never applies: its scope or its conditions exclude each other`,
      });
      continue;
    }
    all.push(demands);
    if (!policy.study.actions) everywhere.push(demands);
    for (const action of policy.study.actions ?? []) {
      const there = byAction.get(action) ?? [];
      there.push(demands);
      byAction.set(action, there);
    }
  }
  let pairs = 0;
  const seen = new Set<string>();
  const numbers = new Map(all.map((demands, at) => [demands, at]));
  const look = (a: Demands, b: Demands) => {
    const [first, second] = [numbers.get(a) as number, numbers.get(b) as number].sort(
      (x, y) => x - y,
    );
    const key = `${first} ${second}`;
    if (seen.has(key)) return;
    seen.add(key);
    const conflict = compare(a, b, named);
    if (conflict) found.push(conflict);
  };
  const groups = [...byAction.values(), everywhere];
  let complete = true;
  walk: for (const group of groups) {
    const others = group === everywhere ? everywhere : [...group, ...everywhere];
    for (const [at, one] of group.entries()) {
      for (let next = at + 1; next < others.length; next += 1) {
        pairs += 1;
        if (pairs > limits.conflictPairsMax || found.length >= limits.conflictsReported) {
          complete = false;
          break walk;
        }
        look(one, others[next] as Demands);
        if (pairs % 200 === 0) await pieces.rest();
      }
    }
  }
  found.sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
  return { conflicts: found, complete };
}
