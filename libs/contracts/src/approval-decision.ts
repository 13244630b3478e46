/**
 * What somebody decided in the control plane about a request that waits for approval in a vault, as the
 * organization signs it and the agent reads it: JSON in UTF-8.
 */
import { z } from 'zod';
import { idSchema } from './ids.ts';
import { limits } from './limits.ts';
import { role } from './permissions.ts';

export const approvalDecisionForm = 'keystead.approval-decision.v1';
export const approvalDecisionMaxBytes = 8 * 1024;

export const approvalVerdict = z.enum(['approve', 'deny']);
export type ApprovalVerdict = z.infer<typeof approvalVerdict>;

export const approvalDecision = z.strictObject({
  form: z.literal(approvalDecisionForm),
  organizationId: idSchema('organization'),
  vaultId: idSchema('vault'),
  approvalId: idSchema('approval'),
  decisionId: z.uuid(),
  verdict: approvalVerdict,
  approver: z.strictObject({
    id: idSchema('person'),
    name: z.string().max(500),
    email: z.string().max(320),
    /** Roles of the organization that count: a higher one counts as the lower ones too. */
    roles: z.array(role).min(1).max(4),
  }),
  reason: z.string().max(limits.approvalReasonMaxLength),
  decidedAt: z.iso.datetime(),
  /** The approval's own end: the decision is good for nothing after it. */
  expiresAt: z.iso.datetime(),
});
export type ApprovalDecision = z.infer<typeof approvalDecision>;
