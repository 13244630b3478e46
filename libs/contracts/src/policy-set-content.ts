/**
 * What a policy set says, as it is signed and held by agents: JSON in UTF-8. The policies themselves
 * are the policy engine's to read.
 */
import { z } from 'zod';
import { suspicionBounds } from './agent-api/suspicion-bounds.ts';
import { idSchema } from './ids.ts';
import { limits } from './limits.ts';

export const policySetForm = 'keystead.policy-set.v1';

/** What happens when an agent has not heard from the control plane for longer than the set allows. */
export const staleness = z.strictObject({
  afterSeconds: z.number().int().min(limits.staleAfterMinSeconds).max(limits.staleAfterMaxSeconds),
  /** `keep`: decide as before. `restrict`: reading alone. `deny`: nothing but health and overrides. */
  afterwards: z.enum(['keep', 'restrict', 'deny']),
});
export type Staleness = z.infer<typeof staleness>;

const response = z
  .enum(['notice', 'lock_identity', 'lock_agent'], {
    error: 'must be notice, lock_identity or lock_agent: no set switches a rule off',
  })
  .optional();
const withinSeconds = z
  .number()
  .int()
  .min(suspicionBounds.withinMinSeconds)
  .max(suspicionBounds.withinMaxSeconds)
  .optional();

/** What is suspicious, and what agents do about it where vault.yaml does not say so itself (R4.5). */
export const rolledOutSuspicion = z.strictObject({
  manyDenials: z
    .strictObject({
      count: z
        .number()
        .int()
        .min(suspicionBounds.denialsMin)
        .max(suspicionBounds.denialsMax)
        .optional(),
      withinSeconds,
      response,
    })
    .optional(),
  bulkReading: z
    .strictObject({
      /** Different ones. */
      secrets: z
        .number()
        .int()
        .min(suspicionBounds.secretsMin)
        .max(suspicionBounds.secretsMax)
        .optional(),
      withinSeconds,
      response,
    })
    .optional(),
  newNetwork: z.strictObject({ response }).optional(),
  unusualHour: z.strictObject({ response }).optional(),
  /** How long an identity is locked. */
  lockSeconds: z
    .number()
    .int()
    .min(suspicionBounds.lockMinSeconds)
    .max(suspicionBounds.lockMaxSeconds)
    .optional(),
});
export type RolledOutSuspicion = z.infer<typeof rolledOutSuspicion>;

/** What the owner calls a receiver of the audit in vault.yaml. Sets know receivers by name alone. */
export const auditDestinationName = z
  .string()
  .regex(
    /^[a-z0-9][a-z0-9-]{0,62}$/,
    'must be the name of a destination in vault.yaml: lower case letters, digits and -, never an address',
  );

/** What of an agent's configuration is rolled out with a set: a listed, safe choice. */
export const agentConfiguration = z.strictObject({
  requestsPerSecondPerIdentity: z.number().int().min(1).max(100_000).optional(),
  rotationIntervalSeconds: z
    .number()
    .int()
    .min(3_600)
    .max(366 * 24 * 3_600)
    .optional(),
  secretMaxVersions: z.number().int().min(1).max(1_000).optional(),
  auditRetentionDays: z.number().int().min(1).max(3_660).optional(),
  tokenTtlSeconds: z
    .number()
    .int()
    .min(60)
    .max(366 * 24 * 3_600)
    .optional(),
  suspiciousActivity: rolledOutSuspicion.optional(),
  /** Destinations that vault.yaml declares by these names are turned on; agents pass over other names. */
  auditForwarding: z
    .array(auditDestinationName)
    .max(limits.auditDestinationsPerSet)
    .refine((names) => new Set(names).size === names.length, 'must not name a destination twice')
    .optional(),
});
export type AgentConfiguration = z.infer<typeof agentConfiguration>;

export const policySetContent = z.strictObject({
  form: z.literal(policySetForm),
  organizationId: idSchema('organization'),
  setId: idSchema('policySet'),
  /** Counts the sets of the organization, from 1. */
  number: z.number().int().min(1).max(2_147_483_647),
  /** Digest of the number before this one; empty for the first. */
  predecessor: z.string().regex(/^(?:[0-9a-f]{64})?$/),
  createdAt: z.iso.datetime(),
  staleness: staleness.nullable(),
  configuration: agentConfiguration,
  /** Read by the policy engine. */
  set: z.record(z.string(), z.unknown()),
});
export type PolicySetContent = z.infer<typeof policySetContent>;

export const policyDraftForm = 'keystead.policy-draft.v1';

/** What an agent decides anew by and never obeys: a form of its own, so that no draft passes as a set. */
export const policyDraftContent = z.strictObject({
  form: z.literal(policyDraftForm),
  organizationId: idSchema('organization'),
  /** Read by the policy engine. */
  set: z.record(z.string(), z.unknown()),
});
export type PolicyDraftContent = z.infer<typeof policyDraftContent>;
