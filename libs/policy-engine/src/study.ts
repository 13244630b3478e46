/**
 * What a policy can be told from its syntax: to whom, what and where it can apply at all, what it
 * reads, what it costs. Slices, keys of remembered decisions and the facts that are handed to Cedar
 * are drawn from it, so every rule here errs on the side of "may apply" and "may read".
 */
import type { Expr, PolicyJson, SchemaJson } from '@cedar-policy/cedar-wasm/nodejs';
import { agentActions } from '@keystead/contracts/agent-api/actions';
import { CedarFailure, study as instance } from './cedar.ts';
import type { Facts } from './facts.ts';
import { actionMeant, hintOf } from './hints.ts';
import { limits } from './limits.ts';
import { type Obligation, parseAnnotations } from './obligations.ts';
import { type Match, parseMatch } from './pattern.ts';
import { meant, offsetOfByte, type Problem, placeOf, quoted } from './problems.ts';
import {
  type Environments,
  environmentsOf,
  isTimeZone,
  readableHeaders,
  schemaFor,
  schemaText,
  timeZones,
} from './vocabulary.ts';

export interface Entity {
  type: string;
  id: string;
}

/** One way to fit: of this type, or being or lying in this entity, or both. */
export interface Alternative {
  type?: string;
  entity?: Entity;
}

/** True, false, or undefined where the facts do not tell. */
export type Guard = (facts: Facts) => boolean | undefined;

export interface Study {
  text: string;
  effect: 'permit' | 'forbid';
  annotations: Readonly<Record<string, string | null>>;
  /** Undefined: every action. */
  actions: readonly string[] | undefined;
  /** Undefined: every principal, every resource. */
  principal: readonly Alternative[] | undefined;
  resource: readonly Alternative[] | undefined;
  /** Necessary for the policy to apply, and evaluated without error. */
  guards: readonly Guard[];
  /** What must all be true, in order. */
  conjuncts: readonly Expr[];
  reads: ReadonlySet<string>;
  /** Numbers that are only compared with these constants. */
  compares: ReadonlyMap<string, readonly number[]>;
  matches: readonly Match[];
  roles: ReadonlySet<string>;
  /** Names of networks that it asks for. */
  networks: ReadonlySet<string>;
  /** Reads a namespace or a vault through a resource. */
  navigates: boolean;
  nodes: number;
  /** What its conditions and scope name. */
  mentions: { actions: Set<string>; principals: Set<string>; zones: Set<string> };
  json: PolicyJson;
}

type Node = Record<string, unknown>;
type Pair = { left: Expr; right: Expr };

export const operatorOf = (expr: Expr): string => Object.keys(expr)[0] ?? '';
export const bodyOf = (expr: Expr): unknown => (expr as unknown as Node)[operatorOf(expr)];

/** `context.time.weekday` as its parts; undefined for anything that is no chain from a variable. */
export function chainOf(expr: Expr): string[] | undefined {
  if ('Var' in expr) return [(expr as { Var: string }).Var];
  if ('.' in expr) {
    const { left, attr } = bodyOf(expr) as { left: Expr; attr: string };
    const chain = chainOf(left);
    return chain && [...chain, attr];
  }
  return undefined;
}

/**
 * The name under which a chain is read. A namespace and a vault are the same whichever way they were
 * reached; the variable itself is its identity (`@`).
 */
export function readName(chain: readonly string[]): string {
  const [root = '', ...rest] = chain;
  if (root !== 'resource')
    return rest.length === 0 && root !== 'context' ? `${root}@` : chain.join('.');
  let holder = 'resource';
  let at = 0;
  while (at < rest.length && (rest[at] === 'namespace' || rest[at] === 'vault')) {
    holder = rest[at] as string;
    at += 1;
  }
  return at === rest.length ? `${holder}@` : [holder, ...rest.slice(at)].join('.');
}

const contextAttributes: Record<string, readonly string[]> = {
  context: [
    'time',
    'clock',
    'address',
    'networks',
    'authentication',
    'tls',
    'headers',
    'useCount',
    'matches',
  ],
  'context.headers': readableHeaders,
  'context.tls': ['used', 'version', 'clientCertificate'],
  'context.authentication': ['method', 'ageSeconds'],
};

const numbers =
  /^context\.(?:useCount|authentication\.ageSeconds|time\.(?:now|year|month|day|weekday|minuteOfDay)|clock\..+\.(?:year|month|day|weekday|minuteOfDay))$/;
const orders = new Set(['<', '<=', '>', '>=', '==', '!=']);
const cannotFail = new Set([
  'ip',
  'isInRange',
  'isIpv4',
  'isIpv6',
  'isLoopback',
  'isMulticast',
  'datetime',
  'duration',
  'decimal',
  'lessThan',
  'lessThanOrEqual',
  'greaterThan',
  'greaterThanOrEqual',
]);

/** A whole number or a moment that stands in the text. */
export function constantOf(expr: Expr): number | undefined {
  if ('Value' in expr) {
    const value = (expr as { Value: unknown }).Value;
    return typeof value === 'number' && Number.isSafeInteger(value) ? value : undefined;
  }
  if ('neg' in expr) {
    const value = constantOf((bodyOf(expr) as { arg: Expr }).arg);
    return value === undefined ? undefined : -value;
  }
  if ('datetime' in expr) {
    const [argument] = bodyOf(expr) as Expr[];
    const text =
      argument && 'Value' in argument ? (argument as { Value: unknown }).Value : undefined;
    if (typeof text !== 'string') return undefined;
    if (!/^\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d{3})?Z)?$/.test(text)) return undefined;
    const ms = Date.parse(text);
    return Number.isNaN(ms) ? undefined : ms;
  }
  return undefined;
}

export const textOf = (expr: Expr | undefined): string | undefined => {
  const value = expr && 'Value' in expr ? (expr as { Value: unknown }).Value : undefined;
  return typeof value === 'string' ? value : undefined;
};

export function entityOf(expr: Expr | undefined): Entity | undefined {
  const value = expr && 'Value' in expr ? (expr as { Value: unknown }).Value : undefined;
  if (typeof value !== 'object' || value === null || !('__entity' in value)) return undefined;
  return (value as { __entity: Entity }).__entity;
}

interface Walk {
  reads: Set<string>;
  compares: Map<string, number[]>;
  matches: Set<string>;
  roles: Set<string>;
  networks: Set<string>;
  mentions: Study['mentions'];
  nodes: number;
  depth: number;
  navigates: boolean;
  wrong: { what: string; suggestion?: string; search: string }[];
}

function note(walk: Walk, chain: readonly string[]): void {
  if (chain[0] === 'resource' && chain.length > 1) {
    if (chain.slice(1).some((part) => part === 'namespace' || part === 'vault'))
      walk.navigates = true;
  }
  if (chain[0] === 'action') return;
  if (chain[0] === 'context' && chain[1] === 'matches') {
    walk.wrong.push({
      what: 'context.matches is only asked whether it contains a literal',
      suggestion: 'write context.matches.contains("resource.name ~ ^db-[0-9]+$")',
      search: 'matches',
    });
    return;
  }
  if (chain[0] === 'context' && chain.length === 1) {
    walk.wrong.push({
      what: 'context is only read attribute by attribute',
      suggestion: 'write context.ATTRIBUTE',
      search: 'context',
    });
    return;
  }
  if (chain[0] === 'context' && chain[1] === 'clock') {
    const zone = chain[2];
    if (zone === undefined) {
      walk.wrong.push({
        what: 'context.clock is only read zone by zone',
        suggestion: 'write context.clock["Europe/Berlin"].minuteOfDay',
        search: 'clock',
      });
      return;
    }
    walk.mentions.zones.add(zone);
    if (!isTimeZone(zone)) {
      walk.wrong.push({
        what: `${quoted(zone)} is no time zone`,
        suggestion: meant(zone, timeZones()) ?? 'write a name such as `Europe/Berlin`',
        search: zone,
      });
      return;
    }
  }
  walk.reads.add(readName(chain));
}

/** The attributes that a chain can have; undefined where that is not known here. */
function attributesAt(chain: readonly string[]): readonly string[] | undefined {
  const path = chain.join('.');
  if (path === 'principal') return ['name'];
  if (chain[0] === 'resource' && readName(chain).endsWith('@')) {
    return ['name', 'tags', 'owner', 'vault', 'namespace'];
  }
  return contextAttributes[path];
}

function noteEntity(walk: Walk, entity: Entity): void {
  if (entity.type === 'Action') walk.mentions.actions.add(entity.id);
  if (entity.type === 'Role') walk.roles.add(entity.id);
  walk.mentions.principals.add(entity.type);
}

function visitValue(value: unknown, walk: Walk): void {
  if (typeof value !== 'object' || value === null) return;
  if ('__entity' in value) {
    noteEntity(walk, (value as { __entity: Entity }).__entity);
    return;
  }
  for (const inner of Object.values(value)) visitValue(inner, walk);
}

function visit(expr: Expr, walk: Walk, depth: number): void {
  walk.nodes += 1;
  walk.depth = Math.max(walk.depth, depth);
  const operator = operatorOf(expr);
  const body = bodyOf(expr);
  const into = (inner: Expr | undefined) => inner && visit(inner, walk, depth + 1);
  switch (operator) {
    case 'Value':
      visitValue(body, walk);
      return;
    case 'Var':
    case '.': {
      const chain = chainOf(expr);
      if (chain) note(walk, chain);
      else into((body as { left: Expr }).left);
      walk.depth = Math.max(walk.depth, depth + (chain?.length ?? 0));
      return;
    }
    case 'has': {
      const { left, attr } = body as { left: Expr; attr: string | string[] };
      const chain = chainOf(left);
      if (!chain) {
        into(left);
        return;
      }
      const whole = [...chain, ...(typeof attr === 'string' ? [attr] : attr)];
      note(walk, whole);
      // What is never there is no error to Cedar, and yet never what was meant.
      const known = attributesAt(whole.slice(0, -1));
      const last = whole.at(-1) as string;
      if (known && !known.includes(last)) {
        const suggestion = meant(last, known);
        walk.wrong.push({
          what: `there is never an attribute ${quoted(last)} in ${quoted(whole.slice(0, -1).join('.'))}`,
          ...(suggestion === undefined ? {} : { suggestion }),
          search: last,
        });
      }
      return;
    }
    case 'hasTag':
    case 'getTag': {
      const { left, right } = body as Pair;
      const chain = chainOf(left);
      const key = textOf(right);
      if (chain) {
        const holder = readName(chain).replace(/@$/, '');
        if (chain.length > 1) walk.navigates = true;
        walk.reads.add(key === undefined ? `${holder}#` : `${holder}#${key}`);
      } else into(left);
      if (key === undefined) into(right);
      return;
    }
    case 'contains':
    case 'containsAny':
    case 'containsAll': {
      const { left, right } = body as Pair;
      const chain = chainOf(left);
      if (chain?.join('.') === 'context.networks') {
        const names = 'Set' in right ? (bodyOf(right) as Expr[]) : [right];
        for (const name of names.map(textOf)) if (name !== undefined) walk.networks.add(name);
      }
      if (operator === 'contains' && chain?.join('.') === 'context.matches') {
        const literal = textOf(right);
        if (literal === undefined) note(walk, ['context', 'matches']);
        else walk.matches.add(literal);
        return;
      }
      into(left);
      into(right);
      return;
    }
    case 'in': {
      const { left, right } = body as Pair;
      const chain = chainOf(left);
      if (chain) walk.reads.add(`${readName(chain).replace(/@$/, '')}^`);
      into(left);
      into(right);
      return;
    }
    case 'is': {
      const {
        left,
        entity_type,
        in: within,
      } = body as { left: Expr; entity_type: string; in?: Expr };
      walk.mentions.principals.add(entity_type);
      const chain = chainOf(left);
      if (within && chain) walk.reads.add(`${readName(chain).replace(/@$/, '')}^`);
      into(left);
      into(within);
      return;
    }
    case 'like':
      into((body as { left: Expr }).left);
      return;
    case 'if-then-else': {
      const branches = body as { if: Expr; then: Expr; else: Expr };
      into(branches.if);
      into(branches.then);
      into(branches.else);
      return;
    }
    case 'Set':
      for (const inner of body as Expr[]) into(inner);
      return;
    case 'Record':
      for (const inner of Object.values(body as Record<string, Expr>)) into(inner);
      return;
    default: {
      if (Array.isArray(body)) {
        for (const inner of body as Expr[]) into(inner);
        return;
      }
      const parts = body as { left?: Expr; right?: Expr; arg?: Expr };
      if (orders.has(operator) && parts.left && parts.right) {
        for (const [side, other] of [
          [parts.left, parts.right],
          [parts.right, parts.left],
        ] as const) {
          const chain = chainOf(side);
          const constant = constantOf(other);
          const name = chain && readName(chain);
          if (chain && name && constant !== undefined && numbers.test(name)) {
            const before = walk.wrong.length;
            const known = walk.reads.has(name);
            note(walk, chain);
            if (!known) walk.reads.delete(name);
            if (walk.wrong.length === before) {
              walk.compares.set(name, [...(walk.compares.get(name) ?? []), constant]);
            }
            walk.nodes += 2;
            return;
          }
        }
      }
      into(parts.left);
      into(parts.right);
      into(parts.arg);
    }
  }
}

/** May end in an error although it is well typed: a number beyond 64 bits. */
function mayFail(expr: Expr): boolean {
  const operator = operatorOf(expr);
  if (operator === 'Value' || operator === 'Var' || operator === 'like') return false;
  if (['+', '-', '*', 'neg', 'Slot'].includes(operator)) return true;
  const body = bodyOf(expr);
  if (Array.isArray(body)) {
    return (operator !== 'Set' && !cannotFail.has(operator)) || (body as Expr[]).some(mayFail);
  }
  return Object.values(body as Node).some(
    (inner) =>
      typeof inner === 'object' &&
      inner !== null &&
      !Array.isArray(inner) &&
      mayFail(inner as Expr),
  );
}

function flatten(expr: Expr, into: Expr[]): void {
  if ('&&' in expr) {
    const { left, right } = bodyOf(expr) as Pair;
    flatten(left, into);
    flatten(right, into);
  } else into.push(expr);
}

/** `principal in [Role::"a", User::"b"] || principal is ApiKey` as alternatives. */
function alternativesIn(expr: Expr, variable: string): Alternative[] | undefined {
  const isVariable = (side: Expr) => 'Var' in side && (side as { Var: string }).Var === variable;
  const operator = operatorOf(expr);
  if (operator === '||') {
    const { left, right } = bodyOf(expr) as Pair;
    const first = alternativesIn(left, variable);
    const second = first && alternativesIn(right, variable);
    return second && [...first, ...second];
  }
  if (operator === 'is') {
    const {
      left,
      entity_type,
      in: within,
    } = bodyOf(expr) as { left: Expr; entity_type: string; in?: Expr };
    if (!isVariable(left)) return undefined;
    const entity = within && entityOf(within);
    if (within && !entity) return undefined;
    return [{ type: entity_type, ...(entity ? { entity } : {}) }];
  }
  if (operator === '==' || operator === 'in') {
    const { left, right } = bodyOf(expr) as Pair;
    if (!isVariable(left)) return undefined;
    const one = entityOf(right);
    if (one) return [{ entity: one, ...(operator === '==' ? { type: one.type } : {}) }];
    if (operator === 'in' && 'Set' in right) {
      const many = (bodyOf(right) as Expr[]).map(entityOf);
      return many.every((entity) => entity !== undefined)
        ? many.map((entity) => ({ entity: entity as Entity }))
        : undefined;
    }
  }
  return undefined;
}

type Scope = PolicyJson['principal'] | PolicyJson['resource'];
const plain = (uid: unknown): Entity => (uid as { __entity?: Entity }).__entity ?? (uid as Entity);

function scopeAlternatives(scope: Scope): Alternative[] | undefined {
  switch (scope.op) {
    case 'All':
      return undefined;
    case '==': {
      const entity = plain((scope as { entity: unknown }).entity);
      return [{ type: entity.type, entity }];
    }
    case 'in':
      return [{ entity: plain((scope as { entity: unknown }).entity) }];
    case 'is': {
      const within = scope.in as { entity?: unknown } | undefined;
      return [
        { type: scope.entity_type, ...(within?.entity ? { entity: plain(within.entity) } : {}) },
      ];
    }
  }
}

export const texts: Record<string, (facts: Facts) => string | undefined> = {
  'principal.name': (facts) => facts.principalName,
  'resource.name': (facts) => facts.resourceName,
  'namespace.name': (facts) => facts.namespaceName,
};
export const sets: Record<string, (facts: Facts) => readonly string[] | undefined> = {
  'resource.tags': (facts) => facts.resourceTags,
  'namespace.tags': (facts) => facts.namespaceTags,
};

type PatternPart = 'Wildcard' | { Literal: string };

/** Cedar's `like`: `*` stands for any characters. Linear in the text for each `*`. */
export function likeTest(pattern: readonly PatternPart[]): (text: string) => boolean {
  const parts: string[] = [''];
  for (const part of pattern) {
    if (part === 'Wildcard') parts.push('');
    else parts[parts.length - 1] += part.Literal;
  }
  const [head = '', ...others] = parts;
  if (others.length === 0) return (text) => text === head;
  const tail = others.pop() as string;
  return (text) => {
    if (text.length < head.length + tail.length || !text.startsWith(head) || !text.endsWith(tail)) {
      return false;
    }
    let at = head.length;
    const end = text.length - tail.length;
    for (const middle of others) {
      const found = text.indexOf(middle, at);
      if (found < 0 || found + middle.length > end) return false;
      at = found + middle.length;
    }
    return true;
  };
}

/** A condition that names and tags alone decide, to be asked before Cedar is. */
function guardOf(expr: Expr): Guard | undefined {
  const operator = operatorOf(expr);
  switch (operator) {
    case '!': {
      const inner = guardOf((bodyOf(expr) as { arg: Expr }).arg);
      return (
        inner &&
        ((facts) => {
          const value = inner(facts);
          return value === undefined ? undefined : !value;
        })
      );
    }
    case '||':
    case '&&': {
      const { left, right } = bodyOf(expr) as Pair;
      const first = guardOf(left);
      const second = first && guardOf(right);
      if (!second) return undefined;
      const decisive = operator === '||';
      return (facts) => {
        const value = first(facts);
        if (value === decisive) return decisive;
        const other = second(facts);
        return other === decisive ? decisive : value === undefined ? undefined : other;
      };
    }
    case 'is': {
      const {
        left,
        entity_type,
        in: within,
      } = bodyOf(expr) as { left: Expr; entity_type: string; in?: Expr };
      const chain = chainOf(left)?.join('.');
      if (within || (chain !== 'resource' && chain !== 'principal')) return undefined;
      return chain === 'resource'
        ? (facts) => facts.resourceType === entity_type
        : (facts) => facts.principalType === entity_type;
    }
    case '==': {
      const { left, right } = bodyOf(expr) as Pair;
      for (const [side, other] of [
        [left, right],
        [right, left],
      ] as const) {
        const chain = chainOf(side);
        const read = chain && texts[readName(chain)];
        const wanted = textOf(other);
        if (read && wanted !== undefined) {
          return (facts) => {
            const value = read(facts);
            return value === undefined ? undefined : value === wanted;
          };
        }
      }
      return undefined;
    }
    case 'like': {
      const { left, pattern } = bodyOf(expr) as { left: Expr; pattern: PatternPart[] };
      const chain = chainOf(left);
      const read = chain && texts[readName(chain)];
      if (!read) return undefined;
      const fits = likeTest(pattern);
      return (facts) => {
        const value = read(facts);
        return value === undefined ? undefined : fits(value);
      };
    }
    case 'contains': {
      const { left, right } = bodyOf(expr) as Pair;
      const chain = chainOf(left);
      const read = chain && sets[readName(chain)];
      const wanted = textOf(right);
      if (!read || wanted === undefined) return undefined;
      return (facts) => read(facts)?.includes(wanted);
    }
    default:
      return undefined;
  }
}

/** Of a policy that Cedar has parsed. Reports what our use of Cedar does not offer. */
function examine(
  text: string,
  json: PolicyJson,
): { study: Study; wrong: { what: string; suggestion?: string; search: string }[] } {
  const walk: Walk = {
    reads: new Set(),
    compares: new Map(),
    matches: new Set(),
    roles: new Set(),
    networks: new Set(),
    mentions: { actions: new Set(), principals: new Set(), zones: new Set() },
    nodes: 3,
    depth: 0,
    navigates: false,
    wrong: [],
  };
  const conjuncts: Expr[] = [];
  for (const { kind, body } of json.conditions) {
    visit(body, walk, json.conditions.length);
    if (kind === 'unless') conjuncts.push({ '!': { arg: body } });
    else flatten(body, conjuncts);
  }
  let principal = scopeAlternatives(json.principal);
  let resource = scopeAlternatives(json.resource);
  for (const alternative of [...(principal ?? []), ...(resource ?? [])]) {
    if (alternative.entity) noteEntity(walk, alternative.entity);
    if (alternative.type) walk.mentions.principals.add(alternative.type);
  }
  let actions: string[] | undefined;
  if (json.action.op === '==') actions = [plain((json.action as { entity: unknown }).entity).id];
  if (json.action.op === 'in') {
    const { entities, entity } = json.action as { entities?: unknown[]; entity?: unknown };
    actions = (entities ?? [entity]).map((uid) => plain(uid).id);
  }
  const guards: Guard[] = [];
  for (const conjunct of conjuncts) {
    // What stands behind something that may fail is reached only when that did not fail.
    if (mayFail(conjunct)) break;
    const forPrincipal = alternativesIn(conjunct, 'principal');
    const forResource = alternativesIn(conjunct, 'resource');
    if (forPrincipal && !principal) principal = forPrincipal;
    else if (forResource && !resource) resource = forResource;
    else {
      const guard = guardOf(conjunct);
      if (guard) guards.push(guard);
    }
  }
  const matches: Match[] = [];
  for (const literal of walk.matches) {
    const parsed = parseMatch(literal);
    if (parsed.ok) matches.push(parsed.match);
    else {
      walk.wrong.push({
        what: parsed.what,
        ...(parsed.suggestion === undefined ? {} : { suggestion: parsed.suggestion }),
        search: literal.slice(0, 20),
      });
    }
  }
  for (const action of [...(actions ?? []), ...walk.mentions.actions]) {
    if ((agentActions as readonly string[]).includes(action)) continue;
    const suggestion = actionMeant(action);
    walk.wrong.push({
      what: `${quoted(action)} is no action`,
      ...(suggestion === undefined ? {} : { suggestion }),
      search: `"${action}`,
    });
  }
  if (walk.matches.size > limits.patternsPerPolicy) {
    walk.wrong.push({
      what: `a policy has at most ${limits.patternsPerPolicy} patterns`,
      search: 'matches',
    });
  }
  if (walk.mentions.zones.size > limits.zonesPerPolicy) {
    walk.wrong.push({
      what: `a policy reads the clock in at most ${limits.zonesPerPolicy} time zones`,
      search: 'clock',
    });
  }
  if (walk.depth > limits.treeDepthMax) {
    walk.wrong.push({
      what: `conditions are at most ${limits.treeDepthMax} deep`,
      suggestion: 'group long chains of `&&` and `||` with brackets, or split the policy',
      search: 'when',
    });
  }
  return {
    study: {
      text,
      effect: json.effect,
      annotations: json.annotations ?? {},
      actions,
      principal,
      resource,
      guards,
      conjuncts,
      reads: walk.reads,
      compares: walk.compares,
      matches,
      roles: walk.roles,
      networks: walk.networks,
      navigates: walk.navigates,
      nodes: walk.nodes,
      mentions: walk.mentions,
      json,
    },
    wrong: walk.wrong,
  };
}

export type Studied =
  | {
      ok: true;
      study: Study;
      priority: number;
      obligations: readonly Obligation[];
      warnings: readonly Problem[];
    }
  | { ok: false; problems: readonly Problem[] };

const remembered = new Map<string, Studied>();
let rememberedLetters = 0;

/** What is remembered, and the length of its texts. */
export const studiesRemembered = () => ({ studies: remembered.size, letters: rememberedLetters });

function remember(text: string, studied: Studied): Studied {
  if (remembered.has(text)) return studied;
  if (
    remembered.size >= limits.studiesKept ||
    rememberedLetters + text.length > limits.studiedLettersKept
  ) {
    // The oldest quarter goes; a set that is edited keeps most of what it had.
    const most = remembered.size * 0.75;
    const lettersMost = limits.studiedLettersKept * 0.75 - text.length;
    for (const key of remembered.keys()) {
      if (remembered.size <= most && rememberedLetters <= lettersMost) break;
      remembered.delete(key);
      rememberedLetters -= key.length;
    }
  }
  remembered.set(text, studied);
  rememberedLetters += text.length;
  return studied;
}

interface CedarError {
  message: string;
  help?: string | null;
  sourceLocations?: { start: number; end: number; label?: string | null }[];
}

function problemFrom(
  text: string,
  error: CedarError,
  startByte: number,
  severity: Problem['severity'],
): Problem {
  const location = error.sourceLocations?.[0];
  const what = error.message
    .replace(/^failed to parse polic(?:y|ies) from string: /, '')
    .replace(/for policy `policy\d+`, /g, '')
    .replace(/^error during extension function argument validation: /, '');
  const help = (error.help ?? location?.label ?? '').replace(/for policy `policy\d+`, /g, '');
  return {
    severity,
    where: location
      ? placeOf(text, offsetOfByte(text, Math.max(0, location.start - startByte)))
      : { line: 1, column: 1 },
    what,
    ...(help === '' ? {} : { suggestion: help }),
  };
}

const dedupe = (problems: Problem[]): Problem[] => {
  const seen = new Set<string>();
  return problems
    .filter((problem) => {
      // The same place is judged once for each type of principal and resource.
      const key = `${problem.where.line}:${problem.where.column}:${problem.what.replace(/ on entity type `\w+`| for Action::"[^"]*"/, '')}`;
      if (seen.has(key)) return false;
      seen.add(key);
      return true;
    })
    .slice(0, limits.problemsPerPolicy);
};

function withHint(text: string, problem: Problem): Problem {
  const hint = hintOf(text, offsetAt(text, problem.where), problem.what);
  return hint === undefined ? problem : { ...problem, suggestion: hint };
}

/** Words of other policy languages and plain slips, where Cedar only says what it expected. */
function hintFor(text: string, problem: Problem): Problem {
  const hinted = withHint(text, problem);
  if (hinted !== problem) return hinted;
  if (problem.suggestion !== undefined && !problem.suggestion.startsWith('expected'))
    return problem;
  const rest = text.slice(offsetAt(text, problem.where));
  const word = /^[A-Za-z_]+/.exec(rest)?.[0];
  const known = [
    'permit',
    'forbid',
    'when',
    'unless',
    'principal',
    'action',
    'resource',
    'context',
    'like',
    'has',
    'in',
    'is',
  ];
  const near = word === undefined || known.includes(word) ? undefined : meant(word, known);
  if (near?.startsWith('did you mean')) return { ...problem, suggestion: near };
  if (/^=[^=]/.test(rest)) return { ...problem, suggestion: 'compare with `==`' };
  if (/^'/.test(rest)) return { ...problem, suggestion: 'write texts in double quotes' };
  return problem;
}

function offsetAt(text: string, place: Problem['where']): number {
  const lines = text.split('\n').slice(0, (place.line ?? 1) - 1);
  return lines.reduce((sum, line) => sum + line.length + 1, 0) + (place.column ?? 1) - 1;
}

function parse(text: string): { ok: true; json: PolicyJson } | { ok: false; problems: Problem[] } {
  const failed = (what: string): { ok: false; problems: Problem[] } => ({
    ok: false,
    problems: [
      {
        severity: 'error',
        where: { line: 1, column: 1 },
        what,
        suggestion: 'make the policy simpler, or split it',
      },
    ],
  });
  try {
    const answer = instance.run((cedar) => cedar.policyToJson(text));
    if (answer.type === 'success') return { ok: true, json: answer.json };
    if (
      /\?(?:principal|resource)\b/.test(text) &&
      answer.errors.some((error) => /template|slot/i.test(error.message))
    ) {
      return {
        ok: false,
        problems: [
          {
            severity: 'error',
            where: placeOf(text, Math.max(0, text.search(/\?(?:principal|resource)\b/))),
            what: 'a policy with a slot is a template, and templates are not used here',
            suggestion: 'name the principal or the resource',
          },
        ],
      };
    }
    return {
      ok: false,
      problems: dedupe(
        answer.errors.map((error) => hintFor(text, problemFrom(text, error, 0, 'error'))),
      ),
    };
  } catch (error) {
    if (error instanceof CedarFailure) return failed('the policy is too deep for the engine');
    throw error;
  }
}

let wholeSchema: SchemaJson<string> | undefined;

/** Read once: parsed from JSON a part of it costs a tenth of what it costs from text. */
function schema(): SchemaJson<string> {
  if (wholeSchema === undefined) {
    const answer = instance.run((cedar) => cedar.schemaToJson(schemaText([])));
    if (answer.type !== 'success') {
      throw new Error(`the schema of policies is wrong: ${answer.errors[0]?.message}`);
    }
    wholeSchema = answer.json;
  }
  return wholeSchema;
}

/** A policy that was parsed and waits for the type checker. */
export interface Unjudged {
  text: string;
  study: Study;
  /** Those that share it are checked together. */
  environments: Environments;
}

interface Judged {
  errors: Problem[];
  warnings: Problem[];
}

/** What Cedar's type checker says of each policy. */
function askTypeChecker(policies: readonly Unjudged[], environments: Environments): Judged[] {
  const starts: number[] = [];
  let text = '';
  let bytes = 0;
  for (const policy of policies) {
    starts.push(bytes);
    text += `${policy.text}\n`;
    bytes += Buffer.byteLength(policy.text) + 1;
  }
  const part = schemaFor(schema(), environments);
  const answer = instance.run((cedar) =>
    cedar.validate({ schema: part, policies: { staticPolicies: text } }),
  );
  if (answer.type !== 'success') throw new Error(answer.errors[0]?.message);
  const judged: Judged[] = policies.map(() => ({ errors: [], warnings: [] }));
  const sort = (
    found: readonly { policyId: string; error: CedarError }[],
    severity: Problem['severity'],
  ) => {
    for (const { policyId, error } of found) {
      const at = Number(policyId.slice('policy'.length));
      const policy = policies[at];
      if (policy === undefined) continue;
      const found = problemFrom(policy.text, error, starts[at] ?? 0, severity);
      const problem = severity === 'error' ? withHint(policy.text, found) : found;
      judged[at]?.[severity === 'error' ? 'errors' : 'warnings'].push(problem);
    }
  };
  sort(answer.validationErrors, 'error');
  sort(answer.validationWarnings, 'warning');
  return judged;
}

const rejected = (problems: Problem[]): Studied => ({ ok: false, problems: dedupe(problems) });
const tooDeep: Problem = {
  severity: 'error',
  where: { line: 1, column: 1 },
  what: 'the policy is too deep for the engine',
  suggestion: 'make it simpler, or split it',
};

/** Parses a policy and draws from its syntax what there is to know; or remembers that it did. */
export function read(text: string): Studied | Unjudged {
  const known = remembered.get(text);
  if (known) return known;
  const parsed = parse(text);
  if (!parsed.ok) return remember(text, rejected(parsed.problems));
  const { study, wrong } = examine(text, parsed.json);
  if (wrong.length > 0) {
    return remember(
      text,
      rejected(
        wrong.map(({ what, suggestion, search }) => ({
          severity: 'error',
          where: placeOf(text, Math.max(0, text.indexOf(search))),
          what,
          ...(suggestion === undefined ? {} : { suggestion }),
        })),
      ),
    );
  }
  const environments = environmentsOf({
    actions: study.actions,
    namedActions: study.mentions.actions,
    namedPrincipals: study.mentions.principals,
    zones: study.mentions.zones,
  });
  return { text, study, environments };
}

/** A secret is named with its namespace; without it a policy never applies, and says nothing. */
function namelessSecrets(text: string): Problem[] {
  return [...text.matchAll(/\bSecret::"([^":\\]*)"/g)].map(({ 1: name = '', index }) => ({
    severity: 'warning',
    where: placeOf(text, index),
    what: `${quoted(`Secret::"${name}"`)} names no secret`,
    suggestion: `write \`Secret::"NAMESPACE:${name}"\``,
  }));
}

/** Checks the types of policies that share their environments. */
export function judge(policies: readonly Unjudged[]): Studied[] {
  const [first] = policies;
  if (first === undefined) return [];
  let judged: Judged[];
  try {
    judged = askTypeChecker(policies, first.environments);
  } catch (error) {
    if (!(error instanceof CedarFailure)) throw error;
    // Of several it cannot be told which one it was.
    if (policies.length > 1) return policies.flatMap((policy) => judge([policy]));
    judged = [{ errors: [tooDeep], warnings: [] }];
  }
  return policies.map(({ text, study }, at) => {
    const { errors, warnings } = judged[at] as Judged;
    const { priority, obligations, wrong } = parseAnnotations(study.annotations, study.effect, '');
    const annotations: Problem[] = wrong.map(({ annotation, what, suggestion }) => ({
      severity: 'error',
      where: placeOf(text, Math.max(0, text.indexOf(`@${annotation}`))),
      what,
      ...(suggestion === undefined ? {} : { suggestion }),
    }));
    return remember(
      text,
      errors.length + annotations.length > 0
        ? rejected([...errors, ...annotations])
        : {
            ok: true,
            study,
            priority,
            obligations,
            warnings: dedupe([...warnings, ...namelessSecrets(text)]),
          },
    );
  });
}
