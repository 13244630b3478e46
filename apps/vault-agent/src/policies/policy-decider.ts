/**
 * The second opinion at the door. Roles have permitted already; the policy set that is held may only
 * narrow that. In this order: an override of the owner's lets policies be; a set that is stale by its
 * own contract restricts or denies; the set decides; what it asks for besides is carried out.
 *
 * Fails closed: whatever goes wrong in here is a denial.
 *
 * The agent's own duties come over no network and have no hours. A policy stops them only where it names
 * them: where it forbids, and speaks of `System`.
 */
import type { AgentAction } from '@keystead/contracts/agent-api/actions';
import { ServiceError } from '@keystead/contracts/errors';
import type { CompiledSet } from '@keystead/policy-engine/compile';
import { type Decision, decide, decidesAlike } from '@keystead/policy-engine/decide';
import type { AccessRequest } from '@keystead/policy-engine/facts';
import type { Obligation } from '@keystead/policy-engine/obligations';
import type { TrustedClock } from '@keystead/policy-engine/trusted-clock';
import { resourceTypesOf } from '@keystead/policy-engine/vocabulary';
import type { Logger } from 'pino';
import type { Caller, Lens, ListedResource, ResourceReference } from '../access/caller.ts';
import type { PolicyDecider as Decider, PolicyVerdict } from '../access/door.ts';
import { identityText } from '../namespaces/namespace-change.ts';
import type { Approvals } from './approvals.ts';
import { namesDuties, policiesAgainstDuty } from './duties.ts';
import type { HeldPolicies } from './held-policies.ts';
import type { Overrides } from './overrides.ts';
import { policyLimits } from './policy-limits.ts';
import type { DecisionJournal } from './replays/decision-journal.ts';
import {
  aroundOf,
  listedFacts,
  namesOnly,
  needsFacts,
  type ResourceFacts,
  type ResourceFactsReader,
} from './resource-facts.ts';
import { type Demand, Throttles } from './throttles.ts';

export interface PolicyDeciderOptions {
  held: Pick<HeldPolicies, 'active' | 'previous' | 'staleness'>;
  facts: Pick<ResourceFactsReader, 'read'>;
  approvals: Pick<Approvals, 'require' | 'giveBack'>;
  overrides: Pick<Overrides, 'active'>;
  clock: Pick<TrustedClock, 'read'>;
  vault: { id: string; name: string; tags?: readonly string[] };
  /** The agent's own time zone, for policies that name none. */
  zone: string;
  /** People are to be told: the control plane, by a keyed hash of the identity. */
  alert: (identity: { kind: string; id: string }) => void;
  log: Pick<Logger, 'info' | 'warn'>;
  /** Where what was decided is kept for replays; undefined where nobody can ask for one. */
  journal?: () => Pick<DecisionJournal, 'note'> | undefined;
  monotonicMs?: () => number;
}

/** Decisions under one set, and what the set before it would have said. */
export interface DecisionCounts {
  number: number;
  digest: string;
  allowed: number;
  denied: number;
  newlyAllowed: number;
  newlyDenied: number;
  errors: number;
}

/** What may always be asked, also under a set that denies everything while it is stale. */
const neverStale: ReadonlySet<AgentAction> = new Set<AgentAction>([
  'health.read',
  'caller.read',
  'policy.read',
  'override.activate',
]);
const reading = /\.(?:read|read-value|list|list-versions|statistics|verify)$/;

export class PolicyDecider implements Decider {
  readonly #options: PolicyDeciderOptions;
  readonly #throttles: Throttles;
  readonly #monotonicMs: () => number;
  /** Since when the set that decides is known here. */
  #since = { digest: '', ms: Number.NEGATIVE_INFINITY };
  #counts: DecisionCounts | undefined;
  readonly totals = { allowed: 0, denied: 0, errors: 0 };

  constructor(options: PolicyDeciderOptions) {
    this.#options = options;
    this.#monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.#throttles = new Throttles(policyLimits.throttlesKept, this.#monotonicMs);
  }

  /** What was counted since it was last taken. */
  takeCounts(): DecisionCounts | undefined {
    const counts = this.#counts;
    this.#counts = undefined;
    return counts;
  }

  decide(
    caller: Caller,
    action: AgentAction,
    resource: ResourceReference,
    isRepeated = false,
  ): PolicyVerdict | Promise<PolicyVerdict> {
    try {
      const verdict = this.#decide(caller, action, resource, isRepeated);
      return verdict instanceof Promise ? verdict.catch((error) => this.#fail(error)) : verdict;
    } catch (error) {
      return this.#fail(error);
    }
  }

  /**
   * What a list may show. What needs an approval is shown: policies permit it, and who would ask for the
   * approval has to know its name.
   */
  lens(caller: Caller, action: AgentAction): Lens | undefined {
    const { held, overrides, facts } = this.#options;
    const set = held.active?.compiled;
    if (set === undefined || overrides.active !== undefined || caller.identity.kind === 'system') {
      return undefined;
    }
    const isOfSecrets = resourceTypesOf(action).includes('Secret');
    const known: Known = needsFacts(set)
      ? (resource) => listedFacts(isOfSecrets ? resource : aroundOf(resource), facts)
      : (resource) => namesOnly(resource);
    const allows = (request: AccessRequest) =>
      decide(set, request, set.listMemory).decision === 'allow';
    return {
      sees: (resource) =>
        after(known(resource), (given) => allows(this.#requestOf(caller, action, given))),
      seesAllOf: (namespace) =>
        after(known(namespace), (given) => {
          const anySecret = { ...given, secret: { name: 'any' } };
          const request = this.#requestOf(caller, 'secret.read', anySecret);
          return decidesAlike(set, request) && allows(request);
        }),
    };
  }

  /** Who cannot decide denies; the audit and the caller hear why. */
  #fail(error: unknown): PolicyVerdict {
    const refusal =
      error instanceof ServiceError
        ? error
        : new ServiceError('unavailable', {
            detail: 'The policies could not be asked',
            internal: String(error),
            cause: error,
          });
    this.totals.errors += 1;
    this.#options.log.warn({ err: error }, 'the policies could not be asked');
    return { ...deny([], { reason: 'not_decided', code: refusal.code }), refusal };
  }

  #decide(
    caller: Caller,
    action: AgentAction,
    resource: ResourceReference,
    isRepeated: boolean,
  ): PolicyVerdict | Promise<PolicyVerdict> {
    const { held, overrides, facts } = this.#options;
    const override = overrides.active;
    if (override !== undefined) {
      return permit(['emergency-override'], { override: override.id });
    }
    const set = held.active;
    const isDuty = caller.identity.kind === 'system';
    if (set === undefined || (isDuty && !namesDuties(set.compiled))) {
      this.#noteUndecided(caller, action, resource);
      return permit([]);
    }
    if (isDuty) return this.#decideDuty(caller, action, resource);
    const stale = held.staleness;
    if (
      (stale === 'deny' && !neverStale.has(action)) ||
      (stale === 'restrict' && !neverStale.has(action) && !reading.test(action))
    ) {
      this.#count(set, false, false, undefined);
      return deny([], { reason: 'stale', contract: stale, policySet: set.number });
    }
    const isKnown = !needsFacts(set.compiled);
    const known = isKnown ? namesOnly(resource) : facts.read(resource);
    return known instanceof Promise
      ? known.then((given) => this.#weigh(caller, action, resource, given, isRepeated))
      : this.#weigh(caller, action, resource, known, isRepeated);
  }

  async #decideDuty(
    caller: Caller,
    action: AgentAction,
    resource: ResourceReference,
  ): Promise<PolicyVerdict> {
    const facts = await this.#options.facts.read(resource);
    const set = this.#options.held.active;
    if (set === undefined) return permit([]);
    const request = this.#requestOf(caller, action, facts);
    const decision = decide(set.compiled, request);
    const naming = policiesAgainstDuty(set.compiled, decision);
    this.#note(request, naming.length === 0, false, true);
    if (naming.length === 0) return permit([]);
    const told = this.#tell(caller, action, resource, decision.obligations);
    return deny(naming, { ...contextOf(decision, request, set.number), ...told });
  }

  #weigh(
    caller: Caller,
    action: AgentAction,
    resource: ResourceReference,
    facts: ResourceFacts,
    isRepeated: boolean,
  ): PolicyVerdict | Promise<PolicyVerdict> {
    const { held, log } = this.#options;
    // Read again: the set may have changed while the facts were read.
    const set = held.active;
    if (set === undefined) return permit([]);
    const request = this.#requestOf(caller, action, facts);
    const decision = decide(set.compiled, request);
    const isAllowed = decision.decision === 'allow';
    this.#count(set, isAllowed, decision.errors.length > 0, request);
    if (decision.errors.length > 0) {
      log.warn({ action, errors: decision.errors.slice(0, 5) }, 'a policy could not be evaluated');
    }
    const told = this.#tell(caller, action, resource, decision.obligations);
    const requirements = decision.obligations.filter((each) => each.kind === 'require_approval');
    this.#note(request, isAllowed, requirements.length > 0, needsFacts(set.compiled));
    if (!isAllowed) {
      return deny(decision.policyIds, { ...contextOf(decision, request, set.number), ...told });
    }
    // Done before: it is counted, and those who agreed have agreed to it once, and it is not done again.
    if (isRepeated) return permit(decision.policyIds, told);
    const demands = demandsOf(caller, resource, decision.obligations);
    const throttled = this.#throttled(demands, set.number, told);
    // Nobody is asked to agree to what would be refused all the same.
    if (throttled !== undefined) return throttled;
    if (requirements.length === 0) return this.#letThrough(decision.policyIds, told, demands);
    return this.#approve(
      caller,
      action,
      resource,
      decision,
      requirements,
      told,
      (context, giveBack) =>
        // Others may have been let through while the store was asked.
        this.#throttled(demands, set.number, context) ??
        this.#letThrough(decision.policyIds, context, demands, giveBack),
    );
  }

  #throttled(
    demands: readonly Counted[],
    setNumber: number,
    told: Context,
  ): PolicyVerdict | undefined {
    const late = this.#throttles.late(demands);
    if (late.length === 0) return undefined;
    const retryAfterSeconds = Math.max(...late.map((each) => each.retryAfterSeconds));
    return {
      ...deny(
        late.map(({ policyId }) => policyId),
        { reason: 'throttled', policySet: setNumber, ...told },
      ),
      refusal: new ServiceError('rate_limited', {
        detail: `A policy allows this less often: again in ${retryAfterSeconds} s`,
        retryAfterSeconds,
      }),
    };
  }

  /** Counts what is let through, however it ends then; what does not begin is not counted. */
  #letThrough(
    policyIds: readonly string[],
    context: Context,
    demands: readonly Counted[],
    giveBack?: () => Promise<void>,
  ): PolicyVerdict {
    const permitted = permit(policyIds, context);
    if (demands.length === 0)
      return giveBack === undefined ? permitted : { ...permitted, giveBack };
    const places = this.#throttles.take(demands);
    return {
      ...permitted,
      giveBack: async (begun) => {
        if (begun === 'not_begun') places.giveBack();
        await giveBack?.();
      },
    };
  }

  /** Roles decided alone: what a policy would have read is noted as far as it costs nothing. */
  #noteUndecided(caller: Caller, action: AgentAction, resource: ResourceReference): void {
    if (this.#options.journal?.() === undefined) return;
    this.#note(this.#requestOf(caller, action, namesOnly(resource)), true, false, false);
  }

  #note(request: AccessRequest, allowed: boolean, needsApproval: boolean, isKnown: boolean): void {
    this.#options.journal?.()?.note(request, { allowed, needsApproval, isKnown });
  }

  async #approve(
    caller: Caller,
    action: AgentAction,
    resource: ResourceReference,
    decision: Decision,
    requirements: Extract<Obligation, { kind: 'require_approval' }>[],
    told: Context,
    granted: (context: Context, giveBack: () => Promise<void>) => PolicyVerdict,
  ): Promise<PolicyVerdict> {
    const { approvals, log } = this.#options;
    const permission = await approvals.require(
      caller,
      action,
      resource,
      requirements.map(({ policyId, approvers, count, expiresAfterSeconds }) => ({
        policyId,
        approvers,
        count,
        expiresAfterSeconds,
      })),
    );
    const { id, outcome } = permission;
    if (outcome === 'granted') {
      const giveBack = () => approvals.giveBack(id);
      const verdict = granted({ ...told, approval: id }, giveBack);
      if (verdict.effect === 'permit') return verdict;
      await giveBack().catch((error: unknown) =>
        log.warn({ err: error, approval: id }, 'an approval could not be given back'),
      );
      return verdict;
    }
    const until = new Date(permission.expiresAtMs).toISOString();
    const wanted = requirements
      .map(({ approvers, count }) => `${count} of ${approvers.join(', ')}`)
      .join(' and ');
    return {
      ...deny(decision.policyIds, { reason: `approval_${outcome}`, approval: id, ...told }),
      refusal: new ServiceError('permission_denied', {
        detail:
          outcome === 'denied'
            ? `The approval ${id} was denied; it can be asked for again after ${until}`
            : `This needs the approval of ${wanted}: ${id} waits until ${until}. Repeat the request when it is approved`,
      }),
    };
  }

  #requestOf(caller: Caller, action: AgentAction, facts: ResourceFacts): AccessRequest {
    const { vault, zone, clock } = this.#options;
    const { atMs, trusted } = clock.read();
    const { identity } = caller;
    return {
      principal: {
        kind: identity.kind,
        id: identity.id,
        name: identity.name,
        roles: identity.roles,
      },
      action,
      resource: {
        vault,
        ...(facts.namespace === undefined ? {} : { namespace: facts.namespace }),
        ...(facts.secret === undefined ? {} : { secret: facts.secret }),
      },
      context: {
        atMs: Math.round(atMs),
        zone,
        clockTrusted: trusted,
        address: caller.address,
        authentication: {
          method: identity.kind,
          ageSeconds: Math.max(0, Math.floor((atMs - caller.authenticatedAtMs) / 1_000)),
        },
        tls: { used: caller.tls, clientCertificate: identity.kind === 'certificate' },
        headers: caller.headers,
        useCount: facts.useCount,
      },
    };
  }

  /** What tells somebody, for a denial too. The audit's entry says that it was done. */
  #tell(
    caller: Caller,
    action: AgentAction,
    { namespace, secret }: ResourceReference,
    obligations: readonly Obligation[],
  ): Context {
    const { alert, log } = this.#options;
    const context: Context = {};
    for (const obligation of obligations) {
      const { kind, policyId } = obligation;
      if (kind === 'throttle' || kind === 'require_approval') continue;
      const facts = {
        policy: policyId,
        identity: identityText(caller.identity),
        action,
        namespace,
        secret,
      };
      const text = obligation.message === '' ? 'a policy asks to note this' : obligation.message;
      if (kind === 'log') {
        log.info(facts, text);
        context.log = context.log === undefined ? text : `${context.log}; ${text}`;
        continue;
      }
      const about = kind === 'alert' ? obligation.severity : obligation.targets.join(', ');
      log.warn({ ...facts, [kind]: about }, text);
      context[kind] = about;
      alert(caller.identity);
    }
    return context;
  }

  #count(
    set: { number: number; digest: string },
    isAllowed: boolean,
    hasFailed: boolean,
    request: AccessRequest | undefined,
  ): void {
    this.totals[isAllowed ? 'allowed' : 'denied'] += 1;
    if (hasFailed) this.totals.errors += 1;
    if (this.#counts?.number !== set.number || this.#counts.digest !== set.digest) {
      this.#counts = {
        number: set.number,
        digest: set.digest,
        allowed: 0,
        denied: 0,
        newlyAllowed: 0,
        newlyDenied: 0,
        errors: 0,
      };
    }
    const counts = this.#counts;
    counts[isAllowed ? 'allowed' : 'denied'] += 1;
    if (hasFailed) counts.errors += 1;
    const nowMs = this.#monotonicMs();
    if (this.#since.digest !== set.digest) this.#since = { digest: set.digest, ms: nowMs };
    const before: CompiledSet | undefined = this.#options.held.previous?.compiled;
    if (before === undefined || request === undefined) return;
    // What a rollout changes shows soon; afterwards everything would be decided twice.
    if (nowMs - this.#since.ms > policyLimits.compareForMs) return;
    const wasAllowed = decide(before, request).decision === 'allow';
    if (wasAllowed === isAllowed) return;
    counts[isAllowed ? 'newlyAllowed' : 'newlyDenied'] += 1;
  }
}

type Context = Record<string, string | number | boolean>;
type Counted = Demand & { policyId: string };
type Known = (resource: ListedResource) => ResourceFacts | Promise<ResourceFacts>;

/** Without waiting where there is nothing to wait for. */
function after<A, B>(given: A | Promise<A>, then: (given: A) => B): B | Promise<B> {
  return given instanceof Promise ? given.then(then) : then(given);
}

/** What is to be counted, by whom each policy says. Another window is counted for itself. */
function demandsOf(
  caller: Caller,
  { namespace = '', secret = '' }: ResourceReference,
  obligations: readonly Obligation[],
): Counted[] {
  return obligations.flatMap((each) => {
    if (each.kind !== 'throttle') return [];
    const { by, limit, policyId, windowSeconds } = each;
    const counted = {
      identity: identityText(caller.identity),
      address: caller.address,
      secret: `${namespace}/${secret}`,
    }[by];
    const key = JSON.stringify([policyId, by, windowSeconds, counted]);
    return [{ key, limit, windowSeconds, policyId }];
  });
}

function permit(decidedBy: readonly string[], context?: Context): PolicyVerdict {
  return {
    effect: 'permit',
    decidedBy,
    obligations: [],
    ...(context === undefined || Object.keys(context).length === 0 ? {} : { context }),
  };
}

function deny(decidedBy: readonly string[], context: Context): PolicyVerdict {
  return { effect: 'deny', decidedBy, obligations: [], context };
}

/** What explains a denial in the audit (R8.4). */
function contextOf(decision: Decision, request: AccessRequest, policySet: number): Context {
  const { context } = request;
  return {
    reason: decision.reason,
    policySet,
    ...(decision.level === undefined ? {} : { level: decision.level }),
    method: context.authentication.method,
    authenticationAgeSeconds: context.authentication.ageSeconds,
    zone: context.zone ?? 'UTC',
    clockTrusted: context.clockTrusted !== false,
    tls: context.tls?.used === true,
  };
}
