/**
 * What the agent link asks of the rest of the control plane. Every promise resolves after the
 * commit it stands for, and rejects where nothing is known; nothing here is retried by the link.
 */
import type {
  AgentIdentity,
  admitAgent,
  agentSignals,
  Beat,
  deliverPolicies,
  enrollAgent,
  RetainedEvent,
  readPolicySet,
  recordBeats,
  renewCertificate,
} from '@keystead/contracts/agent-link';
import type { z } from 'zod';

export type EnrollInput = z.output<(typeof enrollAgent)['input']>;
export type EnrollOutput = z.output<(typeof enrollAgent)['output']>;
export type AdmitResult = z.output<(typeof admitAgent)['output']>['results'][number];
export type BeatResult = z.output<(typeof recordBeats)['output']>['results'][number];
export type RenewOutput = z.output<(typeof renewCertificate)['output']>;
export type DeliverInput = z.output<(typeof deliverPolicies)['input']>['agents'];
export type DeliverResult = z.output<(typeof deliverPolicies)['output']>['results'][number];
export type PolicySetPart = z.output<(typeof readPolicySet)['output']>;
type Signals = z.output<(typeof agentSignals)['input']>;
export type GoodbyeSignal = Signals['goodbyes'][number];
export type SupersessionSignal = Signals['supersessions'][number];

export interface Revocation {
  /** uuid. */
  agentId: string;
  /** One certificate, or null for every one of the agent. */
  serialNumber: string | null;
}

export interface AgentBackend {
  enroll(request: EnrollInput): Promise<EnrollOutput>;
  /** The registry's word on certificates when their streams open, by position. */
  admit(identities: AgentIdentity[]): Promise<AdmitResult[]>;
  /** Results by position. An empty batch is the gateway's tick. */
  beats(batch: { number: number; beats: Beat[] }): Promise<BeatResult[]>;
  /** Resolves when every event is durable, or was already. */
  events(events: RetainedEvent[]): Promise<void>;
  /** What agents hold; answered with what each is to be told, by position. */
  deliver(agents: DeliverInput): Promise<DeliverResult[]>;
  /** A part of a set, from an offset on. */
  policySetPart(asked: z.output<(typeof readPolicySet)['input']>): Promise<PolicySetPart>;
  renew(identity: AgentIdentity, certificateRequest: string): Promise<RenewOutput>;
  signals(signals: {
    goodbyes: GoodbyeSignal[];
    supersessions: SupersessionSignal[];
  }): Promise<void>;
  /** What was revoked after a position; null asks for the present position alone. */
  revokedSince(cursor: string | null): Promise<{ revoked: Revocation[]; cursor: string }>;
}
