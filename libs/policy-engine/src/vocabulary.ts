/**
 * What a policy may speak of: who asks, what is asked for, of what, and in which circumstances. One
 * table from which Cedar's schema is written. The actions are those of the agent's API.
 */
import type { NamespaceDefinition, SchemaJson } from '@cedar-policy/cedar-wasm/nodejs';
import { type AgentAction, agentActions } from '@keystead/contracts/agent-api/actions';

export const principalTypes = {
  user: 'User',
  api_key: 'ApiKey',
  jwt: 'JwtSubject',
  certificate: 'Certificate',
  system: 'System',
} as const;
export type PrincipalKind = keyof typeof principalTypes;
export const principalTypeNames: readonly string[] = Object.values(principalTypes);

export const resourceTypes = { vault: 'Vault', namespace: 'Namespace', secret: 'Secret' } as const;
export type ResourceKind = keyof typeof resourceTypes;
export type ResourceType = (typeof resourceTypes)[ResourceKind];

const kindsOf: Partial<Record<AgentAction, readonly ResourceType[]>> = {
  'namespace.create': ['Vault'],
  'namespace.list': ['Vault'],
  'namespace.read': ['Namespace'],
  'namespace.update': ['Namespace'],
  'namespace.delete': ['Namespace'],
  'secret.create': ['Namespace', 'Secret'],
  'secret.list': ['Namespace'],
};
const families: Record<string, readonly ResourceType[]> = {
  secret: ['Secret'],
  rotation: ['Vault', 'Namespace', 'Secret'],
  key: ['Vault'],
  policy: ['Vault'],
  configuration: ['Vault'],
  health: ['Vault'],
};

/**
 * The kinds of thing an action is done to: a list or a creation names what is above it, where that is
 * all that is known. What concerns a part of the vault may name that part.
 */
export function resourceTypesOf(action: AgentAction): readonly ResourceType[] {
  const family = action.slice(0, action.indexOf('.'));
  return kindsOf[action] ?? families[family] ?? ['Vault', 'Namespace'];
}

/** Headers of a request that a policy may read. Nothing else of a request's head is handed on. */
export const readableHeaders = [
  'origin',
  'referer',
  'user-agent',
  'x-change-ticket',
  'x-client-version',
  'x-environment',
  'x-forwarded-proto',
  'x-pipeline',
  'x-purpose',
  'x-repository',
] as const;
export type ReadableHeader = (typeof readableHeaders)[number];

/** Names of networks that are always known, besides those of the set. */
export const builtInNetworks = ['loopback', 'private', 'public'] as const;

export const authenticationMethods = [
  'api_key',
  'certificate',
  'jwt',
  'local',
  'password',
  'system',
] as const;

const isZone = new Map<string, boolean>();

/** A time zone of the IANA database that this runtime knows. */
export function isTimeZone(name: string): boolean {
  let known = isZone.get(name);
  if (known === undefined) {
    try {
      // A spelling that is not canonical would name the same zone twice; offsets are no zones.
      known =
        /^[A-Za-z][A-Za-z0-9_+-]*(?:\/[A-Za-z0-9_+-]+)*$/.test(name) &&
        new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone !== undefined;
    } catch {
      known = false;
    }
    if (isZone.size > 2_000) isZone.clear();
    isZone.set(name, known);
  }
  return known;
}

let zones: string[] | undefined;
export const timeZones = (): string[] => {
  zones ??= [...Intl.supportedValuesOf('timeZone'), 'UTC'];
  return zones;
};

const localTime = '{ year: Long, month: Long, day: Long, weekday: Long, minuteOfDay: Long }';

/** What a schema must let a policy be checked against. */
export interface Environments {
  /** Named by the policy; each has to be declared. */
  declared: readonly string[];
  actions: readonly string[];
  principals: readonly string[];
  zones: readonly string[];
}

/** Cedar's schema, with the clocks of these time zones. */
export function schemaText(zones: readonly string[]): string {
  return `
entity Role;
entity ${principalTypeNames.join(', ')} in [Role] = { name: String } tags String;
entity Vault = { name: String, tags: Set<String>, vault: Vault } tags String;
entity Namespace in [Vault] = { name: String, tags: Set<String>, owner?: String, vault: Vault, namespace: Namespace } tags String;
entity Secret in [Namespace] = { name: String, tags: Set<String>, vault: Vault, namespace: Namespace } tags String;
type Context = {
  time: { now: datetime, zone: String, year: Long, month: Long, day: Long, weekday: Long, minuteOfDay: Long },
  clock: { ${zones.map((zone) => `"${zone}": ${localTime}`).join(', ')} },
  address?: ipaddr,
  networks: Set<String>,
  authentication: { method: String, ageSeconds: Long },
  tls: { used: Bool, version?: String, clientCertificate: Bool },
  headers: { ${readableHeaders.map((name) => `"${name}"?: String`).join(', ')} },
  useCount: Long,
  matches: Set<String>,
};
${agentActions
  .map(
    (action) =>
      `action "${action}" appliesTo { principal: [${principalTypeNames.join(', ')}], resource: [${resourceTypesOf(action).join(', ')}], context: Context };`,
  )
  .join('\n')}
`;
}

/** That part of the schema, as JSON, which the type checker needs for these environments. */
export function schemaFor(
  whole: SchemaJson<string>,
  environments: Environments,
): SchemaJson<string> {
  const all = whole[''] as NamespaceDefinition<string>;
  const context = all.commonTypes?.Context as unknown as {
    attributes: Record<string, unknown> & { time: { attributes: Record<string, unknown> } };
  };
  const { now, zone, ...local } = context.attributes.time.attributes;
  const clock: Record<string, unknown> = {};
  for (const name of environments.zones) clock[name] = { type: 'Record', attributes: local };
  const actions: Record<string, unknown> = {};
  for (const action of environments.declared) actions[action] = {};
  for (const action of environments.actions) {
    const { appliesTo } = all.actions[action] as { appliesTo: object };
    actions[action] = { appliesTo: { ...appliesTo, principalTypes: environments.principals } };
  }
  return {
    '': {
      entityTypes: all.entityTypes,
      commonTypes: {
        Context: {
          ...context,
          attributes: { ...context.attributes, clock: { type: 'Record', attributes: clock } },
        },
      },
      actions,
    } as unknown as NamespaceDefinition<string>,
  };
}

/**
 * The fewest environments that show all there is to see of a policy. Actions that are done to the same
 * kinds of thing are alike to the type checker, and so are all types of principal: of those that the
 * conditions do not tell apart, one stands for all.
 */
export function environmentsOf(policy: {
  /** Of the scope; undefined: all. */
  actions: readonly string[] | undefined;
  /** That conditions name. */
  namedActions: ReadonlySet<string>;
  namedPrincipals: ReadonlySet<string>;
  zones: ReadonlySet<string>;
}): Environments {
  const { namedActions, namedPrincipals } = policy;
  const possible = agentActions.filter((action) => policy.actions?.includes(action) ?? true);
  return {
    declared: agentActions.filter(
      (action) => policy.actions?.includes(action) || namedActions.has(action),
    ),
    actions: oneOfEach(possible, namedActions, (action) => resourceTypesOf(action).join()),
    principals: oneOfEach(principalTypeNames, namedPrincipals, () => ''),
    zones: [...policy.zones].filter(isTimeZone).sort(),
  };
}

/** Those that are named, and of the others one for each way they differ in. */
function oneOfEach<T extends string>(
  all: readonly T[],
  named: ReadonlySet<string>,
  way: (name: T) => string,
): T[] {
  const seen = new Set<string>();
  return all.filter((name) => {
    if (named.has(name)) return true;
    const kind = way(name);
    if (seen.has(kind)) return false;
    seen.add(kind);
    return true;
  });
}

/** Paths of text that patterns and documents may name, and what Cedar calls them. */
export const namedPaths = {
  'principal.name': 'String',
  'resource.name': 'String',
  'resource.tags': 'Set',
  'namespace.name': 'String',
  'namespace.tags': 'Set',
  'namespace.owner': 'String?',
  'vault.name': 'String',
  'vault.tags': 'Set',
  'context.networks': 'Set',
  'authentication.method': 'String',
  'authentication.ageSeconds': 'Long',
  'tls.used': 'Bool',
  'tls.version': 'String?',
  'tls.clientCertificate': 'Bool',
  useCount: 'Long',
} as const;
export type NamedPath = keyof typeof namedPaths;

export const weekdays = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;
