/**
 * Policies in one vault: which set decides, what waits for others' agreement, and the emergency override.
 */
import { z } from 'zod';
import { listQuery, page } from './fields.ts';
import { agentOperation } from './operation.ts';

const group = 'Policies';

export const policyOverride = z.object({
  id: z.string(),
  reason: z.string(),
  by: z.string(),
  from: z.string(),
  until: z.string(),
});

export const heldPolicies = z.object({
  /** Null while no set was ever assigned: roles decide alone. */
  set: z
    .object({
      /** Counts the sets of the organization. */
      number: z.number().int(),
      /** SHA-256 of the signed bytes, in hexadecimal. */
      digest: z.string(),
      policies: z.number().int(),
      /** The number of the set before, which is kept. */
      predecessor: z.number().int().nullable(),
      staleness: z
        .object({
          afterSeconds: z.number().int(),
          afterwards: z.enum(['keep', 'restrict', 'deny']),
          /** Nothing was heard of the control plane for longer than that. */
          isStale: z.boolean(),
        })
        .nullable(),
    })
    .nullable(),
  /** `roles`: without a set, or with one that has no policies. `refused`: what is held is damaged, and everything is denied. */
  decides: z.enum(['policies', 'roles', 'override', 'refused']),
  override: policyOverride.nullable(),
  /** What holds of the configuration that sets may say; null where the agent takes no sets. */
  configuration: z
    .object({
      settings: z.record(
        z.string(),
        z.object({
          value: z.union([z.number(), z.string(), z.boolean()]).nullable(),
          /** `file`: vault.yaml says it, which goes before the set. */
          source: z.enum(['set', 'file', 'default']),
        }),
      ),
      /** Receivers of the audit that the set turns on and vault.yaml does not name: nothing is sent there. */
      unknownDestinations: z.array(z.string()),
      /** SHA-256 of the settings, in hexadecimal. */
      digest: z.string(),
    })
    .nullable(),
  /** Whether times can be judged; policies that read the time deny while they cannot. */
  clockTrusted: z.boolean(),
  /** Since the agent started. */
  decisions: z.object({
    allowed: z.number().int(),
    denied: z.number().int(),
    errors: z.number().int(),
  }),
});
export type HeldPolicyFacts = z.infer<typeof heldPolicies>;

export const heldPolicy = z.object({
  id: z.string(),
  level: z.enum(['organization', 'vault', 'namespace']),
  namespace: z.string().nullable(),
  enabled: z.boolean(),
  priority: z.number(),
  effect: z.enum(['permit', 'forbid']),
  /** In Cedar. */
  text: z.string(),
});

export const approvalStates = ['pending', 'approved', 'denied', 'used', 'expired'] as const;
export const approvalState = z.enum(approvalStates);
export type ApprovalState = z.infer<typeof approvalState>;

export const approval = z.object({
  id: z.string(),
  /** `kind:id` of whoever asked. */
  requestedBy: z.string(),
  requesterName: z.string(),
  action: z.string(),
  namespace: z.string().nullable(),
  secret: z.string().nullable(),
  other: z.string().nullable(),
  /** `approved`: the same request succeeds once. `used`: it has. */
  state: approvalState,
  requirements: z.array(
    z.object({
      policy: z.string(),
      /** Roles whose members may agree. */
      approvers: z.array(z.string()),
      count: z.number().int(),
    }),
  ),
  decisions: z.array(
    z.object({
      by: z.string(),
      name: z.string(),
      decision: z.enum(['approve', 'deny']),
      comment: z.string(),
      at: z.string(),
    }),
  ),
  requestedAt: z.string(),
  expiresAt: z.string(),
});
export type Approval = z.infer<typeof approval>;

const approvalId = z.string().regex(/^apr_[0-7][0-9a-hjkmnp-tv-z]{25}$/, 'must be an approval id');
const byApprovalId = z.strictObject({ id: approvalId });
const decision = z.strictObject({ comment: z.string().max(500).default('') }).prefault({});

export const readPolicies = agentOperation('policies.read', {
  method: 'GET',
  path: '/v1/policy',
  summary: 'Show which policy set decides here, and how up to date it is',
  tag: group,
  action: 'policy.read',
  output: heldPolicies,
});

export const listPolicies = agentOperation('policies.list', {
  method: 'GET',
  path: '/v1/policy/policies',
  summary: 'List the policies of the set that decides',
  tag: group,
  action: 'policy.read',
  query: listQuery({ level: z.enum(['organization', 'vault', 'namespace']).optional() }),
  output: page(heldPolicy),
});

export const listApprovals = agentOperation('approvals.list', {
  method: 'GET',
  path: '/v1/approvals',
  summary: 'List approvals, the newest first',
  tag: group,
  action: 'approval.read',
  query: listQuery({ state: approvalState.optional() }),
  output: page(approval),
});

export const readApproval = agentOperation('approvals.read', {
  method: 'GET',
  path: '/v1/approvals/{id}',
  summary: 'Show an approval',
  tag: group,
  action: 'approval.read',
  params: byApprovalId,
  output: approval,
});

export const approveRequest = agentOperation('approvals.approve', {
  method: 'POST',
  path: '/v1/approvals/{id}/approve',
  summary: 'Agree to what somebody asked for; nobody agrees to their own request',
  tag: group,
  action: 'approval.decide',
  params: byApprovalId,
  body: decision,
  output: approval,
  status: 200,
});

export const denyRequest = agentOperation('approvals.deny', {
  method: 'POST',
  path: '/v1/approvals/{id}/deny',
  summary: 'Refuse what somebody asked for',
  tag: group,
  action: 'approval.decide',
  params: byApprovalId,
  body: decision,
  output: approval,
  status: 200,
});

export const policyOperations = [
  readPolicies,
  listPolicies,
  listApprovals,
  readApproval,
  approveRequest,
  denyRequest,
];
