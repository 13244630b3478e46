/**
 * Replays: agents decide what they decided in the last days anew, by drafts that decide nothing else, and
 * answer with counts. Names stay with them.
 */
import { z } from 'zod';
import { commaList, instant, listQuery, page } from './fields.ts';
import { idSchema } from './ids.ts';
import { limits } from './limits.ts';
import { operation } from './operation.ts';
import { policyReplayStates, policyReplaySummary, policySubject, rolloutTarget } from './policy.ts';
import { wholeNumberText } from './whole-number-text.ts';

export const replayChanges = ['newly_denied', 'newly_allowed'] as const;
export const replayObstacles = [
  /** The draft reads what was not kept of a resource that is gone. */
  'resource_gone',
  'evaluation_failed',
  /** More than one replay may cost an agent. */
  'cost_limit',
  /** Too many different ones within a minute to be kept. */
  'not_kept',
  'damaged',
] as const;

const counted = {
  decisions: z.number().int(),
  newlyDenied: z.number().int(),
  newlyAllowed: z.number().int(),
  newlyNeedingApproval: z.number().int(),
  unchanged: z.number().int(),
};
const unevaluated = z.array(z.object({ obstacle: z.string(), count: z.number().int() }));
const difference = z.object({
  /** Keyed hash of principal, resource and action: the vault's owner can say which they are. */
  reference: z.string(),
  change: z.string(),
  count: z.number().int(),
});

export const policyReplay = policyReplaySummary.extend({
  policySetId: idSchema('policySet').nullable(),
  /** The signed version that is replayed; null for drafts. */
  number: z.number().int().nullable(),
  drafts: z.array(z.object({ policyId: idSchema('policy'), version: z.number().int() })),
  target: rolloutTarget,
  unevaluated,
  /** The most frequent ones of each vault, at most 50. */
  differences: z.array(difference.extend({ vaultId: idSchema('vault') })),
});

const replayParams = z.strictObject({ id: idSchema('policyReplay') });
const replaySorts = ['createdAt'] as const;

export const listPolicyReplays = operation('policy', 'policy-replays.list', {
  method: 'GET',
  path: '/v1/policy-replays',
  summary: 'List replays of decisions by drafts',
  tag: 'Policies',
  permission: 'policies.read',
  sorts: replaySorts,
  query: listQuery(
    replaySorts,
    {
      state: commaList(z.enum(policyReplayStates)).optional(),
      policySetId: idSchema('policySet').optional(),
    },
    '-createdAt',
  ),
  output: page(policyReplaySummary),
});

export const getPolicyReplay = operation('policy', 'policy-replays.get', {
  method: 'GET',
  path: '/v1/policy-replays/{id}',
  summary: 'Show what a draft would have changed, as far as agents have answered',
  tag: 'Policies',
  permission: 'policies.read',
  params: replayParams,
  output: policyReplay,
});

export const createPolicyReplay = operation('policy', 'policy-replays.create', {
  method: 'POST',
  path: '/v1/policy-replays',
  summary: 'Let agents decide what they decided in the last days anew, by drafts',
  tag: 'Policies',
  permission: 'policies.write',
  body: z
    .strictObject({
      ...policySubject,
      /** A signed version of the set instead of what is published. */
      number: z.number().int().min(1).max(2_147_483_647).optional(),
      target: rolloutTarget,
      days: z.number().int().min(1).max(limits.replayDaysMax).default(7),
      /** Of those that are aimed at; which is drawn anew for every replay. */
      maxAgents: z.number().int().min(1).max(limits.replayAgentsMax).default(200),
      /** How long agents that are away are waited for. */
      expiresInSeconds: z.number().int().min(60).max(limits.replayExpiresMaxSeconds).default(3_600),
    })
    .refine(
      ({ policySetId, drafts }) => policySetId !== undefined || drafts.length > 0,
      'needs policySetId or drafts',
    )
    .refine(
      ({ policySetId, drafts, number }) =>
        number === undefined || (policySetId !== undefined && drafts.length === 0),
      'number goes with policySetId alone',
    ),
  output: policyReplay,
});

export const stopPolicyReplay = operation('policy', 'policy-replays.stop', {
  method: 'POST',
  path: '/v1/policy-replays/{id}/stop',
  summary: 'Wait for no further agent',
  tag: 'Policies',
  permission: 'policies.write',
  params: replayParams,
  output: policyReplay,
  status: 200,
});

export const replayAgentStates = [
  'pending',
  'answered',
  'rejected',
  'failed',
  'unsupported',
  'expired',
] as const;
const replayAgentState = z.enum(replayAgentStates);

export const policyReplayAgent = z.object({
  agentId: idSchema('agent'),
  agentName: z.string(),
  vaultId: idSchema('vault'),
  state: replayAgentState,
  /** The oldest decision that it looked at, by its own clock; null where there was none. */
  from: instant.nullable(),
  ...counted,
  unevaluated,
  differences: z.array(difference),
  durationMs: z.number().int(),
  answeredAt: instant.nullable(),
});

export const listPolicyReplayAgents = operation('policy', 'policy-replays.agents', {
  method: 'GET',
  path: '/v1/policy-replays/{id}/agents',
  summary: 'List what each agent of a replay answered',
  tag: 'Policies',
  permission: 'policies.read',
  params: replayParams,
  query: z.strictObject({
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageDefault),
    state: commaList(replayAgentState).optional(),
    /** The agent after which to go on. */
    after: idSchema('agent').optional(),
  }),
  output: z.object({
    items: z.array(policyReplayAgent),
    nextAfter: idSchema('agent').nullable(),
  }),
});
