/**
 * Of ten thousand policies few can apply to one request. A slice holds those that may, by action, by
 * who asks and by what is asked for; all requests that are alike in this share it. Within a slice
 * names and tags leave a set of candidates, and only these are prepared and shown to Cedar.
 * Dropping a policy whose scope does not fit, or one of whose conditions is false before any that may
 * fail, changes neither the decision nor its reasons.
 */
import { bench, type Prepared, prepare, release } from './cedar.ts';
import { type Facts, readerOf, readsClock, textReaderOf, type Value } from './facts.ts';
import { limits } from './limits.ts';
import { Memory } from './memory.ts';
import type { Obligation } from './obligations.ts';
import type { Match } from './pattern.ts';
import { type LevelName, levels } from './policy-set.ts';
import type { Alternative, Study } from './study.ts';

export interface CompiledPolicy {
  id: string;
  level: LevelName;
  namespace: string | undefined;
  enabled: boolean;
  priority: number;
  obligations: readonly Obligation[];
  study: Study;
}

export interface CompiledLevel {
  level: LevelName;
  namespace: string | undefined;
  otherwise: 'deny' | 'permit';
  policies: readonly CompiledPolicy[];
}

/** Policies that are evaluated together, and all that they read. */
export interface Candidates {
  policies: readonly CompiledPolicy[];
  blocks: { policies: readonly CompiledPolicy[]; prepared: Prepared | undefined }[];
  reads: ReadonlySet<string>;
  roles: ReadonlySet<string>;
  zones: ReadonlySet<string>;
  matches: readonly { match: Match; read: (facts: Facts) => string | undefined }[];
  navigates: boolean;
  nodes: number;
}

export interface Slice {
  /** Unique among the slices of a set. */
  key: string;
  levels: readonly CompiledLevel[];
  policies: readonly CompiledPolicy[];
  /** Everything that the decision can depend on within the slice; undefined: it is not remembered. */
  fingerprint: ((facts: Facts) => string | undefined) | undefined;
  readsClock: boolean;
}

const quote = (text: string) => `${text.length}:${text}`;

/** A value so that no two values look alike, alone or beside others. */
function encode(value: Value): string {
  switch (typeof value) {
    case 'string':
      return quote(value);
    case 'number':
      return `n${value};`;
    case 'boolean':
      return value ? 't' : 'f';
    case 'undefined':
      return '-';
    default:
      if (Array.isArray(value)) {
        let written = `[${value.length};`;
        for (const one of value) written += quote(one);
        return written;
      }
      return `{${Object.entries(value as Record<string, string>)
        .map(([key, one]) => quote(key) + quote(one))
        .join('')}}`;
  }
}

/** Which of the constants lies where: two numbers in the same place compare alike with all of them. */
function placeAmong(constants: readonly number[], value: number): string {
  let at = 0;
  while (at < constants.length && (constants[at] as number) < value) at += 1;
  return constants[at] === value ? `=${at};` : `<${at};`;
}

/** These differ from request to request, so a decision that knows them exactly is not worth keeping. */
const everDifferent = new Set([
  'context.time.now',
  'context.time',
  'context.useCount',
  'context.authentication.ageSeconds',
  'context.authentication',
]);

function fingerprintOf(policies: readonly CompiledPolicy[]): Slice['fingerprint'] {
  const reads = new Set<string>();
  const compares = new Map<string, Set<number>>();
  const paths = new Set<string>();
  for (const { study } of policies) {
    for (const name of study.reads) reads.add(name);
    for (const [name, constants] of study.compares) {
      const known = compares.get(name) ?? new Set();
      for (const constant of constants) known.add(constant);
      compares.set(name, known);
    }
    for (const { path } of study.matches) paths.add(path);
  }
  for (const name of reads) {
    if (everDifferent.has(name)) return undefined;
    compares.delete(name);
  }
  if (reads.size + compares.size + paths.size > limits.decisionReadsMax) return undefined;
  const parts: ((facts: Facts) => string)[] = [];
  for (const name of reads) {
    const read = readerOf(name);
    parts.push((facts) => encode(read(facts)));
  }
  for (const path of paths) {
    const read = textReaderOf(path);
    parts.push((facts) => encode(read(facts)));
  }
  for (const [name, constants] of compares) {
    const read = readerOf(name);
    const sorted = [...constants].sort((a, b) => a - b);
    parts.push((facts) => placeAmong(sorted, read(facts) as number));
  }
  return (facts) => {
    let key = '';
    for (const part of parts) {
      key += part(facts);
      if (key.length > limits.decisionKeyMaxLength) return undefined;
    }
    return key;
  };
}

/** The alternatives of one side (principals or resources), found by what a request brings. */
class Constraints {
  readonly #ids = new Map<string, number>();
  readonly #byEntity = new Map<string, { id: number; type: string | undefined }[]>();
  readonly #byType = new Map<string, number[]>();

  /** The number under which these alternatives are known; 0 is "no constraint". */
  add(alternatives: readonly Alternative[] | undefined): number {
    if (alternatives === undefined) return 0;
    const key = JSON.stringify(
      alternatives.map(({ type, entity }) => [
        type ?? null,
        entity?.type ?? null,
        entity?.id ?? null,
      ]),
    );
    const known = this.#ids.get(key);
    if (known !== undefined) return known;
    const id = this.#ids.size + 1;
    this.#ids.set(key, id);
    for (const { type, entity } of alternatives) {
      if (entity) {
        const name = `${entity.type}::${entity.id}`;
        const there = this.#byEntity.get(name) ?? [];
        there.push({ id, type });
        this.#byEntity.set(name, there);
      } else if (type !== undefined) {
        const there = this.#byType.get(type) ?? [];
        there.push(id);
        this.#byType.set(type, there);
      }
    }
    return id;
  }

  /** Those that fit a thing of this type that is, or lies in, one of these entities. */
  fitting(type: string, entities: readonly string[]): number[] {
    const found: number[] = [];
    for (const id of this.#byType.get(type) ?? []) found.push(id);
    for (const entity of entities) {
      const there = this.#byEntity.get(entity);
      if (there === undefined) continue;
      for (const one of there) if (one.type === undefined || one.type === type) found.push(one.id);
    }
    return found.length < 2 ? found : [...new Set(found)].sort((a, b) => a - b);
  }
}

interface Indexed {
  policy: CompiledPolicy;
  resource: number;
}

/** The policies of one level: by action, then by principal. */
class LevelIndex {
  readonly level: CompiledLevel;
  readonly #byAction = new Map<string, Map<number, Indexed[]>>();

  constructor(level: CompiledLevel, principals: Constraints, resources: Constraints) {
    this.level = level;
    for (const policy of level.policies) {
      if (!policy.enabled) continue;
      const principal = principals.add(policy.study.principal);
      const resource = resources.add(policy.study.resource);
      for (const action of policy.study.actions ?? ['*']) {
        let byPrincipal = this.#byAction.get(action);
        if (!byPrincipal) {
          byPrincipal = new Map();
          this.#byAction.set(action, byPrincipal);
        }
        const there = byPrincipal.get(principal) ?? [];
        there.push({ policy, resource });
        byPrincipal.set(principal, there);
      }
    }
  }

  collect(
    action: string,
    principals: readonly number[],
    resources: ReadonlySet<number>,
    into: Set<CompiledPolicy>,
  ): void {
    for (const named of [action, '*']) {
      const byPrincipal = this.#byAction.get(named);
      if (!byPrincipal) continue;
      for (const principal of [0, ...principals]) {
        for (const { policy, resource } of byPrincipal.get(principal) ?? []) {
          if (resource === 0 || resources.has(resource)) into.add(policy);
        }
      }
    }
  }

  /** Whether any policy that may apply to such a principal looks at what exactly is asked for. */
  looksAtThing(action: string, principals: readonly number[]): boolean {
    for (const named of [action, '*']) {
      const byPrincipal = this.#byAction.get(named);
      if (!byPrincipal) continue;
      for (const principal of [0, ...principals]) {
        for (const { policy } of byPrincipal.get(principal) ?? []) {
          if (looksAtSecret(policy.study)) return true;
        }
      }
    }
    return false;
  }

  /** How many policies apply, whoever asks for whatever, by action. */
  unbounded(action: string): number {
    let many = 0;
    for (const named of [action, '*']) {
      for (const { policy, resource } of this.#byAction.get(named)?.get(0) ?? []) {
        if (resource === 0 && policy.study.guards.length === 0) many += 1;
      }
    }
    return many;
  }
}

/** What is read of the namespace around it is the same for all that lies there: `resource^`. */
const isOfSecret = (name: string) =>
  (name.startsWith('resource') && name !== 'resource^') || name === 'context.useCount';

function looksAtSecret({ resource, reads, compares, matches }: Study): boolean {
  return (
    resource?.some(({ entity }) => entity?.type === 'Secret') === true ||
    [...reads].some(isOfSecret) ||
    [...compares.keys()].some(isOfSecret) ||
    matches.some(({ path }) => isOfSecret(path))
  );
}

export class Slices {
  readonly #principals = new Constraints();
  readonly #resources = new Constraints();
  readonly #organization: LevelIndex | undefined;
  readonly #vault: LevelIndex | undefined;
  readonly #namespaces = new Map<string, LevelIndex>();
  readonly #slices = new Memory<Slice>(limits.slicesKept);
  readonly #alike = new Memory<boolean>(limits.slicesKept);
  readonly #candidates: Memory<Candidates>;
  readonly #numbers = new Map<CompiledPolicy, number>();
  #preparedPolicies = 0;

  constructor(compiled: readonly CompiledLevel[]) {
    this.#candidates = new Memory<Candidates>(limits.candidateSetsKept, (gone) =>
      this.#release(gone),
    );
    for (const level of compiled) {
      const index = new LevelIndex(level, this.#principals, this.#resources);
      if (level.level === 'organization') this.#organization = index;
      else if (level.level === 'vault') this.#vault = index;
      else this.#namespaces.set(level.namespace as string, index);
      for (const policy of level.policies) this.#numbers.set(policy, this.#numbers.size);
    }
  }

  /** The most policies that a request for this action cannot avoid. */
  unbounded(action: string): number {
    let deepest = 0;
    for (const index of this.#namespaces.values())
      deepest = Math.max(deepest, index.unbounded(action));
    return (
      (this.#organization?.unbounded(action) ?? 0) + (this.#vault?.unbounded(action) ?? 0) + deepest
    );
  }

  /** Whether all secrets of the namespace are decided about alike: no policy that may apply tells them apart. */
  decidesAlike(facts: Facts): boolean {
    const principals = this.#principalsOf(facts);
    const namespace =
      facts.namespaceName === undefined ? undefined : this.#namespaces.get(facts.namespaceName);
    const key = `${facts.action}|${principals.join()}|${namespace ? facts.namespaceName : ''}`;
    const known = this.#alike.get(key);
    if (known !== undefined) return known;
    const alike = ![this.#organization, this.#vault, namespace].some((index) =>
      index?.looksAtThing(facts.action, principals),
    );
    this.#alike.set(key, alike);
    return alike;
  }

  #principalsOf(facts: Facts): number[] {
    const roles: string[] = [`${facts.principalType}::${facts.principalId}`];
    for (const role of facts.roles) roles.push(`Role::${role}`);
    return this.#principals.fitting(facts.principalType, roles);
  }

  sliceFor(facts: Facts): Slice {
    const principals = this.#principalsOf(facts);
    const places = [`${facts.resourceType}::${facts.resourceId}`];
    if (facts.resourceType === 'Secret') places.push(`Namespace::${facts.namespaceName}`);
    if (facts.resourceType !== 'Vault') places.push(`Vault::${facts.vaultId}`);
    const resources = this.#resources.fitting(facts.resourceType, places);
    const namespace =
      facts.namespaceName === undefined ? undefined : this.#namespaces.get(facts.namespaceName);
    const key = `${facts.action}|${facts.principalType}|${principals.join()}|${facts.resourceType}|${resources.join()}|${
      namespace ? facts.namespaceName : ''
    }`;
    const known = this.#slices.get(key);
    if (known) return known;
    const indexes = [this.#organization, this.#vault, namespace].filter(
      (index) => index !== undefined,
    );
    const found = new Set<CompiledPolicy>();
    const fitting = new Set(resources);
    for (const index of indexes) index.collect(facts.action, principals, fitting, found);
    const policies = [...found].sort((a, b) => this.#numberOf(a) - this.#numberOf(b));
    const slice: Slice = {
      key,
      levels: indexes.map((index) => index.level),
      policies,
      fingerprint: fingerprintOf(policies),
      readsClock: policies.some(
        ({ study }) =>
          [...study.reads].some(readsClock) || [...study.compares.keys()].some(readsClock),
      ),
    };
    this.#slices.set(key, slice);
    return slice;
  }

  #numberOf(policy: CompiledPolicy): number {
    return this.#numbers.get(policy) as number;
  }

  /** Those of a slice that names and tags leave; undefined when there are too many to be evaluated. */
  candidatesOf(slice: Slice, facts: Facts): Candidates | undefined {
    const left: CompiledPolicy[] = [];
    let key = '';
    for (const policy of slice.policies) {
      if (policy.study.guards.some((guard) => guard(facts) === false)) continue;
      if (left.push(policy) > limits.policiesPerDecision) return undefined;
      key += `${this.#numberOf(policy)},`;
    }
    const known = this.#candidates.get(key);
    if (known) return known;
    const candidates = gather(left);
    if (candidates.nodes > limits.nodesPerDecision) return undefined;
    if (this.#preparedPolicies > limits.preparedPoliciesKept) this.#candidates.clear();
    this.#candidates.set(key, candidates);
    return candidates;
  }

  /** The name of a block's policies in the engine. */
  prepared(block: Candidates['blocks'][number]): Prepared {
    if (block.prepared?.generation !== bench.generation || block.prepared === undefined) {
      block.prepared = prepare(block.policies.map(({ study }) => study.text).join('\n'));
      this.#preparedPolicies += block.policies.length;
    }
    return block.prepared;
  }

  #release(candidates: Candidates): void {
    for (const block of candidates.blocks) {
      if (block.prepared === undefined) continue;
      release(block.prepared);
      block.prepared = undefined;
      this.#preparedPolicies -= block.policies.length;
    }
  }

  /** Gives back what the engine keeps for these policies. */
  close(): void {
    this.#candidates.clear();
    this.#slices.clear();
  }
}

function gather(policies: readonly CompiledPolicy[]): Candidates {
  const reads = new Set<string>();
  const roles = new Set<string>();
  const zones = new Set<string>();
  const matches = new Map<string, Match>();
  let navigates = false;
  let nodes = 0;
  for (const { study } of policies) {
    for (const name of study.reads) reads.add(name);
    for (const name of study.compares.keys()) reads.add(name);
    for (const role of study.roles) roles.add(role);
    for (const zone of study.mentions.zones) zones.add(zone);
    for (const match of study.matches) matches.set(match.literal, match);
    navigates ||= study.navigates;
    nodes += study.nodes;
  }
  const blocks: Candidates['blocks'] = [];
  for (let at = 0; at < policies.length; at += limits.preparedBlock) {
    blocks.push({ policies: policies.slice(at, at + limits.preparedBlock), prepared: undefined });
  }
  return {
    policies,
    blocks,
    reads,
    roles,
    zones,
    matches: [...matches.values()].map((match) => ({ match, read: textReaderOf(match.path) })),
    navigates,
    nodes,
  };
}

export const levelOrder = (level: LevelName): number => levels.indexOf(level);
