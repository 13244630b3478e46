/**
 * Outbox rows: what one service owes another, written in the transaction of the change. The
 * consumer deletes the row in the transaction of its effect.
 */
import { z } from 'zod';
import {
  approvalAnswer,
  approvalReport,
  operationCountsReport,
  policyDecisionsReport,
  policyReplayReport,
  policySetReport,
} from './agent-link.ts';
import { reportedAlertKinds } from './monitoring.ts';

export const outboxTopics = {
  /** An alert row is there to be told. */
  'alert.raised': z.object({ alertId: z.uuid() }),
  /** An agent reported what it was used for. */
  'usage.reported': z.object({
    vaultId: z.uuid(),
    agentId: z.uuid(),
    operationCounts: operationCountsReport,
  }),
  /** An agent reported what became of a set, or how often it decided under it. */
  'policy.reported': z.object({
    vaultId: z.uuid(),
    agentId: z.uuid(),
    policySet: policySetReport.optional(),
    policyDecisions: policyDecisionsReport.optional(),
    policyReplay: policyReplayReport.optional(),
    approval: approvalReport.optional(),
    approvalAnswer: approvalAnswer.optional(),
  }),
  /** Another service found what people are to be told of a vault, or that it is over. */
  'vault.reported': z.object({
    vaultId: z.uuid(),
    agentId: z.uuid(),
    kind: z.enum(reportedAlertKinds),
    reason: z.string().max(64),
    state: z.enum(['raised', 'cleared']),
  }),
  /** A single mail of the control plane itself. */
  'mail.requested': z.discriminatedUnion('template', [
    z.object({
      template: z.literal('member.invitation'),
      to: z.string(),
      data: z.object({
        organizationName: z.string(),
        invitedBy: z.string(),
        role: z.string(),
        token: z.string(),
      }),
    }),
    z.object({
      template: z.literal('email.confirmation'),
      to: z.string(),
      data: z.object({
        organizationName: z.string(),
        channelName: z.string(),
        token: z.string(),
      }),
    }),
    z.object({
      template: z.literal('channel.disabled'),
      to: z.string(),
      data: z.object({
        organizationName: z.string(),
        channelId: z.string(),
        channelName: z.string(),
        reason: z.enum(['gone', 'failing']),
        failingSince: z.string().nullable(),
        lastAnswer: z.string().nullable(),
      }),
    }),
  ]),
  /** A gateway could not hear; for the installation's operators. */
  'installation.deaf': z.object({
    gatewayId: z.uuid(),
    startedAt: z.string(),
    endedAt: z.string().nullable(),
  }),
} as const;
export type OutboxTopic = keyof typeof outboxTopics;
export type OutboxPayload<T extends OutboxTopic> = z.infer<(typeof outboxTopics)[T]>;
