/** Who asks for something: made by the authentication alone, first argument of whatever acts. */
import type { AgentAction } from '@keystead/contracts/agent-api/actions';

export type IdentityKind = 'api_key' | 'jwt' | 'certificate' | 'system';

export interface CallerIdentity {
  kind: IdentityKind;
  /** Stable and unique within the kind, e.g. `key_…`, `issuer|subject`, a certificate's subject. */
  id: string;
  /** For people; never a credential. */
  name: string;
  /** Names of roles. */
  roles: readonly string[];
  /** Name patterns that narrow the roles; without them the roles hold everywhere. */
  namespaces?: readonly string[];
}

export interface Caller {
  identity: CallerIdentity;
  requestId: string;
  /** Where the request came from; empty for the agent's own work. */
  address: string;
  authenticatedAtMs: number;
  tls: boolean;
  /** Lower-case names; only those that policies may read. */
  headers: Readonly<Record<string, string>>;
  /**
   * In a list of which the caller may see a part: whether this one belongs to it. Undefined: all do.
   * Set by the door, for operations that say that they narrow.
   */
  sees?: Sees;
  /** Whether the caller sees every secret of a namespace. Undefined: of each. Set together with `sees`. */
  seesAllOf?: Sees;
}

/** @throws ServiceError `unavailable` where what a policy has to know cannot be had */
export type Sees = (resource: ListedResource) => boolean | Promise<boolean>;

/** What policies let a caller see. */
export interface Lens {
  sees: Sees;
  /** Then what is counted in the namespace tells of nothing that is hidden. */
  seesAllOf: Sees;
}

/** What an action is about. A list or a creation names what is above it. */
export interface ResourceReference {
  namespace?: string;
  secret?: string;
  /** Another kind of thing, e.g. `backup:bkp_…`, `token`, `api-key:key_…`. */
  other?: string;
}

/** One thing of a list, with what the list has read of it already. */
export interface ListedResource extends ResourceReference {
  /** Of the secret, or of the namespace where there is none. Called only where a policy reads it. */
  facts?: () => ListedFacts;
}

export interface ListedFacts {
  tags: readonly string[];
  owner?: string;
  metadata?: Readonly<Record<string, string>>;
  useCount?: number;
}

/** What the door said. */
export interface Decision {
  action: AgentAction;
  resource: ResourceReference;
  /** Roles or policies that decided, for the audit. */
  decidedBy: readonly string[];
  /** What a policy asks for besides. */
  obligations: readonly Obligation[];
  /** What explains it, for the audit. */
  context?: Readonly<Record<string, string | number | boolean>>;
}

/** What is to be done with an answer that a policy permits, e.g. `mask` with its parameters. */
export interface Obligation {
  kind: string;
  parameters: Readonly<Record<string, string | number | boolean>>;
}

/** The agent's own duties act under a name of their own, and are audited as everybody. */
export function systemCaller(duty: string, requestId: string, nowMs: number): Caller {
  return {
    identity: { kind: 'system', id: duty, name: duty, roles: ['system'] },
    requestId,
    address: '',
    authenticatedAtMs: nowMs,
    tls: false,
    headers: {},
  };
}
