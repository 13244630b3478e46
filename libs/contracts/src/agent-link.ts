/**
 * What the gateway asks the services on behalf of agents. Agents never speak NATS; an agent's
 * identity here is what its certificate said, never what its message said.
 */
import { z } from 'zod';
import { limits } from './limits.ts';
import { agentEventKind } from './monitoring.ts';
import { internalCall } from './operation.ts';

const uuid = z.uuid();
/** Milliseconds since 1970, by the database's clock. */
const databaseMs = z.number();

/** One certificate's holder. Ids are uuids. */
export const agentIdentity = z.object({
  organizationId: uuid,
  agentId: uuid,
  serialNumber: z.string().max(64),
});
export type AgentIdentity = z.infer<typeof agentIdentity>;

/** Facts that change rarely travel with a beat only when they changed or on the first beat. */
export const agentFacts = z.object({
  version: z.string().max(64),
  hostname: z.string().max(255),
  platform: z.string().max(64),
  architecture: z.string().max(64),
  runtime: z.string().max(64),
});
export type AgentFacts = z.infer<typeof agentFacts>;

export const beat = z.object({
  organizationId: uuid,
  agentId: uuid,
  bootId: uuid,
  sequence: z.number().int().nonnegative(),
  health: z.enum(['healthy', 'degraded', 'failing']),
  policySetVersion: z.number().int().nullable(),
  facts: agentFacts.nullable(),
});
export type Beat = z.infer<typeof beat>;

/**
 * One batch of beats of one gateway; an empty one is the gateway's tick. An acknowledged batch
 * proves that the gateway could hear up to now.
 */
export const recordBeats = internalCall('monitoring', 'beats', {
  callers: ['gateway'],
  input: z.object({
    gatewayId: uuid,
    /** Counts the batches and ticks of this gateway. */
    number: z.number().int().nonnegative(),
    beats: z.array(beat).max(limits.agentBatchMax),
  }),
  output: z.object({
    /** By position in the batch. `unknown`: not in the registry any more. */
    results: z.array(
      z.object({
        outcome: z.enum(['recorded', 'unknown']),
        intervalMs: z.number().int(),
        assignedPolicySetVersion: z.number().int().nullable(),
      }),
    ),
    databaseMs,
  }),
});

/** The gateway says that it stops hearing on purpose: agents are asked to go elsewhere. */
export const gatewayDrained = internalCall('monitoring', 'gateway-drained', {
  callers: ['gateway'],
  input: z.object({ gatewayId: uuid }),
  output: z.object({}),
});

/** An agent said goodbye, or one identity was seen with two boot ids at once. */
export const agentSignals = internalCall('monitoring', 'agent-signals', {
  callers: ['gateway'],
  input: z.object({
    gatewayId: uuid,
    goodbyes: z
      .array(z.object({ organizationId: uuid, agentId: uuid, bootId: uuid }))
      .max(limits.agentBatchMax),
    supersessions: z
      .array(
        z.object({
          organizationId: uuid,
          agentId: uuid,
          oldBootId: uuid,
          newBootId: uuid,
        }),
      )
      .max(limits.agentBatchMax),
  }),
  output: z.object({}),
});

const hash = z.string().regex(/^[0-9a-f]{64}$/);

/** How far an agent's audit has come, and what the gateway found of the head's own signature. */
export const auditHeadReport = z.object({
  /** 16 bytes, hexadecimal. */
  chainId: z.string().regex(/^[0-9a-f]{32}$/),
  sequence: z.number().int().nonnegative(),
  hash,
  /** By the agent's clock. */
  atMs: z.number().int(),
  entriesSincePrevious: z.number().int().nonnegative(),
  /** `certificate`: by the key of the certificate that the session was opened with. */
  signature: z.enum(['certificate', 'other_key', 'absent', 'invalid']),
  /** SHA-256 of the signing key, or null without a signature. */
  signerKeyDigest: hash.nullable(),
});
export type AuditHeadReport = z.infer<typeof auditHeadReport>;

/** Usage of one period: sums and percentiles, never a name. */
export const operationCountsReport = z.object({
  /** By the agent's clock. */
  periodStartMs: z.number().int(),
  periodEndMs: z.number().int(),
  counts: z
    .array(
      z.object({
        operation: z.string().max(32),
        outcome: z.string().max(16),
        count: z.number().int().nonnegative(),
        p50Us: z.number().int().nonnegative(),
        p95Us: z.number().int().nonnegative(),
        p99Us: z.number().int().nonnegative(),
      }),
    )
    .max(limits.operationCountsPerEvent),
  topSecrets: z
    .array(z.object({ secretRef: hash, count: z.number().int().nonnegative() }))
    .max(limits.topSecretsPerEvent),
  namespaces: z.number().int().nonnegative(),
  secrets: z.number().int().nonnegative(),
  storedBytes: z.number().int().nonnegative(),
});
export type OperationCountsReport = z.infer<typeof operationCountsReport>;

/** What became of a set at an agent. */
export const policySetReport = z.object({
  number: z.number().int().nonnegative(),
  digest: z.string().max(64),
  outcome: z.string().max(32),
  problem: z.string().max(32),
});
export type PolicySetReport = z.infer<typeof policySetReport>;

/** Decisions under one set since the previous report. */
export const policyDecisionsReport = z.object({
  number: z.number().int().nonnegative(),
  digest: z.string().max(64),
  allowed: z.number().int().nonnegative(),
  denied: z.number().int().nonnegative(),
  newlyAllowed: z.number().int().nonnegative(),
  newlyDenied: z.number().int().nonnegative(),
  errors: z.number().int().nonnegative(),
});
export type PolicyDecisionsReport = z.infer<typeof policyDecisionsReport>;

/** A request that waits for approval in a vault, and how far it is. Names are keyed hashes. */
export const approvalReport = z.object({
  id: uuid,
  revision: z.number().int().nonnegative(),
  state: z.enum(['pending', 'approved', 'denied', 'used']),
  action: z.string().max(64),
  namespaceRef: hash.nullable(),
  secretRef: hash.nullable(),
  otherRef: hash.nullable(),
  requesterRef: hash,
  requestedAtMs: z.number().int(),
  expiresAtMs: z.number().int(),
  requirements: z
    .array(
      z.object({
        policy: z.string().max(128),
        approvers: z.array(z.string().max(64)).max(32),
        count: z.number().int().nonnegative(),
      }),
    )
    .max(limits.approvalRequirementsMax),
  decisions: z
    .array(
      z.object({
        approverRef: hash,
        verdict: z.enum(['approve', 'deny']),
        atMs: z.number().int(),
        /** The decision of the control plane that it was. */
        decisionId: uuid.nullable(),
      }),
    )
    .max(limits.approvalDecisionsMax),
});
export type ApprovalReport = z.infer<typeof approvalReport>;

/** What became of a decision of the control plane. */
export const approvalAnswer = z.object({
  approvalId: uuid,
  decisionId: uuid,
  outcome: z.string().max(32),
});
export type ApprovalAnswer = z.infer<typeof approvalAnswer>;

const count = z.number().int().nonnegative();

/** What a draft would have decided otherwise of what one agent decided. */
export const policyReplayReport = z.object({
  replayId: uuid,
  outcome: z.string().max(16),
  fromMs: z.number().int(),
  decisions: count,
  newlyDenied: count,
  newlyAllowed: count,
  newlyNeedingApproval: count,
  unchanged: count,
  unevaluated: z.array(z.object({ obstacle: z.string().max(32), count })).max(16),
  differences: z
    .array(z.object({ reference: hash, change: z.string().max(32), count }))
    .max(limits.replayDifferencesPerAgent),
  durationMs: count,
});
export type PolicyReplayReport = z.infer<typeof policyReplayReport>;

/** A retained message of an agent. `(agent, bootId, sequence)` is unique; a replay changes nothing. */
export const retainedEvent = z.object({
  organizationId: uuid,
  agentId: uuid,
  bootId: uuid,
  sequence: z.number().int().nonnegative(),
  kind: agentEventKind,
  occurredAtMs: z.number().int(),
  details: z
    .record(z.string().max(64), z.union([z.string().max(255), z.number(), z.boolean(), z.null()]))
    .refine((details) => Object.keys(details).length <= 16, 'at most 16 details'),
  auditHead: auditHeadReport.optional(),
  operationCounts: operationCountsReport.optional(),
  policySet: policySetReport.optional(),
  policyDecisions: policyDecisionsReport.optional(),
  policyReplay: policyReplayReport.optional(),
  approval: approvalReport.optional(),
  approvalAnswer: approvalAnswer.optional(),
  /** base64, by the certificate's key over the retained bytes. */
  signature: z.string().max(512),
});
export type RetainedEvent = z.infer<typeof retainedEvent>;

/** Answered after the commit: everything in the batch is durable or was already. */
export const recordAgentEvents = internalCall('monitoring', 'agent-events', {
  callers: ['gateway'],
  input: z.object({ events: z.array(retainedEvent).max(limits.agentEventsPerMessage) }),
  output: z.object({ recorded: z.number().int(), known: z.number().int() }),
});

export const enrollAgent = internalCall('vault-registry', 'enroll', {
  callers: ['gateway'],
  input: z.object({
    token: z.string().max(200),
    /** PKCS #10, DER, base64. */
    csr: z.string().max(8_192),
    vaultName: z
      .string()
      .max(limits.nameMaxLength * 4)
      .nullable(),
    agentName: z
      .string()
      .max(limits.nameMaxLength * 4)
      .nullable(),
    address: z.string().max(64),
    requestId: z.string().max(64),
  }),
  output: z.discriminatedUnion('outcome', [
    z.object({
      outcome: z.literal('enrolled'),
      organizationId: uuid,
      vaultId: uuid,
      agentId: uuid,
      vaultName: z.string(),
      agentName: z.string(),
      /** Leaf, then intermediate, then root; PEM each. */
      certificateChain: z.array(z.string()),
      trustDomain: z.string(),
    }),
    z.object({
      outcome: z.literal('refused'),
      reason: z.enum(['token_invalid', 'csr_invalid', 'name_invalid', 'limit_reached']),
      detail: z.string(),
    }),
  ]),
});

export const renewCertificate = internalCall('vault-registry', 'renew', {
  callers: ['gateway'],
  input: z.object({ identity: agentIdentity, csr: z.string().max(8_192) }),
  output: z.discriminatedUnion('outcome', [
    z.object({ outcome: z.literal('renewed'), certificateChain: z.array(z.string()) }),
    z.object({ outcome: z.literal('refused'), detail: z.string() }),
  ]),
});

/** The registry's word on a certificate when a stream opens. */
export const admitAgent = internalCall('vault-registry', 'admit', {
  callers: ['gateway'],
  input: z.object({ identities: z.array(agentIdentity).max(limits.agentBatchMax) }),
  output: z.object({
    results: z.array(
      z.discriminatedUnion('outcome', [
        z.object({
          outcome: z.literal('admitted'),
          vaultId: uuid,
          intervalMs: z.number().int(),
          assignedPolicySetVersion: z.number().int().nullable(),
        }),
        z.object({ outcome: z.literal('refused') }),
      ]),
    ),
  }),
});

/** A TLS server certificate for the agent link, from the same CA that agents pin. */
export const issueGatewayCertificate = internalCall('vault-registry', 'gateway-certificate', {
  callers: ['gateway'],
  input: z.object({
    csr: z.string().max(8_192),
    hosts: z.array(z.string().max(253)).min(1).max(20),
  }),
  output: z.object({
    /** Leaf, then intermediate; PEM each. */
    certificateChain: z.array(z.string()),
    root: z.string(),
    caFingerprint: z.string(),
    trustDomain: z.string(),
  }),
});

const signerCertificate = z.object({
  /** Leaf, intermediate, root; PEM each. */
  certificateChain: z.array(z.string()).length(3),
  trustDomain: z.string(),
});

/** A certificate for the key that signs the policy sets of one organization. */
export const issuePolicySigner = internalCall('vault-registry', 'policy-signer', {
  callers: ['policy'],
  input: z.object({ organizationId: uuid, csr: z.string().max(8_192) }),
  output: signerCertificate,
});

/** A certificate for a key that signs what agents are told to do. */
export const issueCommandSigner = internalCall('vault-registry', 'command-signer', {
  callers: ['policy'],
  input: z.object({ csr: z.string().max(8_192) }),
  output: signerCertificate,
});

/** A policy set by number and digest, as an agent says that it holds it. */
export const heldPolicySet = z.object({
  number: z.number().int().nonnegative(),
  digest: z.string().regex(/^(?:[0-9a-f]{64})?$/),
});
export type HeldPolicySet = z.infer<typeof heldPolicySet>;

/** What agents on open streams hold; answered with what each is to be told, by position. */
export const deliverPolicies = internalCall('policy', 'deliver', {
  callers: ['gateway'],
  input: z.object({
    agents: z
      .array(
        z.object({
          organizationId: uuid,
          agentId: uuid,
          held: heldPolicySet.nullable(),
          /** Numbers of commands that the agent has no word for. */
          unsupported: z.array(z.number().int().nonnegative()).max(16).optional(),
        }),
      )
      .max(limits.policySetAgentsPerCall),
  }),
  output: z.object({
    results: z.array(
      z.object({
        assigned: heldPolicySet.nullable(),
        /** A signed message for the agent, base64; null where there is nothing to tell. */
        command: z.string().nullable(),
        /** Further ones, in the order of their numbers: what the agent is told to do besides. */
        commands: z.array(z.string()),
        /** One answer does not carry all that there is to tell: the gateway asks again at once. */
        more: z.boolean().optional(),
      }),
    ),
  }),
});

/** A part of a set or of a draft, for agents of that organization. */
export const readPolicySet = internalCall('policy', 'set-part', {
  callers: ['gateway'],
  input: z.object({
    organizationId: uuid,
    digest: hash,
    offset: z.number().int().nonnegative(),
  }),
  output: z.object({
    totalBytes: z.number().int(),
    /** base64, at most `limits.policySetPartBytes`; null where there is no such set. */
    content: z.string().nullable(),
  }),
});

/** The live events of one organization after a position. */
export const readLiveEvents = internalCall('monitoring', 'live-events', {
  callers: ['gateway'],
  input: z.object({
    organizationId: uuid,
    /** null: from now on. */
    after: z.string().max(64).nullable(),
    limit: z.number().int().min(1).max(500),
  }),
  output: z.object({
    events: z.array(
      z.object({
        id: z.string(),
        type: z.string(),
        at: z.string(),
        data: z.record(z.string(), z.unknown()),
      }),
    ),
    position: z.string(),
    /** The position asked for is older than what is kept. */
    missed: z.boolean(),
  }),
});
