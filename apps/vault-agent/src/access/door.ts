/**
 * The one door: whatever is done in the vault, by a request or by a duty of the agent itself, is decided
 * here and written into the audit before it counts. Roles decide first, and what none of them permits is
 * denied; a policy may then narrow, never widen.
 */
import type { AgentAction } from '@keystead/contracts/agent-api/actions';
import { type ErrorCode, ServiceError } from '@keystead/contracts/errors';
import type { AuditFact, AuditResult } from '../audit/audit-entry.ts';
import type { AccessBook } from './access-book.ts';
import type {
  Caller,
  CallerIdentity,
  Decision,
  Lens,
  Obligation,
  ResourceReference,
} from './caller.ts';

export interface PolicyVerdict {
  effect: 'permit' | 'deny';
  /** Policies that decided, for the audit. */
  decidedBy: readonly string[];
  obligations: readonly Obligation[];
  /** What explains the verdict in the audit; never told to the caller. */
  context?: Readonly<Record<string, string | number | boolean>>;
  /** What the caller is told of a denial, where it is more than that. */
  refusal?: ServiceError;
  /** Undoes what the verdict has used up, where what it permits did not happen: not at all, or refused. */
  giveBack?: (begun: 'not_begun' | 'refused') => Promise<void>;
}

/** A second opinion, asked only about what roles permit. */
export interface PolicyDecider {
  decide(
    caller: Caller,
    action: AgentAction,
    resource: ResourceReference,
    /** It was done before and is only told once more: it uses nothing up. */
    isRepeated?: boolean,
  ): PolicyVerdict | Promise<PolicyVerdict>;
  /** Which things of a list the action is permitted for; undefined: for all. It uses nothing up. */
  lens?(caller: Caller, action: AgentAction): Lens | undefined;
}

/** What policies are asked about each thing that a list shows; else what was asked about the list. */
const actionOfEach: Partial<Record<AgentAction, AgentAction>> = {
  'namespace.list': 'namespace.read',
  'namespace.statistics': 'secret.read',
  'secret.list': 'secret.read',
};

/** Why an identity may do nothing at the moment; undefined where it may. */
export type Lockout = (identity: CallerIdentity) => { reason: string } | undefined;

export interface Trail {
  record(fact: AuditFact): Promise<void>;
}

/** What is asked of the door. */
export interface Errand {
  action: AgentAction;
  /** Of the API, or a duty's step, e.g. `rotation.promote`. */
  operation: string;
  resource: ResourceReference;
  /** `write`: the audit holds that it was begun before anything is done. */
  effect: 'read' | 'write';
  /** The work shows only what `caller.sees`. By policies alone: roles have to permit the whole. */
  narrows?: boolean | 'by_policies';
  /** Done before, under the same idempotency key: what it answered is told again. */
  isRepeated?: boolean;
  /** What the audit is told besides, whatever is decided. */
  context?: AuditFact['context'];
  /** What the work does besides, decided before it as well. */
  also?: readonly AlsoNeeded[] | undefined;
}

/** What an operation does besides its own action, e.g. a copy makes something at its target. */
export interface AlsoNeeded {
  action: AgentAction;
  resource: ResourceReference;
  /** A right that the operation's own action stands for with the others: these alone are asked. */
  by?: 'roles' | 'policies';
}

export type Settled = (errand: Errand, result: AuditResult, durationMs: number) => void;

type Permitted = Decision & Pick<PolicyVerdict, 'giveBack'>;

const noObligations: readonly Obligation[] = [];

export class Door {
  readonly #book: AccessBook;
  readonly #trail: Trail;
  readonly #monotonicMs: () => number;
  #decider: PolicyDecider | undefined;
  #lockout: Lockout | undefined;
  #settled: Settled[] = [];

  constructor(book: AccessBook, trail: Trail, monotonicMs: () => number = () => performance.now()) {
    this.#book = book;
    this.#trail = trail;
    this.#monotonicMs = monotonicMs;
  }

  set decider(decider: PolicyDecider | undefined) {
    this.#decider = decider;
  }

  /** Asked before everything else. */
  set lockout(lockout: Lockout | undefined) {
    this.#lockout = lockout;
  }

  /** Called for everything that came to an end at this door; must be quick. */
  onSettled(listener: Settled): void {
    this.#settled.push(listener);
  }

  /**
   * Whether the caller may, in the audit whatever the answer is.
   * @throws ServiceError `permission_denied`, `unavailable`
   */
  async authorize(
    caller: Caller,
    action: AgentAction,
    resource: ResourceReference,
  ): Promise<Decision> {
    const errand: Errand = { action, operation: action, resource, effect: 'read' };
    const decision = await this.#decide(caller, errand);
    await this.#recordDone(caller, errand, [decision]);
    return decision;
  }

  /**
   * Decides, audits, does the work, audits how it ended. The answer is the work's own; it is given
   * only after the audit holds it.
   * @throws ServiceError `permission_denied`, `unavailable` where the audit cannot be written, and what
   * the work throws
   */
  perform<T>(
    caller: Caller,
    errand: Errand,
    work: (decision: Decision) => Promise<T> | T,
  ): Promise<T> {
    const begunMs = this.#monotonicMs();
    const decided = this.#decide(caller, errand);
    if (decided instanceof Promise || errand.effect === 'write' || errand.also !== undefined) {
      return this.#performInSteps(caller, errand, decided, work, begunMs);
    }
    // Most readings wait for the audit alone.
    let answer: Promise<T> | T;
    try {
      answer = work(decided);
    } catch (error) {
      return this.#fail(caller, errand, [decided], error, begunMs);
    }
    if (answer instanceof Promise) return this.#await(caller, errand, [decided], answer, begunMs);
    return this.#recordDone(caller, errand, [decided]).then(() => {
      this.#settle(errand, 'done', begunMs);
      return answer;
    });
  }

  async #performInSteps<T>(
    caller: Caller,
    errand: Errand,
    decided: Permitted | Promise<Permitted>,
    work: (decision: Decision) => Promise<T> | T,
    begunMs: number,
  ): Promise<T> {
    const decision = await decided;
    const decisions: Permitted[] = [decision];
    try {
      for (const { action, resource, by } of errand.also ?? []) {
        const more = { ...errand, action, resource, narrows: false, also: undefined };
        decisions.push(await this.#decide(caller, more, by));
      }
      if (errand.effect === 'write') {
        await this.#record(caller, errand, 'started', 'started', decision);
      }
    } catch (error) {
      await giveBack(decisions, 'not_begun');
      throw error;
    }
    return this.#await(caller, errand, decisions, (async () => work(decision))(), begunMs);
  }

  async #await<T>(
    caller: Caller,
    errand: Errand,
    decisions: readonly Permitted[],
    work: Promise<T>,
    begunMs: number,
  ): Promise<T> {
    let answer: T;
    try {
      answer = await work;
    } catch (error) {
      return this.#fail(caller, errand, decisions, error, begunMs);
    }
    await this.#recordDone(caller, errand, decisions);
    this.#settle(errand, 'done', begunMs);
    return answer;
  }

  /** What was read and is not in the audit is told to nobody: it may be read again. */
  #recordDone(caller: Caller, errand: Errand, decisions: readonly Permitted[]): Promise<void> {
    const recorded = this.#record(caller, errand, 'outcome', 'done', decisions[0] as Permitted);
    if (errand.effect === 'write') return recorded;
    if (decisions.every((decision) => decision.giveBack === undefined)) return recorded;
    return recorded.catch(async (error: unknown) => {
      await giveBack(decisions, 'refused');
      throw error;
    });
  }

  async #fail(
    caller: Caller,
    errand: Errand,
    decisions: readonly Permitted[],
    error: unknown,
    begunMs: number,
  ): Promise<never> {
    // Of a failure nobody knows how far the work came.
    if (resultOf(error) !== 'failed') await giveBack(decisions, 'refused');
    const decision = decisions[0] as Permitted;
    await this.#record(caller, errand, 'outcome', resultOf(error), decision, error);
    this.#settle(errand, resultOf(error), begunMs);
    throw error;
  }

  /** What was refused before it was an errand: at most its action is known. */
  async recordRefusal(fact: AuditFact): Promise<void> {
    await this.#trail.record(fact);
  }

  #decide(caller: Caller, errand: Errand, by?: AlsoNeeded['by']): Permitted | Promise<Permitted> {
    const { action, resource } = errand;
    const locked = this.#lockout?.(caller.identity);
    if (locked !== undefined) {
      return this.#deny(caller, errand, ['lockout'], { lockedFor: locked.reason });
    }
    const permissions = this.#book.permissionsOf(caller.identity);
    let role = by === 'policies' ? by : permissions.permits(action, resource);
    if (errand.narrows) {
      const lens = this.#decider?.lens?.(caller, actionOfEach[action] ?? action);
      if (lens !== undefined) Object.assign(caller, lens);
      if (role === undefined && errand.narrows === true) {
        role = permissions.permitsSome(action, resource);
        caller.sees = (below) =>
          permissions.permits(action, below) !== undefined && (lens?.sees(below) ?? true);
      }
    }
    if (role === undefined) return this.#deny(caller, errand, [], undefined);
    if (this.#decider === undefined || by === 'roles') {
      return { action, resource, decidedBy: [role], obligations: noObligations };
    }
    const verdict = this.#decider.decide(caller, action, resource, errand.isRepeated);
    const weigh = (given: PolicyVerdict) =>
      given.effect === 'permit'
        ? {
            action,
            resource,
            decidedBy: [role, ...given.decidedBy],
            obligations: given.obligations,
            ...(given.context === undefined ? {} : { context: given.context }),
            ...(given.giveBack === undefined ? {} : { giveBack: given.giveBack }),
          }
        : this.#deny(caller, errand, given.decidedBy, given.context, given.refusal);
    return verdict instanceof Promise ? verdict.then(weigh) : weigh(verdict);
  }

  async #deny(
    caller: Caller,
    errand: Errand,
    decidedBy: readonly string[],
    context: AuditFact['context'],
    refusal?: ServiceError,
  ): Promise<never> {
    const denied =
      refusal ??
      new ServiceError('permission_denied', {
        detail: `this identity may not ${errand.action} here`,
      });
    await this.#trail.record({
      ...factOf(caller, errand),
      phase: 'outcome',
      result: resultOf(denied),
      code: denied.code,
      decidedBy,
      context: merged(context, errand.context),
    });
    this.#settle(errand, resultOf(denied), this.#monotonicMs());
    throw denied;
  }

  #record(
    caller: Caller,
    errand: Errand,
    phase: AuditFact['phase'],
    result: AuditResult,
    decision: Decision,
    error?: unknown,
  ): Promise<void> {
    const { identity, requestId, address } = caller;
    return this.#trail.record({
      requestId,
      identity,
      address,
      action: errand.action,
      operation: errand.operation,
      resource: errand.resource,
      phase,
      result,
      code: error === undefined ? undefined : codeOf(error),
      decidedBy: phase === 'started' || errand.effect === 'read' ? decision.decidedBy : undefined,
      context:
        phase === 'started' || errand.effect === 'read'
          ? merged(decision.context, errand.context)
          : undefined,
    });
  }

  #settle(errand: Errand, result: AuditResult, begunMs: number): void {
    const durationMs = this.#monotonicMs() - begunMs;
    for (const settled of this.#settled) settled(errand, result, durationMs);
  }
}

/** What cannot be given back stays used: the caller hears of what went wrong before. */
async function giveBack(
  decisions: readonly Permitted[],
  begun: 'not_begun' | 'refused',
): Promise<void> {
  for (const decision of decisions) await decision.giveBack?.(begun).catch(() => undefined);
}

/** What decided comes first: the audit cuts what is too much. */
function merged(one: AuditFact['context'], two: AuditFact['context']): AuditFact['context'] {
  return two === undefined ? one : { ...one, ...two };
}

function factOf(caller: Caller, errand: Errand) {
  return {
    requestId: caller.requestId,
    identity: caller.identity,
    address: caller.address,
    action: errand.action,
    operation: errand.operation,
    resource: errand.resource,
  };
}

/** What the caller is told is wrong with what was asked is a refusal; the rest is a failure. */
function resultOf(error: unknown): AuditResult {
  const code = codeOf(error);
  if (code === 'internal' || code === 'unavailable') return 'failed';
  if (code === 'permission_denied') return 'denied';
  return code === 'rate_limited' ? 'throttled' : 'refused';
}

function codeOf(error: unknown): ErrorCode {
  return error instanceof ServiceError ? error.code : 'internal';
}
