/**
 * Deciding before it ships: one request with its explanation, a table of requests with and without
 * drafts, and what the policies of a set do to each other. The engine is the one that agents decide
 * with. Nothing is written.
 */

import { thoseThatFit } from '@keystead/access/answer-size';
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import { toUuid } from '@keystead/contracts/ids';
import type { Input, Output } from '@keystead/contracts/operation';
import {
  type explainPolicies,
  type policySetConflicts,
  policySetSettings,
  type simulatePolicies,
} from '@keystead/contracts/policy';
import { type CompiledSet, compile } from '@keystead/policy-engine/compile';
import { conflicts } from '@keystead/policy-engine/conflicts';
import { explain } from '@keystead/policy-engine/explain';
import { simulate } from '@keystead/policy-engine/simulate';
import { Inject, Injectable } from '@nestjs/common';
import {
  type ChosenPolicy,
  engineSet,
  hindrance,
  namedPolicy,
  policyNames,
} from '../policy-sets/set-content.ts';
import { choosePolicies, findSet, settingsOf } from '../policy-sets/set-rows.ts';
import { engineRequest, showDecision } from './engine-request.ts';

type Subject = Pick<Input<typeof simulatePolicies>['body'], 'policySetId' | 'drafts'>;

@Injectable()
export class Simulations {
  constructor(@Inject(TenantWork) private readonly work: TenantWork) {}

  async explain(
    ctx: TenantCtx,
    input: Input<typeof explainPolicies>,
  ): Promise<Output<typeof explainPolicies>> {
    const request = engineRequest(input.body.request, ['request'], Date.now());
    const set = await this.#compiled(ctx, input.body);
    try {
      const { decision, levels, policies: all, outOfScope, untold } = await explain(set, request);
      const policies = thoseThatFit(all);
      return {
        decision: showDecision(decision),
        explanation: [
          ...levels.map((level) => ({ about: 'level', ...level })),
          ...policies.map((policy) => ({ about: 'policy', ...policy })),
          { about: 'others', outOfScope, untold: untold + all.length - policies.length },
        ],
      };
    } finally {
      set.close();
    }
  }

  async simulate(
    ctx: TenantCtx,
    input: Input<typeof simulatePolicies>,
  ): Promise<Output<typeof simulatePolicies>> {
    const { requests, ...subject } = input.body;
    const nowMs = Date.now();
    const asked = requests.map((request, index) =>
      engineRequest(request, ['requests', index], nowMs),
    );
    const before = await this.#compiled(ctx, { ...subject, drafts: [] });
    const after = await this.#compiled(ctx, subject).catch((error: unknown) => {
      before.close();
      throw error;
    });
    try {
      const { counts, allowed, differences } = await simulate(before, after, asked);
      const found = differences
        .filter(({ change }) => change === 'newly_allowed' || change === 'newly_denied')
        .map((difference) => ({
          index: difference.index,
          before: difference.before.decision,
          after: difference.after.decision,
          decidedBy: [...difference.after.policyIds],
        }));
      const shown = thoseThatFit(found);
      return {
        requests: requests.length,
        allowed,
        denied: requests.length - allowed,
        newlyAllowed: counts.newly_allowed,
        newlyDenied: counts.newly_denied,
        differences: shown,
        truncated: shown.length < found.length,
      };
    } finally {
      before.close();
      after.close();
    }
  }

  async conflicts(
    ctx: TenantCtx,
    input: Input<typeof policySetConflicts>,
  ): Promise<Output<typeof policySetConflicts>> {
    const { set, chosen } = await this.#chosen(ctx, { policySetId: input.params.id, drafts: [] });
    try {
      const names = policyNames(chosen);
      const report = await conflicts(set, names);
      const listed = thoseThatFit(
        report.conflicts.map(({ kind, policyIds, what }) => ({
          kind,
          policyIds: [...policyIds],
          policies: policyIds.map((policyId) => {
            const { id = null, version = null } = namedPolicy(policyId) ?? {};
            return { policyId: id, version, name: names(policyId) ?? null };
          }),
          what,
        })),
      );
      return {
        conflicts: listed,
        truncated: !report.complete || listed.length < report.conflicts.length,
      };
    } finally {
      set.close();
    }
  }

  /** The published policies of the set with the drafts in their place, or the drafts alone. */
  async #compiled(ctx: TenantCtx, subject: Subject): Promise<CompiledSet> {
    return (await this.#chosen(ctx, subject)).set;
  }

  async #chosen(
    ctx: TenantCtx,
    { policySetId, drafts }: Subject,
  ): Promise<{ set: CompiledSet; chosen: readonly ChosenPolicy[] }> {
    const versions = new Map(
      drafts.map(({ policyId, version }) => [toUuid('policy', policyId), version]),
    );
    const { chosen, set } = await this.work.read(ctx, async (transaction) => {
      const row = policySetId ? await findSet(transaction, ctx, policySetId) : undefined;
      const policyIds = [...new Set([...(row?.policyIds ?? []), ...versions.keys()])];
      const chosen = await choosePolicies(transaction, ctx, policyIds, versions);
      const settings = row ? settingsOf(row) : policySetSettings.parse({});
      return { chosen, set: engineSet(chosen, settings) };
    });
    const compiled = await compile(set);
    if (compiled.ok) return { chosen, set: compiled.value };
    throw new ServiceError('unprocessable', { detail: hindrance(chosen, compiled.problems) });
  }
}
