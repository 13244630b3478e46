/** What decides here, for people to see. */
import type { AgentInput, AgentOutput } from '@keystead/contracts/agent-api/operation';
import type { HeldPolicyFacts, listPolicies } from '@keystead/contracts/agent-api/policies';
import { ServiceError } from '@keystead/contracts/errors';
import type { TrustedClock } from '@keystead/policy-engine/trusted-clock';
import { isEmpty } from './empty-set.ts';
import type { HeldPolicies } from './held-policies.ts';
import type { Overrides } from './overrides.ts';
import type { PolicyDecider } from './policy-decider.ts';
import { type EffectiveConfiguration, settingsShown } from './rolled-out-configuration.ts';

export interface PolicyViewParts {
  /** Undefined where the agent has no part in policies. */
  held: Pick<HeldPolicies, 'active' | 'previous' | 'staleness'> | undefined;
  overrides: Pick<Overrides, 'active'>;
  decider: Pick<PolicyDecider, 'totals'>;
  clock: Pick<TrustedClock, 'read'>;
  configuration?: () => EffectiveConfiguration | undefined;
}

export class PolicyView {
  readonly #parts: PolicyViewParts;

  constructor(parts: PolicyViewParts) {
    this.#parts = parts;
  }

  /** What is asked after roles have permitted. */
  get decides(): HeldPolicyFacts['decides'] {
    const { held, overrides } = this.#parts;
    const compiled = held?.active?.compiled;
    if (overrides.active !== undefined) return 'override';
    if (compiled === undefined || isEmpty(compiled)) return 'roles';
    return compiled.refusal === undefined ? 'policies' : 'refused';
  }

  read(): HeldPolicyFacts {
    const { held, overrides, decider, clock } = this.#parts;
    const active = held?.active;
    const override = overrides.active;
    const configuration = this.#parts.configuration?.();
    const isRefusing = active?.compiled.refusal !== undefined;
    return {
      set:
        active === undefined || isRefusing
          ? null
          : {
              number: active.number,
              digest: active.digest,
              policies: active.compiled.policies.length,
              predecessor: held?.previous?.number ?? null,
              staleness: active.staleness && {
                ...active.staleness,
                isStale: held?.staleness !== undefined,
              },
            },
      decides: this.decides,
      override:
        override === undefined
          ? null
          : {
              id: override.id,
              reason: override.reason,
              by: override.by,
              from: new Date(override.fromMs).toISOString(),
              until: new Date(override.untilMs).toISOString(),
            },
      configuration:
        configuration === undefined
          ? null
          : {
              settings: settingsShown(configuration),
              unknownDestinations: [...configuration.unknownDestinations],
              digest: configuration.digest,
            },
      clockTrusted: clock.read().trusted,
      decisions: { ...decider.totals },
    };
  }

  /** In the order of the set. The cursor is the digest of the set and the place in it. */
  list(query: AgentInput<typeof listPolicies>['query']): AgentOutput<typeof listPolicies> {
    const active = this.#parts.held?.active;
    const policies = (active?.compiled.policies ?? []).filter(
      ({ level }) => query.level === undefined || level === query.level,
    );
    const digest = active?.digest ?? '';
    const [of, place] = query.cursor?.split(' ') ?? [digest, '0'];
    const from = Number(place);
    if (of !== digest || !Number.isSafeInteger(from)) throw new ServiceError('invalid_cursor');
    const end = from + query.limit;
    return {
      items: policies
        .slice(from, end)
        .map(({ id, level, namespace, enabled, priority, study }) => ({
          id,
          level,
          namespace: namespace ?? null,
          enabled,
          priority,
          effect: study.effect,
          text: study.text,
        })),
      nextCursor: end < policies.length ? `${digest} ${end}` : null,
    };
  }
}
