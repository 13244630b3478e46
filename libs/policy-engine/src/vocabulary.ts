/**
 * What a policy may speak of: who asks, what is asked for, of what, and in which circumstances. One
 * table from which Cedar's schema is written. The actions are those of the agent's API.
 */
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

/**
 * Cedar's schema for policies that name these actions, principal types and time zones. Actions on
 * the same kinds of resource are alike to the type checker, and so are all types of principal; so one
 * stands for those that a policy does not name, and checking takes a tenth of the time.
 */
export function schemaText(needed?: {
  actions: ReadonlySet<string>;
  principals: ReadonlySet<string>;
  zones: ReadonlySet<string>;
}): string {
  const zonesNamed = [...(needed?.zones ?? [])].filter(isTimeZone).sort();
  const principals = needed
    ? standing(principalTypeNames, needed.principals, () => '')
    : principalTypeNames;
  const actions = needed
    ? standing(agentActions, needed.actions, (action) =>
        resourceTypesOf(action as AgentAction).join(),
      )
    : agentActions;
  return `
entity Role;
entity ${principals.join(', ')} in [Role] = { name: String } tags String;
entity Vault = { name: String, tags: Set<String>, vault: Vault } tags String;
entity Namespace in [Vault] = { name: String, tags: Set<String>, owner?: String, vault: Vault, namespace: Namespace } tags String;
entity Secret in [Namespace] = { name: String, tags: Set<String>, vault: Vault, namespace: Namespace } tags String;
type Context = {
  time: { now: datetime, zone: String, year: Long, month: Long, day: Long, weekday: Long, minuteOfDay: Long },
  clock: { ${zonesNamed.map((zone) => `"${zone}": ${localTime}`).join(', ')} },
  address?: ipaddr,
  networks: Set<String>,
  authentication: { method: String, ageSeconds: Long },
  tls: { used: Bool, version?: String, clientCertificate: Bool },
  headers: { ${readableHeaders.map((name) => `"${name}"?: String`).join(', ')} },
  useCount: Long,
  matches: Set<String>,
};
${actions
  .map(
    (action) =>
      `action "${action}" appliesTo { principal: [${principals.join(', ')}], resource: [${resourceTypesOf(action as AgentAction).join(', ')}], context: Context };`,
  )
  .join('\n')}
`;
}

/** Those that are named, and of the others one for each way they differ in. */
function standing(
  all: readonly string[],
  named: ReadonlySet<string>,
  way: (name: string) => string,
): string[] {
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
