/**
 * What roles permit. Everything is denied but what a permission names: an action, a namespace, a secret.
 * What concerns more than one of a kind, like a list of all namespaces, needs the pattern `*` there.
 */
import type { Permission } from '@keystead/contracts/agent-api/access';
import { type AgentAction, agentActions } from '@keystead/contracts/agent-api/actions';
import type { ResourceReference } from './caller.ts';
import { anyNameMatcher, type NameMatcher } from './name-pattern.ts';

export interface NamedRole {
  name: string;
  description: string;
  permissions: readonly Permission[];
}

const everywhere = { namespaces: ['*'], secrets: ['*'] };
const role = (name: string, description: string, actions: string[]): NamedRole => ({
  name,
  description,
  permissions: [{ actions, ...everywhere }],
});

const looking = ['namespace.read', 'namespace.list', 'secret.read', 'secret.list'];
/** What tokens there are; a value takes its password as well. */
const lookingAtTokens = ['token.read', 'record.read', 'record.list'];

/** Who needs less makes a role of their own. */
export const builtInRoles: readonly NamedRole[] = [
  role('admin', 'Everything', ['*']),
  role('operator', 'Runs the vault: namespaces, rotation, rekeys, backup, keys; reads no value', [
    ...looking,
    ...lookingAtTokens,
    'token.rekey',
    'namespace.create',
    'namespace.update',
    'namespace.delete',
    'namespace.statistics',
    'secret.list-versions',
    'secret.rotate',
    'rotation.*',
    'backup.*',
    'key.*',
    'audit.read',
    'audit.verify',
    'policy.read',
    'configuration.*',
    'health.read',
  ]),
  role('writer', 'Reads and writes secrets and tokens; deletes nothing for good', [
    ...looking,
    ...lookingAtTokens,
    'token.create',
    'token.read-value',
    'token.update',
    'record.create',
    'record.update',
    'secret.read-value',
    'secret.list-versions',
    'secret.create',
    'secret.update',
    'secret.delete',
    'secret.undelete',
    'secret.rollback',
    'secret.rotate',
    'rotation.read',
  ]),
  role('reader', 'Reads secrets, tokens and their values', [
    ...looking,
    ...lookingAtTokens,
    'token.read-value',
    'secret.read-value',
    'secret.list-versions',
  ]),
  role('auditor', 'Sees who did what and who may; reads no value', [
    ...looking,
    'namespace.statistics',
    'secret.list-versions',
    'audit.*',
    'access.read',
    'rotation.read',
    'backup.read',
    'backup.verify',
    'key.read',
    'policy.read',
    'approval.read',
    'configuration.read',
    'health.read',
  ]),
  role('rotator', 'Rotates secrets and says how', [...looking, 'secret.rotate', 'rotation.*']),
  role('backup', 'Makes and checks backups', [
    'namespace.list',
    'namespace.read',
    'backup.create',
    'backup.read',
    'backup.verify',
    'backup.drill',
  ]),
];

/** The agent's own duties; no key can have it. */
const systemRole = role('system', 'The agent itself', ['*']);
const builtIn = new Map([...builtInRoles, systemRole].map((each) => [each.name, each]));

export function builtInRole(name: string): NamedRole | undefined {
  return builtIn.get(name);
}

/** Anybody who is known may ask who they are. */
const ownActions: ReadonlySet<AgentAction> = new Set<AgentAction>(['caller.read']);

interface Grant {
  role: string;
  actions: ReadonlySet<AgentAction>;
  everyNamespace: boolean;
  namespaces: NameMatcher;
  everySecret: boolean;
  secrets: NameMatcher;
}

/** What several roles together permit, made ready to be asked often. */
export class Permissions {
  readonly #byAction = new Map<AgentAction, Grant[]>();
  /** Narrows everything to these namespaces; undefined narrows nothing. */
  readonly #within: NameMatcher | undefined;
  /** Whether everything is permitted, so that whoever has it may give anything away. */
  readonly isEverything: boolean;

  constructor(roles: readonly NamedRole[], namespaces: readonly string[] = ['*']) {
    this.#within = namespaces.includes('*') ? undefined : anyNameMatcher(namespaces);
    for (const { name, permissions } of roles) {
      for (const permission of permissions) {
        const grant: Grant = {
          role: name,
          actions: new Set(agentActions.filter((action) => includes(permission.actions, action))),
          everyNamespace: permission.namespaces.includes('*'),
          namespaces: anyNameMatcher(permission.namespaces),
          everySecret: permission.secrets.includes('*'),
          secrets: anyNameMatcher(permission.secrets),
        };
        for (const action of grant.actions) {
          const grants = this.#byAction.get(action);
          if (grants) grants.push(grant);
          else this.#byAction.set(action, [grant]);
        }
      }
    }
    this.isEverything =
      this.#within === undefined &&
      roles.some(({ permissions }) =>
        permissions.some(
          ({ actions, namespaces: of, secrets }) =>
            actions.includes('*') && of.includes('*') && secrets.includes('*'),
        ),
      );
  }

  /** The role that permits it, or undefined. */
  permits(action: AgentAction, resource: ResourceReference): string | undefined {
    const grants = this.#byAction.get(action);
    if (grants === undefined) return ownActions.has(action) ? 'everybody' : undefined;
    const { namespace, secret } = resource;
    if (this.#within !== undefined && (namespace === undefined || !this.#within(namespace))) {
      return undefined;
    }
    for (const grant of grants) {
      if (namespace === undefined ? !grant.everyNamespace : !grant.namespaces(namespace)) continue;
      if (secret === undefined ? !grant.everySecret : !grant.secrets(secret)) continue;
      return grant.role;
    }
    return undefined;
  }

  /** The role that permits it for some of what is below the resource, or undefined. */
  permitsSome(action: AgentAction, { namespace }: ResourceReference): string | undefined {
    const grants = this.#byAction.get(action) ?? [];
    if (namespace === undefined) return grants[0]?.role;
    if (this.#within !== undefined && !this.#within(namespace)) return undefined;
    return grants.find((grant) => grant.namespaces(namespace))?.role;
  }
}

function includes(patterns: readonly string[], action: AgentAction): boolean {
  return patterns.some(
    (pattern) =>
      pattern === '*' ||
      pattern === action ||
      (pattern.endsWith('.*') && action.startsWith(pattern.slice(0, -1))),
  );
}
