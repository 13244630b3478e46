/** Policies in one vault put together: the decider at the door, approvals, overrides, and what is shown. */
import { TrustedClock } from '@keystead/policy-engine/trusted-clock';
import type { Logger } from 'pino';
import { systemCaller } from '../access/caller.ts';
import type { Door, Trail } from '../access/door.ts';
import type { AgentHandler } from '../http/handler.ts';
import type { Vault } from '../store/vault.ts';
import { Approvals } from './approvals.ts';
import { isEmpty } from './empty-set.ts';
import type { HeldPolicies } from './held-policies.ts';
import { type Override, Overrides } from './overrides.ts';
import { policyHandlers } from './policies.http.ts';
import { PolicyAnchor } from './policy-anchor.ts';
import { PolicyDecider } from './policy-decider.ts';
import type { PolicyTables } from './policy-tables.ts';
import { PolicyView } from './policy-view.ts';
import type { DecisionJournal } from './replays/decision-journal.ts';
import { ResourceFactsReader } from './resource-facts.ts';
import type { EffectiveConfiguration } from './rolled-out-configuration.ts';

export interface VaultPoliciesOptions {
  vault: Vault;
  door: Door;
  trail: Trail;
  log: Logger;
}

export type PolicyNotice =
  | { kind: 'alert'; identity: { kind: string; id: string } }
  | { kind: 'override'; override: Override; isActive: boolean };

type Identity = { kind: string; id: string };

export class VaultPolicies {
  readonly approvals: Approvals;
  readonly overrides: Overrides;
  readonly decider: PolicyDecider;
  readonly clock = new TrustedClock(Date.now, () => performance.now());
  #held: HeldPolicies | undefined;
  /** What was decided, for replays; undefined where nobody can ask for one. */
  journal: DecisionJournal | undefined;
  readonly facts: ResourceFactsReader;
  readonly subject: { id: string; name: string };
  /** What holds of the configuration that sets may say. */
  configuration: EffectiveConfiguration | undefined;
  /** What people are to be told. */
  onNotice: (notice: PolicyNotice) => void = () => undefined;
  readonly #options: VaultPoliciesOptions;
  readonly #view: PolicyView;

  constructor(options: VaultPoliciesOptions) {
    this.#options = options;
    const { vault, door, log } = options;
    const store = vault.store.as<PolicyTables>();
    this.approvals = new Approvals({ store });
    this.overrides = new Overrides({
      store,
      key: vault.keys.derive('policy-override').bytes,
      onError: (error) => log.warn({ err: error }, 'overrides could not be looked for'),
    });
    this.overrides.onChange((override, isActive) => this.#overridden(override, isActive));
    const parts = this;
    const held = {
      get active() {
        return parts.held?.active;
      },
      get previous() {
        return parts.held?.previous;
      },
      get staleness() {
        return parts.held?.staleness;
      },
    };
    // A set that is to have no policies decides nothing.
    const deciding = {
      get active() {
        const set = held.active;
        return set && isEmpty(set.compiled) ? undefined : set;
      },
      get previous() {
        const set = held.previous;
        return set && isEmpty(set.compiled) ? undefined : set;
      },
      get staleness() {
        return held.staleness;
      },
    };
    this.facts = new ResourceFactsReader(vault.store);
    this.subject = { id: vault.store.vaultId, name: 'vault' };
    this.decider = new PolicyDecider({
      held: deciding,
      facts: this.facts,
      approvals: this.approvals,
      overrides: this.overrides,
      clock: this.clock,
      vault: this.subject,
      journal: () => this.journal,
      zone: Intl.DateTimeFormat().resolvedOptions().timeZone,
      alert: (identity: Identity) => this.onNotice({ kind: 'alert', identity }),
      log,
    });
    this.#view = new PolicyView({
      held,
      overrides: this.overrides,
      decider: this.decider,
      clock: this.clock,
      configuration: () => this.configuration,
    });
    door.decider = this.decider;
  }

  /** What the store says of the sets of one agent of this vault. */
  anchorOf(agentId: string): PolicyAnchor {
    const { vault } = this.#options;
    return new PolicyAnchor({
      store: vault.store.as<PolicyTables>(),
      key: vault.keys.derive('policy-anchor').bytes,
      agentId,
      now: Date.now,
    });
  }

  /** The set that was received; undefined where this agent takes none: roles decide alone. */
  get held(): HeldPolicies | undefined {
    return this.#held;
  }

  set held(held: HeldPolicies | undefined) {
    this.#held = held;
    if (held === undefined) return;
    this.clock.notBefore(held.surelyPastMs);
    held.onTimeTold = (unixMs) => this.clock.agree(unixMs);
  }

  /** What is asked after roles have permitted. */
  get decides(): PolicyView['decides'] {
    return this.#view.decides;
  }

  handlers(): AgentHandler[] {
    return policyHandlers(this.approvals, this.#view);
  }

  start(): void {
    this.overrides.start();
  }

  async stop(): Promise<void> {
    await this.overrides.stop();
  }

  /** The owner's audit says what was asked about the decisions of this agent, and what was answered. */
  async auditReplay(id: string, facts: Record<string, number | string>): Promise<void> {
    const caller = systemCaller('replay', id, Date.now());
    await this.#options.trail.record({
      requestId: caller.requestId,
      identity: caller.identity,
      address: '',
      action: 'policy.read',
      operation: 'policy.replay',
      resource: { other: `policy-replay:${id}` },
      phase: 'outcome',
      result: 'done',
      context: facts,
    });
  }

  /** The owner's audit says which set decides from when on, which was not taken, and where it has the audit sent. */
  auditSet(number: number, isTaken: boolean, facts: Record<string, string>): void {
    const { trail, log } = this.#options;
    const caller = systemCaller('policy-set', `policy-set-${number}`, Date.now());
    const forwarding = Object.entries(this.configuration?.forwarding ?? {});
    const said = forwarding.filter(([, { source }]) => source === 'set').map(([name]) => name);
    trail
      .record({
        requestId: caller.requestId,
        identity: caller.identity,
        address: '',
        action: 'policy.read',
        operation: 'policy.set',
        resource: { other: `policy-set:${number}` },
        phase: 'outcome',
        result: isTaken ? 'done' : 'refused',
        context: {
          ...facts,
          configurationDigest: this.configuration?.digest ?? '',
          ...(said.length === 0 ? {} : { auditForwarding: said.join(' ') }),
        },
      })
      .catch((error: unknown) => log.error({ err: error }, 'a policy set could not be audited'));
  }

  /** Loud: in the log, in the audit of every agent that obeys it, and to whoever is told. */
  #overridden(override: Override, isActive: boolean): void {
    const { log, trail } = this.#options;
    const { id, reason, by, untilMs } = override;
    const until = new Date(untilMs).toISOString();
    log.error(
      { override: id, reason, by, until },
      isActive ? 'the owner overrides the policies' : 'the override of the policies ended',
    );
    this.onNotice({ kind: 'override', override, isActive });
    const caller = systemCaller('override', id, Date.now());
    trail
      .record({
        requestId: caller.requestId,
        identity: caller.identity,
        address: '',
        action: 'override.activate',
        operation: isActive ? 'override.begin' : 'override.end',
        resource: { other: `override:${id}` },
        phase: 'outcome',
        result: 'done',
        context: { reason, by, until },
      })
      .catch((error: unknown) => log.error({ err: error }, 'an override could not be audited'));
  }
}
