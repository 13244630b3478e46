/**
 * Nudges: plain publishes that say "look now". A lost one costs at most the period of the
 * reconcile that stands beside it.
 */
import type { ServiceName } from './operation.ts';

export interface Nudge {
  subject: string;
  publishers: readonly ServiceName[];
  listeners: readonly ServiceName[];
}

export const nudges = {
  /** Outbox rows wait for notification. */
  notification: {
    subject: 'nudge.notification',
    publishers: ['auth', 'monitoring', 'notification'],
    listeners: ['notification'],
  },
  /** Thresholds, vaults or agents changed: liveness rows are to be brought in line. */
  thresholds: {
    subject: 'nudge.thresholds',
    publishers: ['auth', 'vault-registry', 'monitoring'],
    listeners: ['monitoring'],
  },
  /** Certificates were revoked: gateways look now rather than within a second. */
  revocations: {
    subject: 'nudge.revocations',
    publishers: ['vault-registry'],
    listeners: ['gateway'],
  },
  /** Reports of usage wait for analytics. */
  usage: {
    subject: 'nudge.usage',
    publishers: ['monitoring'],
    listeners: ['analytics'],
  },
  /** Sets were assigned in an organization (its uuid is the payload): their agents are to be told. */
  policySets: {
    subject: 'nudge.policy-sets',
    publishers: ['policy'],
    listeners: ['gateway'],
  },
  /** An agent is to be told something; the payload is the uuids of organization and agent, with a slash. */
  agentCommands: {
    subject: 'nudge.agent-commands',
    publishers: ['policy'],
    listeners: ['gateway'],
  },
  /** Reports about policy sets wait for the policy service. */
  policyReports: {
    subject: 'nudge.policy-reports',
    publishers: ['monitoring'],
    listeners: ['policy'],
  },
  /** Reports of other services wait for monitoring. */
  vaultReports: {
    subject: 'nudge.vault-reports',
    publishers: ['policy'],
    listeners: ['monitoring'],
  },
  /** Live events were written for an organization (its uuid is the payload). */
  liveEvents: {
    subject: 'nudge.live-events',
    publishers: ['monitoring'],
    listeners: ['gateway'],
  },
} as const satisfies Record<string, Nudge>;
export type NudgeName = keyof typeof nudges;
