/** What waits in vaults for somebody's agreement, as their agents report it, and what people decide about it. */
import { z } from 'zod';
import { approvalVerdict } from './approval-decision.ts';
import { commaList, instant, listQuery, page } from './fields.ts';
import { idSchema } from './ids.ts';
import { limits } from './limits.ts';
import { operation } from './operation.ts';

export const approvalStatuses = ['pending', 'approved', 'denied', 'used', 'expired'] as const;
export const approvalStatus = z.enum(approvalStatuses);
export type ApprovalStatus = z.infer<typeof approvalStatus>;

/** A keyed hash: only the vault's owner can say what it is of. */
const reference = z.string().nullable();

export const approvalRefusals = [
  'already_decided',
  'expired',
  'not_an_approver',
  'own_request',
  'unknown_approval',
  'not_acceptable',
] as const;

export const approval = z.object({
  id: idSchema('approval'),
  vault: z.object({ id: idSchema('vault'), name: z.string() }),
  /** The agent that reported it first. */
  agentId: idSchema('agent'),
  /** Of the agent's API, e.g. `secret.read-value`. */
  action: z.string(),
  namespaceRef: reference,
  secretRef: reference,
  otherRef: reference,
  requesterRef: z.string(),
  /** `approved`: the same request succeeds once. `used`: it has. */
  status: approvalStatus,
  requirements: z.array(
    z.object({
      policy: z.string(),
      /** Roles whose members may agree. */
      approvers: z.array(z.string()),
      count: z.number().int(),
    }),
  ),
  /** By whom the vault knows, and by people here whose decision is on its way to it. */
  decisions: z.array(
    z.object({
      verdict: approvalVerdict,
      at: instant,
      /** Who decided here; null for who decided at the vault. */
      by: z.object({ id: z.string(), name: z.string() }).nullable(),
      approverRef: reference,
      reason: z.string().nullable(),
      /** `sent`: on its way to the agents of the vault. `accepted`: it counts there. */
      state: z.enum(['sent', 'accepted', 'refused']),
      refusal: z.enum(approvalRefusals).nullable(),
    }),
  ),
  requestedAt: instant,
  expiresAt: instant,
  updatedAt: instant,
});

const approvalParams = z.strictObject({ id: idSchema('approval') });
const approvalSorts = ['requestedAt', 'expiresAt'] as const;
const tag = 'Approvals';

export const listApprovals = operation('policy', 'approvals.list', {
  method: 'GET',
  path: '/v1/approvals',
  summary: 'List what waits in vaults for agreement, and what became of it',
  tag,
  permission: 'approvals.read',
  sorts: approvalSorts,
  query: listQuery(
    approvalSorts,
    {
      status: commaList(approvalStatus).optional(),
      vaultId: idSchema('vault').optional(),
    },
    '-requestedAt',
  ),
  output: page(approval),
});

export const getApproval = operation('policy', 'approvals.get', {
  method: 'GET',
  path: '/v1/approvals/{id}',
  summary: 'Show an approval, and what was decided about it',
  tag,
  permission: 'approvals.read',
  params: approvalParams,
  output: approval,
});

const decision = z.strictObject({
  reason: z.string().trim().min(1).max(limits.approvalReasonMaxLength),
});

export const approveApproval = operation('policy', 'approvals.approve', {
  method: 'POST',
  path: '/v1/approvals/{id}/approve',
  summary: 'Agree to what somebody asked a vault for; the decision goes to its agents, signed',
  tag,
  permission: 'approvals.decide',
  params: approvalParams,
  body: decision,
  output: approval,
  status: 200,
});

export const denyApproval = operation('policy', 'approvals.deny', {
  method: 'POST',
  path: '/v1/approvals/{id}/deny',
  summary: 'Refuse what somebody asked a vault for; one refusal is enough',
  tag,
  permission: 'approvals.decide',
  params: approvalParams,
  body: decision,
  output: approval,
  status: 200,
});
