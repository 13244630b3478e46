/** A request as policies see it: checked, and with every reading under one name. */
import { type AgentAction, agentActions } from '@keystead/contracts/agent-api/actions';
import { limits } from './limits.ts';
import { type LocalTime, localTime } from './local-time.ts';
import type { Networks } from './networks.ts';
import {
  isTimeZone,
  type PrincipalKind,
  principalTypes,
  type ResourceType,
  readableHeaders,
  resourceTypesOf,
} from './vocabulary.ts';

export interface AccessRequest {
  principal: {
    kind: PrincipalKind;
    /** Stable and unique within the kind. */
    id: string;
    /** For people; the id when there is none. */
    name?: string;
    roles?: readonly string[];
    /** Claims and the like. */
    attributes?: Readonly<Record<string, string>>;
  };
  action: AgentAction;
  /** The thing itself and what it lies in: the most exact that is given is what is asked for. */
  resource: {
    vault: Named;
    namespace?: Named & { owner?: string };
    secret?: Named;
  };
  context: {
    atMs: number;
    /** Of the agent; UTC when there is none. */
    zone?: string;
    /** False: the clock jumped, and whatever depends on the time is denied. */
    clockTrusted?: boolean;
    /** Empty or absent for work that came over no network. */
    address?: string;
    authentication: { method: string; ageSeconds: number };
    tls?: { used: boolean; version?: string; clientCertificate?: boolean };
    /** Lower-case names; those that policies may not read are ignored. */
    headers?: Readonly<Record<string, string>>;
    useCount?: number;
  };
}

interface Named {
  /** Of a vault: its id. Ignored elsewhere: namespaces and secrets are known by their names. */
  id?: string;
  name: string;
  tags?: readonly string[];
  metadata?: Readonly<Record<string, string>>;
}

export interface Facts {
  request: AccessRequest;
  principalType: string;
  principalId: string;
  principalName: string;
  roles: readonly string[];
  attributes: Readonly<Record<string, string>>;
  action: AgentAction;
  resourceType: ResourceType;
  resourceId: string;
  resourceName: string;
  resourceTags: readonly string[];
  resourceMetadata: Readonly<Record<string, string>>;
  namespaceName: string | undefined;
  namespaceTags: readonly string[] | undefined;
  vaultId: string;
  zone: string;
  address: string | undefined;
  networks: readonly string[];
  headers: Readonly<Record<string, string>>;
}

export type Value =
  | string
  | number
  | boolean
  | readonly string[]
  | Readonly<Record<string, string>>
  | undefined;

const actions: ReadonlySet<string> = new Set(agentActions);
const typesOf = new Map<string, readonly ResourceType[]>(
  agentActions.map((action) => [action, resourceTypesOf(action)]),
);
const none: Readonly<Record<string, string>> = Object.freeze({});
const nothing: readonly string[] = Object.freeze([]) as readonly string[];
const latestMs = Date.UTC(9_999, 11, 31);

class Unfit extends Error {}

function text(value: unknown, what: string): string {
  if (typeof value !== 'string') throw new Unfit(`${what} is missing`);
  if (value.length > limits.textMaxLength) throw new Unfit(`${what} is too long`);
  if (!value.isWellFormed()) throw new Unfit(`${what} is not valid Unicode`);
  return value;
}

function list(
  values: readonly string[] | undefined,
  most: number,
  what: string,
): readonly string[] {
  if (values === undefined) return nothing;
  if (!Array.isArray(values)) throw new Unfit(`${what} is no list`);
  if (values.length > most) throw new Unfit(`${what} has more than ${most} entries`);
  for (const value of values) text(value, what);
  return values;
}

function entries(
  values: Readonly<Record<string, string>> | undefined,
  what: string,
): Readonly<Record<string, string>> {
  if (values === undefined) return none;
  let many = 0;
  for (const key in values) {
    many += 1;
    text(key, what);
    text(values[key], what);
  }
  if (many > limits.metadataPerResource) {
    throw new Unfit(`${what} has more than ${limits.metadataPerResource} entries`);
  }
  return values;
}

function count(value: unknown, what: string): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0) {
    throw new Unfit(`${what} is no whole number`);
  }
  return value as number;
}

/** The facts of a request, or what makes it none. */
export function factsOf(request: AccessRequest, networks: Networks): Facts | string {
  try {
    return gather(request, networks);
  } catch (error) {
    if (error instanceof Unfit) return error.message;
    return 'the request is not complete';
  }
}

function gather(request: AccessRequest, networks: Networks): Facts {
  const { principal, action, resource, context } = request;
  const principalType = Object.hasOwn(principalTypes, principal.kind)
    ? principalTypes[principal.kind]
    : undefined;
  if (principalType === undefined) throw new Unfit('the kind of the principal is not known');
  if (!actions.has(action)) throw new Unfit('the action is not known');
  const { vault, namespace, secret } = resource;
  const vaultId = text(vault.id ?? vault.name, 'the id of the vault');
  text(vault.name, 'the name of the vault');
  list(vault.tags, limits.tagsPerResource, 'the tags of the vault');
  entries(vault.metadata, 'the metadata of the vault');
  if (namespace) {
    text(namespace.name, 'the name of the namespace');
    if (namespace.owner !== undefined) text(namespace.owner, 'the owner of the namespace');
    list(namespace.tags, limits.tagsPerResource, 'the tags of the namespace');
    entries(namespace.metadata, 'the metadata of the namespace');
  }
  if (secret) {
    if (!namespace) throw new Unfit('a secret lies in a namespace');
    text(secret.name, 'the name of the secret');
    list(secret.tags, limits.tagsPerResource, 'the tags of the secret');
    entries(secret.metadata, 'the metadata of the secret');
  }
  const allowed = typesOf.get(action) as readonly ResourceType[];
  // An action that is done to what holds the thing is judged there.
  const resourceType: ResourceType | undefined =
    secret && allowed.includes('Secret')
      ? 'Secret'
      : namespace && allowed.includes('Namespace')
        ? 'Namespace'
        : allowed.includes('Vault')
          ? 'Vault'
          : undefined;
  if (resourceType === undefined) throw new Unfit(`${action} needs a ${allowed.join(' or a ')}`);
  const subject: Named =
    resourceType === 'Secret'
      ? (secret as Named)
      : resourceType === 'Namespace'
        ? (namespace as Named)
        : vault;
  const within = resourceType === 'Vault' ? undefined : namespace;
  if (!Number.isSafeInteger(context.atMs) || context.atMs < 0 || context.atMs > latestMs) {
    throw new Unfit('the time is none');
  }
  const zone = context.zone ?? 'UTC';
  if (zone !== 'UTC' && !isTimeZone(zone)) throw new Unfit('the time zone is not known');
  const given = context.address;
  const located =
    given === undefined || given === '' ? undefined : networks.locate(text(given, 'the address'));
  if (given !== undefined && given !== '' && located === undefined) {
    throw new Unfit('the address is none');
  }
  text(context.authentication.method, 'the way of authentication');
  count(context.authentication.ageSeconds, 'the age of the authentication');
  count(context.useCount ?? 0, 'the use count');
  if (context.tls?.version !== undefined) text(context.tls.version, 'the version of TLS');
  const headers = context.headers ?? none;
  for (const name of readableHeaders) {
    if (Object.hasOwn(headers, name)) text(headers[name], `the header ${name}`);
  }
  return {
    request,
    principalType,
    principalId: text(principal.id, 'the id of the principal'),
    principalName: text(principal.name ?? principal.id, 'the name of the principal'),
    roles: list(principal.roles, limits.rolesPerPrincipal, 'the list of roles'),
    attributes: entries(principal.attributes, 'the attributes of the principal'),
    action,
    resourceType,
    resourceId:
      resourceType === 'Secret'
        ? `${(namespace as Named).name}:${subject.name}`
        : resourceType === 'Namespace'
          ? subject.name
          : vaultId,
    resourceName: subject.name,
    resourceTags: subject.tags ?? nothing,
    resourceMetadata: subject.metadata ?? none,
    namespaceName: within?.name,
    namespaceTags: within && (within.tags ?? nothing),
    vaultId,
    zone,
    address: located?.address,
    networks: located?.networks ?? nothing,
    headers,
  };
}

const own = (entriesOf: Readonly<Record<string, string>> | undefined, key: string) =>
  entriesOf !== undefined && Object.hasOwn(entriesOf, key) ? entriesOf[key] : undefined;

const timeParts = new Set(['year', 'month', 'day', 'weekday', 'minuteOfDay']);

/** What is read under a name that `readName` gives; undefined where there is nothing. */
export function readerOf(name: string): (facts: Facts) => Value {
  const tag = name.indexOf('#');
  if (tag > 0 && !name.startsWith('context')) {
    const holder = name.slice(0, tag);
    const key = name.slice(tag + 1);
    const all = (facts: Facts) =>
      holder === 'principal'
        ? facts.attributes
        : holder === 'resource'
          ? facts.resourceMetadata
          : holder === 'namespace'
            ? facts.namespaceName === undefined
              ? undefined
              : (facts.request.resource.namespace?.metadata ?? none)
            : (facts.request.resource.vault.metadata ?? none);
    return key === '' ? all : (facts) => own(all(facts), key);
  }
  const fixed = readers[name];
  if (fixed) return fixed;
  if (name.startsWith('context.clock.')) {
    const dot = name.lastIndexOf('.');
    const zone = name.slice('context.clock.'.length, dot);
    const part = name.slice(dot + 1);
    if (timeParts.has(part)) {
      return (facts) => localTime(facts.request.context.atMs, zone)[part as keyof LocalTime];
    }
    const whole = name.slice('context.clock.'.length);
    return (facts) => JSON.stringify(localTime(facts.request.context.atMs, whole));
  }
  if (name.startsWith('context.headers.')) {
    const header = name.slice('context.headers.'.length);
    return (facts) =>
      (readableHeaders as readonly string[]).includes(header)
        ? own(facts.headers, header)
        : undefined;
  }
  return () => undefined;
}

const time = (part: keyof LocalTime) => (facts: Facts) =>
  localTime(facts.request.context.atMs, facts.zone)[part];

const readable = (facts: Facts): Record<string, string> => {
  const found: Record<string, string> = {};
  for (const name of readableHeaders) {
    const value = own(facts.headers, name);
    if (value !== undefined) found[name] = value;
  }
  return found;
};

const readers: Record<string, (facts: Facts) => Value> = {
  'principal@': (facts) => facts.principalId,
  'principal^': (facts) => facts.roles,
  'principal.name': (facts) => facts.principalName,
  'resource@': (facts) => facts.resourceId,
  'resource^': (facts) => [facts.namespaceName ?? '', facts.vaultId],
  'resource.name': (facts) => facts.resourceName,
  'resource.tags': (facts) => facts.resourceTags,
  'resource.owner': (facts) =>
    facts.resourceType === 'Namespace' ? facts.request.resource.namespace?.owner : undefined,
  'namespace@': (facts) => facts.namespaceName,
  'namespace^': (facts) => facts.vaultId,
  'namespace.name': (facts) => facts.namespaceName,
  'namespace.tags': (facts) => facts.namespaceTags,
  'namespace.owner': (facts) =>
    facts.namespaceName === undefined ? undefined : facts.request.resource.namespace?.owner,
  'vault@': (facts) => facts.vaultId,
  'vault^': (facts) => facts.vaultId,
  'vault.name': (facts) => facts.request.resource.vault.name,
  'vault.tags': (facts) => facts.request.resource.vault.tags ?? nothing,
  'context.time.now': (facts) => facts.request.context.atMs,
  'context.time.zone': (facts) => facts.zone,
  'context.time.year': time('year'),
  'context.time.month': time('month'),
  'context.time.day': time('day'),
  'context.time.weekday': time('weekday'),
  'context.time.minuteOfDay': time('minuteOfDay'),
  'context.time': (facts) => `${facts.request.context.atMs} ${facts.zone}`,
  'context.address': (facts) => facts.address,
  'context.networks': (facts) => facts.networks,
  'context.authentication.method': (facts) => facts.request.context.authentication.method,
  'context.authentication.ageSeconds': (facts) => facts.request.context.authentication.ageSeconds,
  'context.authentication': (facts) => JSON.stringify(facts.request.context.authentication),
  'context.tls.used': (facts) => facts.request.context.tls?.used === true,
  'context.tls.version': (facts) => facts.request.context.tls?.version,
  'context.tls.clientCertificate': (facts) => facts.request.context.tls?.clientCertificate === true,
  'context.tls': (facts) => JSON.stringify(facts.request.context.tls ?? null),
  'context.headers': readable,
  'context.useCount': (facts) => facts.request.context.useCount ?? 0,
};

/** The text that a pattern is matched with. */
export function textReaderOf(path: string): (facts: Facts) => string | undefined {
  const renamed = path
    .replace(/^principal\.attributes\./, 'principal#')
    .replace(/^(resource|namespace)\.metadata\./, '$1#')
    .replace(/^(headers\.|authentication\.|tls\.)/, 'context.$1');
  return readerOf(renamed) as (facts: Facts) => string | undefined;
}

/** What is denied while the clock is not trusted. */
export const readsClock = (name: string): boolean =>
  name.startsWith('context.time') ||
  name.startsWith('context.clock') ||
  name === 'context.authentication' ||
  name === 'context.authentication.ageSeconds';

const reference = (type: string, id: string) => ({ __entity: { type, id } });
const uid = (type: string, id: string) => ({ type, id });

interface CedarCall {
  principal: { type: string; id: string };
  action: { type: string; id: string };
  resource: { type: string; id: string };
  context: Record<string, never>;
  entities: never[];
}

/**
 * The request as Cedar takes it, with what `reads` names and nothing else: what no policy reads costs
 * time to hand over and changes nothing. Without `reads`, all there is.
 */
export function cedarCallOf(
  facts: Facts,
  reads: ReadonlySet<string> | undefined,
  roles: ReadonlySet<string> | undefined,
  navigates: boolean,
  matches: readonly string[],
  zones: ReadonlySet<string>,
): CedarCall {
  const wants = (name: string) => reads === undefined || reads.has(name);
  const { vault, namespace } = facts.request.resource;
  const tagsOf = (holder: string, all: Readonly<Record<string, string>> | undefined) => {
    // Without a prototype, `__proto__` is a key like any other.
    const kept: Record<string, string> = Object.create(null);
    if (all === undefined) return kept;
    if (wants(`${holder}#`)) return Object.assign(kept, all);
    for (const name of reads ?? []) {
      if (!name.startsWith(`${holder}#`)) continue;
      const value = own(all, name.slice(holder.length + 1));
      if (value !== undefined) kept[name.slice(holder.length + 1)] = value;
    }
    return kept;
  };
  const tagsUnder = (holders: readonly string[], all: Readonly<Record<string, string>> = none) =>
    Object.assign(
      Object.create(null) as Record<string, string>,
      ...holders.map((holder) => tagsOf(holder, all)),
    );
  const attributesOf = (
    holder: 'resource' | 'namespace' | 'vault',
    type: string,
    of: { name: string; tags?: readonly string[]; owner?: string },
  ) => {
    // The resource may be reached as itself and through itself.
    const wanted = (part: string) =>
      wants(`${holder}.${part}`) ||
      (type === facts.resourceType && wants(`resource.${part}`)) ||
      (holder === 'resource' && wants(`${type.toLowerCase()}.${part}`));
    const attrs: Record<string, unknown> = {};
    if (wanted('name')) attrs.name = of.name;
    if (wanted('tags')) attrs.tags = of.tags ?? [];
    if (type === 'Namespace' && of.owner !== undefined && wanted('owner')) attrs.owner = of.owner;
    if (navigates) {
      attrs.vault = reference('Vault', facts.vaultId);
      if (type !== 'Vault') attrs.namespace = reference('Namespace', facts.namespaceName as string);
    }
    return attrs;
  };
  const entities: unknown[] = [
    {
      uid: uid(facts.principalType, facts.principalId),
      attrs: wants('principal.name') ? { name: facts.principalName } : {},
      parents: (roles ? facts.roles.filter((role) => roles.has(role)) : facts.roles).map((role) =>
        uid('Role', role),
      ),
      tags: tagsOf('principal', facts.attributes),
    },
  ];
  const vaultEntity = (holder: 'resource' | 'vault') => ({
    uid: uid('Vault', facts.vaultId),
    attrs: attributesOf(holder, 'Vault', vault),
    parents: [],
    tags: tagsUnder(holder === 'vault' ? ['vault'] : ['vault', 'resource'], vault.metadata),
  });
  const namespaceEntity = (holder: 'resource' | 'namespace') => ({
    uid: uid('Namespace', facts.namespaceName as string),
    attrs: attributesOf(holder, 'Namespace', namespace as Named),
    parents: [uid('Vault', facts.vaultId)],
    tags: tagsUnder(
      holder === 'namespace' ? ['namespace'] : ['namespace', 'resource'],
      namespace?.metadata,
    ),
  });
  if (facts.resourceType === 'Secret') {
    entities.push({
      uid: uid('Secret', facts.resourceId),
      attrs: attributesOf('resource', 'Secret', {
        name: facts.resourceName,
        tags: facts.resourceTags,
      }),
      parents: [uid('Namespace', facts.namespaceName as string)],
      tags: tagsOf('resource', facts.resourceMetadata),
    });
    entities.push(namespaceEntity('namespace'));
  } else if (facts.resourceType === 'Namespace') entities.push(namespaceEntity('resource'));
  entities.push(vaultEntity(facts.resourceType === 'Vault' ? 'resource' : 'vault'));
  return {
    principal: uid(facts.principalType, facts.principalId),
    action: uid('Action', facts.action),
    resource: uid(facts.resourceType, facts.resourceId),
    context: contextOf(facts, reads, matches, zones) as Record<string, never>,
    entities: entities as never[],
  };
}

function contextOf(
  facts: Facts,
  reads: ReadonlySet<string> | undefined,
  matches: readonly string[],
  zones: ReadonlySet<string>,
): Record<string, unknown> {
  const { context } = facts.request;
  const wants = (name: string) => reads === undefined || reads.has(`context.${name}`);
  /** A record of those parts that are wanted; all of them when the record is read as a whole. */
  const part = (record: string, all: Record<string, unknown>): Record<string, unknown> => {
    if (wants(record)) return all;
    const kept: Record<string, unknown> = {};
    for (const key in all) if (wants(`${record}.${key}`)) kept[key] = all[key];
    return kept;
  };
  const now = { __extn: { fn: 'datetime', arg: new Date(context.atMs).toISOString() } };
  const built: Record<string, unknown> = {
    time: part('time', { now, zone: facts.zone, ...localTime(context.atMs, facts.zone) }),
    authentication: part('authentication', {
      method: context.authentication.method,
      ageSeconds: context.authentication.ageSeconds,
    }),
    tls: part('tls', {
      used: context.tls?.used === true,
      clientCertificate: context.tls?.clientCertificate === true,
      ...(context.tls?.version === undefined ? {} : { version: context.tls.version }),
    }),
    headers: part('headers', readable(facts)),
    matches,
  };
  const clock: Record<string, unknown> = {};
  for (const zone of zones) clock[zone] = localTime(context.atMs, zone);
  built.clock = clock;
  if (facts.address !== undefined && wants('address')) {
    built.address = { __extn: { fn: 'ip', arg: facts.address } };
  }
  if (wants('networks')) built.networks = facts.networks;
  if (wants('useCount')) built.useCount = context.useCount ?? 0;
  return built;
}
