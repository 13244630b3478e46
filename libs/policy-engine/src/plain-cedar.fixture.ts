/**
 * The other opinion: random policies and requests, and what plain Cedar says of them. Each level is
 * evaluated whole, with all facts, in an instance of its own; nothing of the compiled path is used.
 */
import { createRequire } from 'node:module';
import type * as CedarModule from '@cedar-policy/cedar-wasm/nodejs';
import type { AgentAction } from '@keystead/contracts/agent-api/actions';
import ipaddr from 'ipaddr.js';
import type { AccessRequest } from './facts.ts';
import type { PrincipalKind } from './vocabulary.ts';

const require = createRequire(import.meta.url);
export const plainCedar = require('@cedar-policy/cedar-wasm/nodejs') as typeof CedarModule;

/** The same numbers for the same seed (mulberry32). */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  }

  below(most: number): number {
    return Math.floor(this.next() * most);
  }

  chance(share: number): boolean {
    return this.next() < share;
  }

  one<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T;
  }

  some<T>(choices: readonly T[], most: number): T[] {
    return Array.from({ length: 1 + this.below(most) }, () => this.one(choices));
  }
}

const roles = ['admin', 'dev', 'ci', 'audit'];
const people = ['alice', 'bob', 'key_1', 'ci-runner'];
const namespaces = ['pay', 'ops', 'dev'];
const secrets = ['db/main', 'db/replica', 'api/key', 'cert', 'db'];
const tags = ['prod', 'pci', 'eu'];
const zones = ['Europe/Berlin', 'Asia/Kolkata', 'UTC', 'America/St_Johns'];
const addresses = [
  '10.1.2.3',
  '192.0.2.7',
  '2001:db8::1',
  '::ffff:10.9.9.9',
  '127.0.0.1',
  '8.8.8.8',
];
const methods = ['api_key', 'jwt', 'certificate', 'local'];
const kinds: PrincipalKind[] = ['user', 'api_key', 'jwt', 'certificate', 'system'];
const typeOf = {
  user: 'User',
  api_key: 'ApiKey',
  jwt: 'JwtSubject',
  certificate: 'Certificate',
  system: 'System',
};
const onSecrets: AgentAction[] = [
  'secret.read',
  'secret.read-value',
  'secret.update',
  'secret.delete',
];
const onNamespaces: AgentAction[] = ['namespace.read', 'secret.list', 'namespace.delete'];
const onVaults: AgentAction[] = ['key.read', 'key.rotate'];
const onSeveral: AgentAction[] = ['secret.create', 'audit.read', 'rotation.read'];
const actions = [...onSecrets, ...onNamespaces, ...onVaults, ...onSeveral];
const startMs = Date.UTC(2026, 2, 27);
export const networks = { office: ['192.0.2.0/24', '2001:db8::/32'], lab: ['10.9.0.0/16'] };
const patterns: [path: string, pattern: string][] = [
  ['resource.name', '^db/'],
  ['principal.name', 'i.*c'],
  ['headers.x-purpose', '^(deploy|audit)$'],
  ['resource.metadata.env', 'prod|dev'],
  ['namespace.name', '^(pay|ops)$'],
  ['authentication.method', '_'],
];

const resourceEntity = (dice: Dice) =>
  dice.one([
    'Vault::"vlt_1"',
    ...namespaces.map((name) => `Namespace::"${name}"`),
    ...namespaces.map((name) => `Secret::"${name}:db/main"`),
  ]);
const principalEntity = (dice: Dice) =>
  dice.chance(0.7)
    ? `Role::"${dice.one(roles)}"`
    : `${dice.one(Object.values(typeOf))}::"${dice.one(people)}"`;

const atoms: ((dice: Dice) => string)[] = [
  (dice) => `resource.name == "${dice.one([...secrets, ...namespaces])}"`,
  (dice) => `resource.name like "${dice.one(['db/*', '*a*i*', '*', 'pay', '*/main', 'd*b'])}"`,
  (dice) => `principal.name like "${dice.one(['a*', '*-*', 'bob', '*'])}"`,
  (dice) => `principal.name == "${dice.one(people)}"`,
  (dice) => `resource.tags.contains("${dice.one(tags)}")`,
  (dice) => `resource.tags.containsAny(["${dice.one(tags)}", "x"])`,
  () => 'resource.tags.isEmpty()',
  (dice) => `resource.vault.tags.contains("${dice.one(tags)}")`,
  (dice) => `resource.vault.name like "${dice.one(['main*', 'other'])}"`,
  (dice) => `resource is ${dice.one(['Secret', 'Namespace', 'Vault'])}`,
  (dice) => `(resource is Secret && resource.namespace.name == "${dice.one(namespaces)}")`,
  (dice) =>
    `((resource is Secret || resource is Namespace) && resource.namespace.tags.contains("${dice.one(tags)}"))`,
  (dice) =>
    `(resource is Namespace && resource has owner && resource.owner == "${dice.one(people)}")`,
  (_dice) =>
    `(resource is Secret && resource.namespace has owner && resource.namespace.owner == principal.name)`,
  (dice) =>
    `(resource is Secret && resource.namespace.hasTag("env") && resource.namespace.getTag("env") == "${dice.one(['prod', 'dev'])}")`,
  (dice) => `(resource.hasTag("env") && resource.getTag("env") == "${dice.one(['prod', 'dev'])}")`,
  (dice) =>
    `(resource.hasTag("__proto__") && resource.getTag("__proto__") == "${dice.one(['prod', 'dev'])}")`,
  () =>
    `(principal.hasTag("team") && resource.hasTag("team") && principal.getTag("team") == resource.getTag("team"))`,
  (dice) => `resource in ${resourceEntity(dice)}`,
  (dice) =>
    `resource == ${dice.one(['Vault::"vlt_1"', 'Namespace::"pay"', 'Secret::"pay:db/main"'])}`,
  (dice) => `principal in [Role::"${dice.one(roles)}", Role::"${dice.one(roles)}"]`,
  (dice) => `principal in ${principalEntity(dice)}`,
  (dice) => `principal == ${dice.one(Object.values(typeOf))}::"${dice.one(people)}"`,
  (dice) => `principal is ${dice.one(Object.values(typeOf))}`,
  (dice) => `principal is ${dice.one(Object.values(typeOf))} in Role::"${dice.one(roles)}"`,
  (dice) => `action == Action::"${dice.one(actions)}"`,
  (dice) => `context.time.weekday <= ${1 + dice.below(7)}`,
  (dice) => `[1, 2, ${1 + dice.below(7)}].contains(context.time.weekday)`,
  (dice) => `context.time.minuteOfDay >= ${dice.below(1_440)}`,
  (dice) => `${dice.below(1_440)} < context.clock["${dice.one(zones)}"].minuteOfDay`,
  (dice) => `context.clock["${dice.one(zones)}"].weekday == ${1 + dice.below(7)}`,
  (dice) => `context.clock["${dice.one(zones)}"].day != ${1 + dice.below(31)}`,
  () => 'context.clock["Europe/Berlin"].minuteOfDay > context.time.minuteOfDay',
  (dice) =>
    `context.time.now < datetime("${new Date(startMs + dice.below(86_400_000 * 4)).toISOString()}")`,
  (dice) => `context.time.now >= datetime("2026-03-${27 + dice.below(4)}")`,
  (dice) => `context.time.now > datetime("2026-03-28T00:00:00+0${dice.below(9)}00")`,
  () => 'context.time.now.toTime() < duration("12h")',
  (dice) => `context.time.zone == "${dice.one(zones)}"`,
  (dice) =>
    `(context has address && context.address.isInRange(ip("${dice.one(['10.0.0.0/8', '192.0.2.0/24', '2001:db8::/32', '::/0'])}")))`,
  () => '(context has address && context.address.isLoopback())',
  (dice) =>
    `(context has address && context.address == ip("${dice.one(['10.1.2.3', '10.9.9.9'])}"))`,
  (dice) =>
    `context.networks.contains("${dice.one(['office', 'lab', 'private', 'public', 'loopback'])}")`,
  (dice) => `context.authentication.method == "${dice.one(methods)}"`,
  (dice) => `context.authentication.ageSeconds < ${dice.below(4_000)}`,
  (dice) => `context.useCount <= ${dice.below(12)}`,
  (dice) => `context.useCount == ${dice.below(12)}`,
  (dice) => `context.useCount != ${dice.below(12)}`,
  (dice) => `context.useCount + ${dice.below(5)} < 8`,
  (dice) => `context.useCount * 4611686018427387904 < ${dice.below(3)}`,
  () => 'context.useCount - -9223372036854775807 > 0',
  () => 'context.tls.used',
  () => '(context.tls has version && context.tls.version == "TLSv1.3")',
  () => 'context.tls.clientCertificate == context.tls.used',
  () => 'context.headers has "x-purpose"',
  (dice) =>
    `(context.headers has "x-purpose" && context.headers["x-purpose"] == "${dice.one(['deploy', 'audit'])}")`,
  () => '(context.headers has "x-environment" && context.headers["x-environment"] like "p*")',
  () => '(context has headers.origin && context.headers.origin == "a")',
  (dice) => `context.matches.contains("${dice.one(patterns).join(' ~ ')}")`,
  (dice) =>
    `(if ${dice.one(atomsOfBoolean)} then ${dice.one(atomsOfBoolean)} else ${dice.one(atomsOfBoolean)})`,
  () => 'true',
];
const atomsOfBoolean = [
  'context.tls.used',
  'context.useCount < 5',
  'resource.name like "d*"',
  'context.networks.contains("office")',
];

function condition(dice: Dice, depth: number): string {
  if (depth === 0 || dice.chance(0.4)) return dice.one(atoms)(dice);
  const shape = dice.below(5);
  if (shape === 0) return `!(${condition(dice, depth - 1)})`;
  const sign = shape < 4 ? '&&' : '||';
  return `(${condition(dice, depth - 1)} ${sign} ${condition(dice, depth - 1)})`;
}

function policyText(dice: Dice): string {
  const effect = dice.chance(0.7) ? 'permit' : 'forbid';
  const principal = dice.one([
    'principal',
    'principal',
    'principal',
    'principal',
    `principal in ${principalEntity(dice)}`,
    `principal in Role::"${dice.one(roles)}"`,
    `principal == ${dice.one(Object.values(typeOf))}::"${dice.one(people)}"`,
    `principal is ${dice.one(Object.values(typeOf))}`,
    `principal is ${dice.one(Object.values(typeOf))} in Role::"${dice.one(roles)}"`,
  ]);
  const action = dice.one([
    'action',
    'action',
    'action',
    `action == Action::"${dice.one(actions)}"`,
    `action in [${dice
      .some(actions, 4)
      .map((name) => `Action::"${name}"`)
      .join(', ')}]`,
  ]);
  const resource = dice.one([
    'resource',
    'resource',
    'resource',
    'resource',
    `resource in ${resourceEntity(dice)}`,
    `resource == ${resourceEntity(dice)}`,
    `resource is ${dice.one(['Secret', 'Namespace', 'Vault'])}`,
    `resource is Secret in Namespace::"${dice.one(namespaces)}"`,
  ]);
  const conditions = Array.from(
    { length: dice.below(3) },
    () => `${dice.chance(0.8) ? 'when' : 'unless'} { ${condition(dice, 3)} }`,
  );
  const annotations = [
    ...(dice.chance(0.5) ? [`@priority("${dice.below(3)}")`] : []),
    ...(dice.chance(0.3) ? [`@log("${dice.below(9)}")`] : []),
    ...(effect === 'permit' && dice.chance(0.2) ? ['@throttle("5 per minute by address")'] : []),
  ];
  return `${[...annotations, `${effect}(${principal}, ${action}, ${resource})`, ...conditions].join(' ')};`;
}

export interface RandomLevel {
  otherwise: 'deny' | 'permit';
  policies: { id: string; cedar: string; enabled: boolean }[];
}
export interface RandomSet {
  networks: typeof networks;
  organization?: RandomLevel;
  vault?: RandomLevel;
  namespaces: Record<string, RandomLevel>;
}

export function randomSet(dice: Dice): RandomSet {
  const level = (prefix: string, most: number): RandomLevel => ({
    otherwise: dice.chance(0.3) ? 'permit' : 'deny',
    policies: Array.from({ length: 1 + dice.below(most) }, (_, at) => ({
      id: `${prefix}${at}`,
      cedar: policyText(dice),
      enabled: dice.chance(0.95),
    })),
  });
  return {
    networks,
    ...(dice.chance(0.3) ? { organization: level('o', 8) } : {}),
    ...(dice.chance(0.9) ? { vault: level('v', 14) } : {}),
    namespaces: dice.chance(0.3) ? { [dice.one(namespaces)]: level('n', 8) } : {},
  };
}

export function randomRequest(dice: Dice): AccessRequest {
  const record = (keys: readonly string[], values: readonly string[]) => {
    const made: Record<string, string> = {};
    for (const key of keys) {
      if (dice.chance(0.5)) {
        Object.defineProperty(made, key, { value: dice.one(values), enumerable: true });
      }
    }
    return made;
  };
  const someTags = () => (dice.chance(0.5) ? [...new Set(dice.some(tags, 3))] : []);
  const metadata = () => record(['env', 'team', '__proto__'], ['prod', 'dev']);
  const action = dice.one(actions);
  const needsSecret = onSecrets.includes(action);
  const withNamespace =
    needsSecret || onNamespaces.includes(action) || action === 'secret.create' || dice.chance(0.5);
  const withSecret = needsSecret || (withNamespace && dice.chance(0.3));
  const id = dice.one(people);
  return {
    principal: {
      kind: dice.one(kinds),
      id,
      ...(dice.chance(0.5) ? { name: dice.one(people) } : {}),
      roles: [...new Set(dice.some(roles, 3))],
      attributes: record(['team'], ['prod', 'dev']),
    },
    action,
    resource: {
      vault: { id: 'vlt_1', name: dice.one(['main-vault', 'other']), tags: someTags() },
      ...(withNamespace
        ? {
            namespace: {
              name: dice.one(namespaces),
              tags: someTags(),
              metadata: metadata(),
              ...(dice.chance(0.5) ? { owner: dice.one(people) } : {}),
            },
          }
        : {}),
      ...(withSecret
        ? { secret: { name: dice.one(secrets), tags: someTags(), metadata: metadata() } }
        : {}),
    },
    context: {
      atMs: startMs + dice.below(4 * 24) * 3_600_000 + dice.one([0, 0, 1, 1_799_999, 1_234_567]),
      zone: dice.one(zones),
      ...(dice.chance(0.8) ? { address: dice.one(addresses) } : {}),
      authentication: { method: dice.one(methods), ageSeconds: dice.below(4_000) },
      tls: {
        used: dice.chance(0.5),
        clientCertificate: dice.chance(0.5),
        ...(dice.chance(0.5) ? { version: 'TLSv1.3' } : {}),
      },
      headers: record(
        ['x-purpose', 'x-environment', 'origin', 'authorization'],
        ['deploy', 'audit', 'prod', 'a'],
      ),
      useCount: dice.below(12),
    },
  };
}

/**
 * An earlier question, with one thing changed in it, or with nothing: that is where an answer would be
 * remembered that must not be.
 */
export function nearlyAgain(dice: Dice, earlier: AccessRequest): AccessRequest {
  if (dice.chance(0.2)) return earlier;
  const changed = structuredClone(earlier) as unknown as Record<string, Record<string, unknown>>;
  // The shape has to stay that of its action, so only what both have is exchanged.
  const other = randomRequest(dice) as unknown as Record<string, Record<string, unknown>>;
  const part = dice.one(['principal', 'resource', 'context', 'context', 'resource']);
  let to = changed[part] as Record<string, unknown>;
  let from = other[part] as Record<string, unknown>;
  if (part === 'resource') {
    const held = dice.one(Object.keys(to).filter((key) => key in from));
    to = to[held] as Record<string, unknown>;
    from = from[held] as Record<string, unknown>;
  }
  const key = dice.one([...new Set([...Object.keys(to), ...Object.keys(from)])]);
  if (key === 'id' && part === 'resource') return earlier;
  if (key in from) to[key] = from[key];
  else if (key !== 'zone' && key !== 'id') delete to[key];
  return changed as unknown as AccessRequest;
}

/** By the runtime's own calendar, slowly. */
const calendars = new Map<string, Intl.DateTimeFormat>();
const shown = new Map<string, Record<string, number>>();
function wallClock(atMs: number, zone: string): Record<string, number> {
  const key = `${atMs} ${zone}`;
  const known = shown.get(key);
  if (known) return known;
  const calendar =
    calendars.get(zone) ??
    new Intl.DateTimeFormat('en-GB', {
      timeZone: zone,
      weekday: 'short',
      year: 'numeric',
      month: 'numeric',
      day: 'numeric',
      hour: '2-digit',
      minute: '2-digit',
      hourCycle: 'h23',
    });
  calendars.set(zone, calendar);
  const parts = Object.fromEntries(
    calendar.formatToParts(atMs).map(({ type, value }) => [type, value]),
  );
  const time = {
    year: Number(parts.year),
    month: Number(parts.month),
    day: Number(parts.day),
    weekday: ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'].indexOf(parts.weekday as string) + 1,
    minuteOfDay: Number(parts.hour) * 60 + Number(parts.minute),
  };
  shown.set(key, time);
  return time;
}

const resourceTypes: Partial<Record<AgentAction, string[]>> = {
  'secret.create': ['Secret', 'Namespace'],
  'audit.read': ['Namespace', 'Vault'],
  'rotation.read': ['Secret', 'Namespace', 'Vault'],
};

const places = new Map<string, { address: string; located: string[] }>();

function locate(text: string): { address: string; located: string[] } {
  const known = places.get(text);
  if (known) return known;
  const address = ipaddr.process(text);
  const kind = address.range();
  const located: string[] = [];
  if (kind === 'loopback') located.push('loopback');
  if (kind === 'private') located.push('private');
  if (kind === 'unicast') located.push('public');
  const within = (range: string) => {
    const [base, bits] = ipaddr.parseCIDR(range);
    return base.kind() === address.kind() && address.match(base as never, bits as never);
  };
  for (const [name, ranges] of Object.entries(networks)) {
    if (ranges.some(within)) located.push(name);
  }
  const place = { address: address.toString(), located };
  places.set(text, place);
  return place;
}

/** The request with all its facts, as the schema has them. */
export function wholeCall(request: AccessRequest) {
  const { principal, action, resource, context } = request;
  const { vault, namespace, secret } = resource;
  const may = onSecrets.includes(action)
    ? ['Secret']
    : onNamespaces.includes(action)
      ? ['Namespace']
      : onVaults.includes(action)
        ? ['Vault']
        : (resourceTypes[action] as string[]);
  const reference = (type: string, id: string) => ({ __entity: { type, id } });
  const vaultUid = { type: 'Vault', id: vault.id as string };
  const principalUid = { type: typeOf[principal.kind], id: principal.id };
  let asked = vaultUid;
  const entities: unknown[] = [
    {
      uid: principalUid,
      attrs: { name: principal.name ?? principal.id },
      parents: (principal.roles ?? []).map((id) => ({ type: 'Role', id })),
      tags: principal.attributes ?? {},
    },
    {
      uid: vaultUid,
      attrs: { name: vault.name, tags: vault.tags ?? [], vault: reference('Vault', vaultUid.id) },
      parents: [],
      tags: {},
    },
  ];
  if (namespace && (may.includes('Namespace') || may.includes('Secret'))) {
    const uid = { type: 'Namespace', id: namespace.name };
    if (may.includes('Namespace')) asked = uid;
    entities.push({
      uid,
      attrs: {
        name: namespace.name,
        tags: namespace.tags ?? [],
        ...(namespace.owner === undefined ? {} : { owner: namespace.owner }),
        vault: reference('Vault', vaultUid.id),
        namespace: reference('Namespace', namespace.name),
      },
      parents: [vaultUid],
      tags: namespace.metadata ?? {},
    });
    if (secret && may.includes('Secret')) {
      asked = { type: 'Secret', id: `${namespace.name}:${secret.name}` };
      entities.push({
        uid: asked,
        attrs: {
          name: secret.name,
          tags: secret.tags ?? [],
          vault: reference('Vault', vaultUid.id),
          namespace: reference('Namespace', namespace.name),
        },
        parents: [uid],
        tags: secret.metadata ?? {},
      });
    }
  }
  const { address, located } =
    context.address === undefined ? { address: undefined, located: [] } : locate(context.address);
  const headers: Record<string, string> = {};
  for (const name of ['x-purpose', 'x-environment', 'origin']) {
    const value = context.headers?.[name];
    if (value !== undefined) headers[name] = value;
  }
  const metadata =
    asked.type === 'Secret'
      ? secret?.metadata
      : asked.type === 'Namespace'
        ? namespace?.metadata
        : {};
  const texts: Record<string, string | undefined> = {
    'resource.name':
      asked.type === 'Secret'
        ? secret?.name
        : asked.type === 'Namespace'
          ? namespace?.name
          : vault.name,
    'principal.name': principal.name ?? principal.id,
    'headers.x-purpose': headers['x-purpose'],
    'resource.metadata.env': metadata?.env,
    'namespace.name': asked.type === 'Vault' ? undefined : namespace?.name,
    'authentication.method': context.authentication.method,
  };
  return {
    principal: principalUid,
    action: { type: 'Action', id: action as string },
    resource: asked,
    namespace: asked.type === 'Vault' ? undefined : namespace?.name,
    entities: entities as never[],
    context: {
      time: {
        now: { __extn: { fn: 'datetime', arg: new Date(context.atMs).toISOString() } },
        zone: context.zone as string,
        ...wallClock(context.atMs, context.zone as string),
      },
      clock: Object.fromEntries(zones.map((zone) => [zone, wallClock(context.atMs, zone)])),
      ...(address ? { address: { __extn: { fn: 'ip', arg: address } } } : {}),
      networks: located,
      authentication: context.authentication,
      tls: context.tls as never,
      headers,
      useCount: context.useCount as number,
      matches: patterns
        .filter(([path, pattern]) => {
          const text = texts[path];
          return text !== undefined && new RegExp(pattern, 'u').test(text);
        })
        .map((pair) => pair.join(' ~ ')),
    },
  };
}

export interface Opinion {
  decision: 'allow' | 'deny';
  reason: string;
  policyIds: string[];
  failed: string[];
}

/** A set as plain Cedar has it: each level prepared whole. */
export class PlainSet {
  readonly #levels: { name: string; namespace?: string; level: RandomLevel; slot: string }[] = [];

  constructor(set: RandomSet) {
    const add = (name: string, level: RandomLevel | undefined, namespace?: string) => {
      if (!level) return;
      const slot = `${name}-plain`;
      const staticPolicies = Object.fromEntries(
        level.policies.filter((policy) => policy.enabled).map(({ id, cedar }) => [id, cedar]),
      );
      const answer = plainCedar.preparsePolicySet(slot, { staticPolicies });
      if (answer.type !== 'success') throw new Error(JSON.stringify(answer));
      this.#levels.push({ name, level, slot, ...(namespace === undefined ? {} : { namespace }) });
    };
    add('organization', set.organization);
    add('vault', set.vault);
    for (const [name, level] of Object.entries(set.namespaces)) add('namespace', level, name);
  }

  judge(request: AccessRequest): Opinion {
    const { namespace, ...call } = wholeCall(request);
    const forbids: string[] = [];
    const failed: string[] = [];
    const failedForbids: string[] = [];
    const winners: string[] = [];
    let refusedBy: string | undefined;
    let granted = false;
    for (const { name, level, slot, namespace: only } of this.#levels) {
      if (only !== undefined && only !== namespace) continue;
      const answer = plainCedar.statefulIsAuthorized({
        ...call,
        preparsedPolicySetId: slot,
        validateRequest: false,
      });
      if (answer.type !== 'success') throw new Error(JSON.stringify(answer));
      const { decision, diagnostics } = answer.response;
      const textOf = (id: string) => level.policies.find((policy) => policy.id === id)?.cedar ?? '';
      const priorityOf = (id: string) => Number(/@priority\("(\d+)"\)/.exec(textOf(id))?.[1] ?? 0);
      for (const { policyId } of diagnostics.errors) {
        failed.push(policyId);
        if (/\bforbid\(/.test(textOf(policyId))) failedForbids.push(policyId);
      }
      if (decision === 'allow') {
        granted = true;
        const highest = Math.max(...diagnostics.reason.map(priorityOf));
        winners.push(...diagnostics.reason.filter((id) => priorityOf(id) === highest).sort());
      } else if (diagnostics.reason.length > 0) forbids.push(...[...diagnostics.reason].sort());
      else if (level.otherwise === 'deny') refusedBy ??= name;
    }
    failed.sort();
    if (forbids.length > 0)
      return { decision: 'deny', reason: 'forbidden', policyIds: forbids, failed };
    if (failedForbids.length > 0) {
      return { decision: 'deny', reason: 'policy_failed', policyIds: failedForbids.sort(), failed };
    }
    if (refusedBy !== undefined || !granted)
      return { decision: 'deny', reason: 'not_permitted', policyIds: [], failed };
    return { decision: 'allow', reason: 'permitted', policyIds: winners, failed };
  }
}
