/** Policies, the signed sets that are made of them, and the way of those to the agents. */
import { z } from 'zod';
import { commaList, instant, listQuery, name, page, tag } from './fields.ts';
import { idSchema } from './ids.ts';
import { limits } from './limits.ts';
import { operation } from './operation.ts';
import { agentConfiguration, staleness } from './policy-set-content.ts';
import { wholeNumberText } from './whole-number-text.ts';

const description = z.string().trim().max(2_000);
const note = z.string().trim().max(500);
const version = z.number().int().min(1).max(2_147_483_647);
const versionParam = wholeNumberText(1, 2_147_483_647);
const digest = z.string().regex(/^[0-9a-f]{64}$/);
const person = z.object({ id: z.string(), name: z.string() });

// Policies

export const policyLevels = ['organization', 'vault', 'namespace'] as const;
export const policyLevel = z.enum(policyLevels);
export type PolicyLevel = z.infer<typeof policyLevel>;
const namespaceName = z
  .string()
  .min(1)
  .max(limits.nameMaxLength)
  .regex(/^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/, 'must be the name of a namespace');

/** Cedar's text, or the policy document of the original plan as JSON text. */
export const policySource = z.strictObject({
  format: z.enum(['cedar', 'document']),
  text: z.string().min(1).max(limits.policyTextMaxLength),
});
export type PolicySource = z.infer<typeof policySource>;

export const policyProblem = z.object({
  severity: z.enum(['error', 'warning']),
  /** `line` and `column` of a text, or `path` into a document. */
  where: z.object({
    line: z.number().int().optional(),
    column: z.number().int().optional(),
    path: z.string().optional(),
  }),
  what: z.string(),
  suggestion: z.string().optional(),
  policyId: z.string().optional(),
});
export type PolicyProblem = z.infer<typeof policyProblem>;

// What agents say that a draft would have changed

export const policyReplayStates = ['running', 'finished'] as const;

/** What of the agents' own decisions a draft would have decided otherwise. */
export const policyReplaySummary = z.object({
  id: idSchema('policyReplay'),
  /** `finished`: every agent has answered, or it is over. */
  state: z.enum(policyReplayStates),
  days: z.number().int(),
  agents: z.object({
    /** That the replay was aimed at; at most `maxAgents` of them are asked. */
    matching: z.number().int(),
    asked: z.number().int(),
    /** Not heard of yet: away, or at work on it. */
    pending: z.number().int(),
    answered: z.number().int(),
    /** The draft does not compile there. */
    rejected: z.number().int(),
    failed: z.number().int(),
    /** Too old to know what a replay is. */
    unsupported: z.number().int(),
    expired: z.number().int(),
  }),
  decisions: z.number().int(),
  newlyDenied: z.number().int(),
  newlyAllowed: z.number().int(),
  /** Allowed by both, and by the draft only with an approval. */
  newlyNeedingApproval: z.number().int(),
  unchanged: z.number().int(),
  notEvaluable: z.number().int(),
  /** Of what could be evaluated, from 0 to 1. */
  newlyDeniedShare: z.number(),
  createdBy: z.string(),
  createdAt: instant,
  expiresAt: instant,
  finishedAt: instant.nullable(),
});
export type PolicyReplaySummary = z.infer<typeof policyReplaySummary>;

/** Either may be left out; what is exceeded first counts. */
export const replayThreshold = z
  .strictObject({
    count: z.number().int().min(0).max(1_000_000_000).optional(),
    /** Of the decisions that could be evaluated, from 0 to 1. */
    share: z.number().min(0).max(1).optional(),
  })
  .refine(({ count, share }) => count !== undefined || share !== undefined, 'needs count or share');
export type ReplayThreshold = z.infer<typeof replayThreshold>;

export const policyStates = ['draft', 'reviewed', 'published', 'superseded'] as const;

export const policy = z.object({
  id: idSchema('policy'),
  name: z.string(),
  description: z.string(),
  /** Guardrails of the organization stand over a vault's policies, and those over a namespace's. */
  level: policyLevel,
  namespace: z.string().nullable(),
  /** Who publishes is not who wrote it. */
  fourEyes: z.boolean(),
  latestVersion: z.number().int(),
  publishedVersion: z.number().int().nullable(),
  createdAt: instant,
  updatedAt: instant,
  etag: z.string(),
});

export const policyVersion = z.object({
  policyId: idSchema('policy'),
  version: z.number().int(),
  state: z.enum(policyStates),
  source: z.object({ format: z.enum(['cedar', 'document']), text: z.string() }),
  /** SHA-256 of the source. */
  digest: z.string(),
  note: z.string(),
  author: person,
  createdAt: instant,
  reviewer: person.nullable(),
  reviewedAt: instant.nullable(),
  publisher: person.nullable(),
  publishedAt: instant.nullable(),
  problems: z.array(policyProblem),
  /** The newest replay of this version as a draft; null before the first. */
  replay: policyReplaySummary.nullable(),
});

const policyParams = z.strictObject({ id: idSchema('policy') });
const versionParams = z.strictObject({ id: idSchema('policy'), version: versionParam });
const policySorts = ['name', 'createdAt', 'updatedAt'] as const;

export const listPolicies = operation('policy', 'policies.list', {
  method: 'GET',
  path: '/v1/policies',
  summary: 'List policies',
  tag: 'Policies',
  permission: 'policies.read',
  sorts: policySorts,
  query: listQuery(policySorts, {
    level: policyLevel.optional(),
    published: z.enum(['true', 'false']).optional(),
  }),
  output: page(policy),
});

export const getPolicy = operation('policy', 'policies.get', {
  method: 'GET',
  path: '/v1/policies/{id}',
  summary: 'Show a policy',
  tag: 'Policies',
  permission: 'policies.read',
  params: policyParams,
  output: policy,
});

export const createPolicy = operation('policy', 'policies.create', {
  method: 'POST',
  path: '/v1/policies',
  summary: 'Write a policy: its first version is a draft',
  tag: 'Policies',
  permission: 'policies.write',
  body: z.strictObject({
    name,
    description: description.default(''),
    level: policyLevel.default('vault'),
    namespace: namespaceName.nullable().default(null),
    fourEyes: z.boolean().default(false),
    source: policySource,
    note: note.default(''),
  }),
  output: policy,
});

export const updatePolicy = operation('policy', 'policies.update', {
  method: 'PATCH',
  path: '/v1/policies/{id}',
  summary: 'Rename a policy, describe it, or ask for four eyes',
  tag: 'Policies',
  permission: 'policies.write',
  params: policyParams,
  body: z
    .strictObject({ name, description, fourEyes: z.boolean() })
    .partial()
    .refine((body) => Object.keys(body).length > 0, 'name at least one field'),
  output: policy,
});

export const deletePolicy = operation('policy', 'policies.delete', {
  method: 'DELETE',
  path: '/v1/policies/{id}',
  summary: 'Delete a policy that is in no policy set',
  tag: 'Policies',
  permission: 'policies.write',
  params: policyParams,
  output: z.null(),
  status: 204,
});

export const createPolicyVersion = operation('policy', 'policies.create-version', {
  method: 'POST',
  path: '/v1/policies/{id}/versions',
  summary: 'Write the next version of a policy, as a draft',
  tag: 'Policies',
  permission: 'policies.write',
  params: policyParams,
  body: z.strictObject({ source: policySource, note: note.default('') }),
  output: policyVersion,
});

export const listPolicyVersions = operation('policy', 'policies.list-versions', {
  method: 'GET',
  path: '/v1/policies/{id}/versions',
  summary: 'List the versions of a policy, newest first',
  tag: 'Policies',
  permission: 'policies.read',
  params: policyParams,
  query: z.strictObject({
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageDefault),
    before: versionParam.optional(),
  }),
  output: z.object({
    items: z.array(policyVersion.omit({ problems: true, replay: true })),
    /** Hand it back as `before`; null on the last page. */
    nextBefore: z.number().int().nullable(),
  }),
});

export const getPolicyVersion = operation('policy', 'policies.get-version', {
  method: 'GET',
  path: '/v1/policies/{id}/versions/{version}',
  summary: 'Show a version of a policy, and what is wrong with it',
  tag: 'Policies',
  permission: 'policies.read',
  params: versionParams,
  output: policyVersion,
});

export const diffPolicyVersion = operation('policy', 'policies.diff-version', {
  method: 'GET',
  path: '/v1/policies/{id}/versions/{version}/diff',
  summary: 'Compare a version with another one: the published one, or the one before',
  tag: 'Policies',
  permission: 'policies.read',
  params: versionParams,
  query: z.strictObject({ against: versionParam.optional() }),
  output: z.object({
    from: z.number().int().nullable(),
    to: z.number().int(),
    lines: z.array(z.object({ change: z.enum(['same', 'added', 'removed']), text: z.string() })),
    /** There are more lines than one answer carries. */
    truncated: z.boolean(),
  }),
});

export const reviewPolicyVersion = operation('policy', 'policies.review', {
  method: 'POST',
  path: '/v1/policies/{id}/versions/{version}/review',
  summary: 'Say that a draft is good, or send it back with a comment',
  tag: 'Policies',
  permission: 'policies.publish',
  params: versionParams,
  body: z.strictObject({
    verdict: z.enum(['approve', 'return']),
    comment: z.string().trim().max(limits.policyCommentMaxLength).default(''),
  }),
  output: policyVersion,
  status: 200,
});

export const publishPolicyVersion = operation('policy', 'policies.publish', {
  method: 'POST',
  path: '/v1/policies/{id}/versions/{version}/publish',
  summary: 'Publish a version: new policy sets take it',
  tag: 'Policies',
  permission: 'policies.publish',
  params: versionParams,
  body: z.strictObject({
    /** Not where the newest replay of this version denies more than this; it needs such a replay. */
    stopAboveNewDenials: replayThreshold.optional(),
  }),
  output: policyVersion,
  status: 200,
});

export const policyComment = z.object({
  id: idSchema('policyComment'),
  version: z.number().int(),
  author: person,
  text: z.string(),
  createdAt: instant,
});

export const listPolicyComments = operation('policy', 'policies.list-comments', {
  method: 'GET',
  path: '/v1/policies/{id}/versions/{version}/comments',
  summary: 'List what people said about a version',
  tag: 'Policies',
  permission: 'policies.read',
  params: versionParams,
  query: z.strictObject({
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageMax),
    /** The comment after which to go on. */
    after: idSchema('policyComment').optional(),
  }),
  output: z.object({
    items: z.array(policyComment),
    nextAfter: idSchema('policyComment').nullable(),
  }),
});

export const createPolicyComment = operation('policy', 'policies.create-comment', {
  method: 'POST',
  path: '/v1/policies/{id}/versions/{version}/comments',
  summary: 'Say something about a version',
  tag: 'Policies',
  permission: 'policies.read',
  params: versionParams,
  body: z.strictObject({
    text: z.string().trim().min(1).max(limits.policyCommentMaxLength),
  }),
  output: policyComment,
});

export const validatePolicy = operation('policy', 'policies.validate', {
  method: 'POST',
  path: '/v1/policies/validate',
  summary: 'Say what is wrong with a policy, where, and what was probably meant',
  tag: 'Policies',
  permission: 'policies.read',
  body: z.strictObject({ source: policySource }),
  output: z.object({ valid: z.boolean(), problems: z.array(policyProblem) }),
  status: 200,
});

export const policyTemplate = z.object({
  name: z.string(),
  title: z.string(),
  description: z.string(),
  level: policyLevel,
  source: z.object({ format: z.enum(['cedar', 'document']), text: z.string() }),
});

export const listPolicyTemplates = operation('policy', 'policy-templates.list', {
  method: 'GET',
  path: '/v1/policy-templates',
  summary: 'List policies for common needs, ready to be changed',
  tag: 'Policies',
  permission: 'policies.read',
  output: z.object({ items: z.array(policyTemplate) }),
});

// Policies as files

export const policyFile = z.strictObject({
  name,
  description: description.default(''),
  level: policyLevel.default('vault'),
  namespace: namespaceName.nullable().default(null),
  fourEyes: z.boolean().default(false),
  source: policySource,
});

export const exportPolicies = operation('policy', 'policy-files.export', {
  method: 'GET',
  path: '/v1/policy-files',
  summary: 'Export policies as files, the published version of each or else its newest',
  tag: 'Policies',
  permission: 'policies.read',
  query: z.strictObject({
    limit: wholeNumberText(1, limits.policyFilesPerApply).default(limits.pageDefault),
    /** The name after which to go on. */
    after: z.string().max(limits.nameMaxLength).optional(),
  }),
  output: z.object({ files: z.array(policyFile), nextAfter: z.string().nullable() }),
});

export const applyPolicies = operation('policy', 'policy-files.apply', {
  method: 'POST',
  path: '/v1/policy-files/apply',
  summary: 'Make the policies like these files, by name; the same files again change nothing',
  tag: 'Policies',
  permission: 'policies.write',
  body: z
    .strictObject({
      files: z.array(policyFile).max(limits.policyFilesPerApply),
      /** `plan`: say what would be done. */
      mode: z.enum(['plan', 'apply']).default('plan'),
      /** Delete policies that neither a file nor `keep` names and no set holds. */
      prune: z.boolean().default(false),
      /** Names of files that other calls bring: those stay. */
      keep: z.array(name).max(limits.policiesPerOrganization).default([]),
    })
    .refine(({ files, keep, prune }) => files.length > 0 || (prune && keep.length > 0), {
      path: ['files'],
      message: 'needs a file, unless it prunes all but those to keep',
    }),
  output: z.object({
    applied: z.boolean(),
    /** Of all steps, also those that are not listed. */
    counts: z.object({
      create: z.number().int(),
      update: z.number().int(),
      unchanged: z.number().int(),
      delete: z.number().int(),
      keep: z.number().int(),
    }),
    /** Steps that change nothing, then others, or problems are left out: one answer carries no more. */
    truncated: z.boolean(),
    steps: z.array(
      z.object({
        action: z.enum(['create', 'update', 'unchanged', 'delete', 'keep']),
        name: z.string(),
        policyId: idSchema('policy').nullable(),
        version: z.number().int().nullable(),
        detail: z.string(),
        problems: z.array(policyProblem),
      }),
    ),
  }),
  status: 200,
});

// Deciding before it ships

/** A request as an agent would put it to the engine. */
export const policyRequest = z.strictObject({
  principal: z.strictObject({
    type: z.enum(['user', 'api_key', 'jwt', 'certificate']),
    id: z.string().min(1).max(200),
    name: z.string().max(200).optional(),
    roles: z.array(z.string().min(1).max(64)).max(50).default([]),
    attributes: z.record(z.string().max(64), z.string().max(500)).default({}),
  }),
  action: z.string().min(1).max(64),
  resource: z.strictObject({
    vault: z.string().max(limits.nameMaxLength).default('vault'),
    namespace: z.string().max(limits.nameMaxLength).optional(),
    secret: z.string().max(255).optional(),
    tags: z.array(z.string().max(64)).max(32).default([]),
    metadata: z.record(z.string().max(64), z.string().max(500)).default({}),
  }),
  context: z
    .strictObject({
      time: instant.optional(),
      address: z.string().max(64).optional(),
      authenticationMethod: z.string().max(32).optional(),
      authenticationAgeSeconds: z.number().int().min(0).max(31_536_000).optional(),
      tls: z.boolean().optional(),
      headers: z.record(z.string().max(64), z.string().max(500)).default({}),
      useCount: z.number().int().min(0).max(1_000_000_000).default(0),
    })
    .default({ headers: {}, useCount: 0 }),
});
export type PolicyRequest = z.infer<typeof policyRequest>;

/** What is asked: a set as it is published, one of its versions, or drafts laid over it. */
export const policySubject = {
  policySetId: idSchema('policySet').optional(),
  /** Instead of the published ones of the same policies, or beside them. */
  drafts: z
    .array(z.strictObject({ policyId: idSchema('policy'), version }))
    .max(50)
    .default([]),
};

export const policyDecision = z.object({
  decision: z.enum(['allow', 'deny']),
  /** Policies that decided. */
  decidedBy: z.array(z.string()),
  reason: z.string(),
  obligations: z.array(z.record(z.string(), z.unknown())),
  errors: z.array(z.string()),
});

export const explainPolicies = operation('policy', 'policies.explain', {
  method: 'POST',
  path: '/v1/policies/explain',
  summary: 'Decide one request and say which policies decided, and why',
  tag: 'Policies',
  permission: 'policies.read',
  body: z.strictObject({ ...policySubject, request: policyRequest }),
  output: z.object({
    decision: policyDecision,
    /** Every policy that was looked at, and what became of it. */
    explanation: z.array(z.record(z.string(), z.unknown())),
  }),
  status: 200,
});

export const simulatePolicies = operation('policy', 'policies.simulate', {
  method: 'POST',
  path: '/v1/policies/simulate',
  summary: 'Decide a table of requests with and without drafts, and count what changes',
  tag: 'Policies',
  permission: 'policies.read',
  body: z.strictObject({
    ...policySubject,
    requests: z.array(policyRequest).min(1).max(limits.policyRequestsPerSimulation),
  }),
  output: z.object({
    requests: z.number().int(),
    allowed: z.number().int(),
    denied: z.number().int(),
    newlyAllowed: z.number().int(),
    newlyDenied: z.number().int(),
    differences: z.array(
      z.object({
        index: z.number().int(),
        before: z.enum(['allow', 'deny']),
        after: z.enum(['allow', 'deny']),
        decidedBy: z.array(z.string()),
      }),
    ),
    /** There are more differences than one answer carries. */
    truncated: z.boolean(),
  }),
  status: 200,
});

// Policy sets

const networks = z.record(
  z.string().regex(/^[a-z0-9][a-z0-9-]{0,63}$/, 'must be lower case letters, digits and -'),
  z.array(z.string().min(1).max(64)).min(1).max(200),
);
export const policySetSettings = z.strictObject({
  /** Named networks for conditions on addresses. */
  networks: networks
    .refine((named) => Object.keys(named).length <= 100, 'has at most 100 networks')
    .default({}),
  /** What holds at a level when none of its policies applies; `permit` for guardrails. */
  otherwise: z
    .strictObject({
      organization: z.enum(['deny', 'permit']).default('permit'),
      vault: z.enum(['deny', 'permit']).default('deny'),
      namespace: z.enum(['deny', 'permit']).default('deny'),
    })
    .default({ organization: 'permit', vault: 'deny', namespace: 'deny' }),
  staleness: staleness.nullable().default(null),
  configuration: agentConfiguration.default({}),
});
export type PolicySetSettings = z.infer<typeof policySetSettings>;
const policyIds = z
  .array(idSchema('policy'))
  .min(1)
  .max(limits.policiesPerSet)
  .refine((ids) => new Set(ids).size === ids.length, 'must not name a policy twice');

export const policySet = z.object({
  id: idSchema('policySet'),
  name: z.string(),
  description: z.string(),
  policyIds: z.array(idSchema('policy')),
  settings: policySetSettings,
  /** The newest signed version; null before the first. */
  latestNumber: z.number().int().nullable(),
  createdAt: instant,
  updatedAt: instant,
  etag: z.string(),
});
const setParams = z.strictObject({ id: idSchema('policySet') });
const setSorts = ['name', 'createdAt', 'updatedAt'] as const;

export const listPolicySets = operation('policy', 'policy-sets.list', {
  method: 'GET',
  path: '/v1/policy-sets',
  summary: 'List policy sets',
  tag: 'Policy sets',
  permission: 'policies.read',
  sorts: setSorts,
  query: listQuery(setSorts, {}),
  output: page(policySet),
});

export const showPolicySet = operation('policy', 'policy-sets.show', {
  method: 'GET',
  path: '/v1/policy-sets/{id}',
  summary: 'Show a policy set',
  tag: 'Policy sets',
  permission: 'policies.read',
  params: setParams,
  output: policySet.extend({
    /** The newest replay of the set or of drafts laid over it; null before the first. */
    replay: policyReplaySummary.nullable(),
  }),
});

export const createPolicySet = operation('policy', 'policy-sets.create', {
  method: 'POST',
  path: '/v1/policy-sets',
  summary: 'Choose the policies that vaults hold together',
  tag: 'Policy sets',
  permission: 'policies.write',
  body: z.strictObject({
    name,
    description: description.default(''),
    policyIds,
    settings: policySetSettings.default({
      networks: {},
      otherwise: { organization: 'permit', vault: 'deny', namespace: 'deny' },
      staleness: null,
      configuration: {},
    }),
  }),
  output: policySet,
});

export const updatePolicySet = operation('policy', 'policy-sets.update', {
  method: 'PATCH',
  path: '/v1/policy-sets/{id}',
  summary: 'Change the choice; what agents hold changes with the next version that is rolled out',
  tag: 'Policy sets',
  permission: 'policies.write',
  params: setParams,
  body: z
    .strictObject({ name, description, policyIds, settings: policySetSettings })
    .partial()
    .refine((body) => Object.keys(body).length > 0, 'name at least one field'),
  output: policySet,
});

export const deletePolicySet = operation('policy', 'policy-sets.delete', {
  method: 'DELETE',
  path: '/v1/policy-sets/{id}',
  summary: 'Delete a policy set that no vault is assigned',
  tag: 'Policy sets',
  permission: 'policies.write',
  params: setParams,
  output: z.null(),
  status: 204,
});

export const policySetVersion = z.object({
  policySetId: idSchema('policySet'),
  /** Counts the sets of the organization; an agent never goes back to a smaller one. */
  number: z.number().int(),
  digest,
  /** Of the number before this one; empty for the first. */
  predecessorDigest: z.string(),
  bytes: z.number().int(),
  note: z.string(),
  createdBy: z.string(),
  createdAt: instant,
});

export const createPolicySetVersion = operation('policy', 'policy-sets.create-version', {
  method: 'POST',
  path: '/v1/policy-sets/{id}/versions',
  summary: 'Put the published policies of a set together, number and sign them',
  tag: 'Policy sets',
  permission: 'policies.publish',
  params: setParams,
  body: z.strictObject({ note: note.default('') }),
  output: policySetVersion,
});

export const listPolicySetVersions = operation('policy', 'policy-sets.list-versions', {
  method: 'GET',
  path: '/v1/policy-sets/{id}/versions',
  summary: 'List the signed versions of a set, newest first',
  tag: 'Policy sets',
  permission: 'policies.read',
  params: setParams,
  query: z.strictObject({
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageDefault),
    before: versionParam.optional(),
  }),
  output: z.object({
    items: z.array(policySetVersion),
    nextBefore: z.number().int().nullable(),
  }),
});

export const policySetConflicts = operation('policy', 'policy-sets.conflicts', {
  method: 'GET',
  path: '/v1/policy-sets/{id}/conflicts',
  summary: 'Report policies that overlap, contradict or shadow each other, or never match',
  tag: 'Policy sets',
  permission: 'policies.read',
  params: setParams,
  output: z.object({
    conflicts: z.array(
      z.object({
        kind: z.enum(['never_matching', 'shadowed', 'contradictory', 'overlapping']),
        /** The one it is about, then the other, as explanations call them. */
        policyIds: z.array(z.string()),
        /** The same, as people call them; null where a policy is none of the set's. */
        policies: z.array(
          z.object({
            policyId: idSchema('policy').nullable(),
            version: z.number().int().nullable(),
            name: z.string().nullable(),
          }),
        ),
        what: z.string(),
      }),
    ),
    /** More were found than are listed. */
    truncated: z.boolean(),
  }),
});

// What vaults are assigned

export const policySetAssignment = z.object({
  vaultId: idSchema('vault'),
  /** Number of the set; an agent never goes back to a smaller one. null: none is assigned. */
  version: z.number().int().nullable(),
  policySetId: idSchema('policySet').nullable(),
  digest: digest.nullable(),
  assignedAt: instant.nullable(),
  agents: z.object({
    total: z.number().int(),
    /** Hold the assigned number, by their own word. */
    current: z.number().int(),
    behind: z.number().int(),
    unreported: z.number().int(),
  }),
  etag: z.string(),
});
const vaultParams = z.strictObject({ id: idSchema('vault') });

export const getPolicySet = operation('policy', 'policy-sets.get', {
  method: 'GET',
  path: '/v1/vaults/{id}/policy-set',
  summary: 'Show the policy set assigned to a vault and how far its agents are',
  tag: 'Policies',
  permission: 'policies.read',
  params: vaultParams,
  output: policySetAssignment,
});

export const assignPolicySet = operation('policy', 'policy-sets.assign', {
  method: 'PUT',
  path: '/v1/vaults/{id}/policy-set',
  summary: 'Assign a signed version of a policy set to one vault; its number may only grow',
  tag: 'Policies',
  permission: 'rollouts.write',
  params: vaultParams,
  body: z.strictObject({ version }),
  output: policySetAssignment,
});

export const effectivePolicies = operation('policy', 'policies.effective', {
  method: 'GET',
  path: '/v1/vaults/{id}/effective-policies',
  summary: 'Show the policies that hold for a vault, one of its namespaces or one secret, by level',
  tag: 'Policies',
  permission: 'policies.read',
  params: vaultParams,
  query: z.strictObject({
    namespace: namespaceName.optional(),
    /** Of the namespace: what can apply to it at all, whoever asks and whatever is to be done. */
    secret: z.string().min(1).max(255).optional(),
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageMax),
    /** The place after which to go on. */
    after: wholeNumberText(0, 1_000_000).default(0),
  }),
  output: z.object({
    vaultId: idSchema('vault'),
    number: z.number().int().nullable(),
    digest: digest.nullable(),
    staleness: staleness.nullable(),
    configuration: agentConfiguration,
    levels: z.array(
      z.object({
        level: policyLevel,
        namespace: z.string().nullable(),
        otherwise: z.enum(['deny', 'permit']),
        policies: z.array(
          z.object({
            policyId: idSchema('policy').nullable(),
            /** As it is called now; null where it is not known any more. */
            name: z.string().nullable(),
            version: z.number().int().nullable(),
            source: z.object({ format: z.enum(['cedar', 'document']), text: z.string() }),
          }),
        ),
      }),
    ),
    /** How many there are on all pages. */
    total: z.number().int(),
    /** Hand it back as `after`; null on the last page. */
    nextAfter: z.number().int().nullable(),
  }),
});

// How far agents are

export const agentPolicyStates = ['pending', 'delivered', 'active', 'rejected', 'drifted'] as const;
export const agentPolicyState = z.enum(agentPolicyStates);

export const agentPolicy = z.object({
  agentId: idSchema('agent'),
  vaultId: idSchema('vault'),
  /** null: nothing is assigned to its vault. */
  state: agentPolicyState.nullable(),
  assigned: z.object({ number: z.number().int(), digest: z.string() }).nullable(),
  held: z.object({ number: z.number().int(), digest: z.string() }).nullable(),
  /** Why it was rejected. */
  reason: z.string().nullable(),
  deliveredAt: instant.nullable(),
  activeAt: instant.nullable(),
  staleSince: instant.nullable(),
  decisions: z.object({
    allowed: z.number().int(),
    denied: z.number().int(),
    newlyDenied: z.number().int(),
    errors: z.number().int(),
  }),
});

export const getAgentPolicy = operation('policy', 'agent-policies.get', {
  method: 'GET',
  path: '/v1/agents/{id}/policy',
  summary: 'Show which policy set an agent holds, and which it should hold',
  tag: 'Agents',
  permission: 'policies.read',
  params: z.strictObject({ id: idSchema('agent') }),
  output: agentPolicy,
});

// Rollouts

export const rolloutStates = [
  'awaiting_approval',
  'running',
  'paused',
  'halted',
  'stopped',
  'completed',
  'rolled_back',
] as const;

const rolloutStage = z.strictObject({
  /** Vaults by name, by share of all that are aimed at (canaries first), or everything that is left. */
  vaults: z.discriminatedUnion('kind', [
    z.strictObject({
      kind: z.literal('named'),
      vaultIds: z.array(idSchema('vault')).min(1).max(limits.rolloutVaultsNamed),
    }),
    z.strictObject({ kind: z.literal('percent'), percent: z.number().min(0.01).max(100) }),
    z.strictObject({ kind: z.literal('all') }),
  ]),
  /** How long the stage is watched, once its agents hold the set, before the next one begins. */
  watchSeconds: z
    .number()
    .int()
    .min(0)
    .max(30 * 24 * 3_600)
    .default(300),
  /** `wait`: somebody resumes by hand. */
  afterwards: z.enum(['continue', 'wait']).default('continue'),
});
export type RolloutStage = z.infer<typeof rolloutStage>;

export const rolloutHalt = z.strictObject({
  /** Agents that reject the set. */
  rejectedAgents: z.number().int().min(1).max(100_000).default(1),
  /** Evaluations that failed under it. */
  evaluationErrors: z.number().int().min(1).max(1_000_000_000).default(1),
  /** Denials that the set before it would not have made; null: however many. */
  newDenials: z.number().int().min(1).max(1_000_000_000).nullable().default(null),
  /**
   * Denials that agents found in a replay of what this set says: above it a rollout does not begin, and
   * one that runs halts. It needs such a replay.
   */
  stopAboveNewDenials: replayThreshold.nullable().default(null),
  /**
   * How long an agent that is heard may leave the set unanswered, counted from the begin of the stage,
   * from when it was told, or from when it came back, whatever is last; null: for ever. Halted for that,
   * it goes on by itself when they answer, and without them when somebody resumes it.
   */
  answerWithinSeconds: z
    .number()
    .int()
    .min(limits.rolloutAnswerMinSeconds)
    .max(limits.rolloutAnswerMaxSeconds)
    .nullable()
    .default(limits.rolloutAnswerDefaultSeconds),
});
export type RolloutHalt = z.infer<typeof rolloutHalt>;

export const rolloutTarget = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('all') }),
  z.strictObject({ kind: z.literal('tag'), tag }),
  z.strictObject({
    kind: z.literal('vaults'),
    vaultIds: z.array(idSchema('vault')).min(1).max(limits.rolloutVaultsNamed),
  }),
]);

export const rollout = z.object({
  id: idSchema('rollout'),
  policySetId: idSchema('policySet'),
  number: z.number().int(),
  state: z.enum(rolloutStates),
  /** Why it halted, or who stopped it. */
  reason: z.string().nullable(),
  /** The stage whose vaults were assigned last, from 0. */
  stage: z.number().int(),
  stages: z.array(rolloutStage),
  halt: rolloutHalt,
  vaultCount: z.number().int(),
  /** Agents of the vaults that were assigned so far; of a rollout that has ended, as they were then. */
  agents: z.object({
    total: z.number().int(),
    pending: z.number().int(),
    delivered: z.number().int(),
    active: z.number().int(),
    rejected: z.number().int(),
    drifted: z.number().int(),
  }),
  decisions: z.object({ newlyDenied: z.number().int(), errors: z.number().int() }),
  /** The newest replay of what the set says, where the rollout stops by it. */
  replay: policyReplaySummary.nullable(),
  createdBy: z.string(),
  /** The second person, where the organization asked for four eyes. */
  approvedBy: person.nullable(),
  approvedAt: instant.nullable(),
  createdAt: instant,
  stageStartedAt: instant,
  finishedAt: instant.nullable(),
  etag: z.string(),
});
const rolloutParams = z.strictObject({ id: idSchema('rollout') });
const rolloutSorts = ['createdAt'] as const;

export const listRollouts = operation('policy', 'rollouts.list', {
  method: 'GET',
  path: '/v1/rollouts',
  summary: 'List rollouts',
  tag: 'Rollouts',
  permission: 'rollouts.read',
  sorts: rolloutSorts,
  query: listQuery(
    rolloutSorts,
    {
      state: commaList(z.enum(rolloutStates)).optional(),
      policySetId: idSchema('policySet').optional(),
    },
    '-createdAt',
  ),
  output: page(rollout),
});

export const getRollout = operation('policy', 'rollouts.get', {
  method: 'GET',
  path: '/v1/rollouts/{id}',
  summary: 'Show how far a rollout is',
  tag: 'Rollouts',
  permission: 'rollouts.read',
  params: rolloutParams,
  output: rollout,
});

export const createRollout = operation('policy', 'rollouts.create', {
  method: 'POST',
  path: '/v1/rollouts',
  summary:
    'Roll a signed version of a policy set out to vaults, in stages; it may need an approval',
  tag: 'Rollouts',
  permission: 'rollouts.write',
  body: z.strictObject({
    policySetId: idSchema('policySet'),
    /** Default: the newest. */
    number: version.optional(),
    target: rolloutTarget,
    stages: z
      .array(rolloutStage)
      .min(1)
      .max(limits.rolloutStagesMax)
      .default([{ vaults: { kind: 'all' }, watchSeconds: 300, afterwards: 'continue' }]),
    halt: rolloutHalt.default({
      rejectedAgents: 1,
      evaluationErrors: 1,
      newDenials: null,
      stopAboveNewDenials: null,
      answerWithinSeconds: limits.rolloutAnswerDefaultSeconds,
    }),
  }),
  output: rollout,
});

const step = (
  verb: string,
  summary: string,
  permission: 'rollouts.write' | 'rollouts.approve' = 'rollouts.write',
) =>
  operation('policy', `rollouts.${verb}`, {
    method: 'POST',
    path: `/v1/rollouts/{id}/${verb}`,
    summary,
    tag: 'Rollouts',
    permission,
    params: rolloutParams,
    output: rollout,
    status: 200,
  });
export const approveRollout = step(
  'approve',
  'Begin a rollout that waits for a second person, as somebody else than who asked for it',
  'rollouts.approve',
);
export const pauseRollout = step('pause', 'Assign no further vaults for now');
export const resumeRollout = step(
  'resume',
  'Go on, also after a halt; counts begin anew with the stage',
);
export const stopRollout = step('stop', 'End it here: what is assigned stays');
export const rollbackRollout = step(
  'rollback',
  'End it and give the vaults that were assigned what they held before, as a new number',
);

export const rolloutAgent = z.object({
  agentId: idSchema('agent'),
  agentName: z.string(),
  vaultId: idSchema('vault'),
  stage: z.number().int(),
  state: agentPolicyState,
  reason: z.string().nullable(),
  heldNumber: z.number().int().nullable(),
});
export const listRolloutAgents = operation('policy', 'rollouts.agents', {
  method: 'GET',
  path: '/v1/rollouts/{id}/agents',
  summary: 'List the agents of the vaults of a rollout, and how far each is',
  tag: 'Rollouts',
  permission: 'rollouts.read',
  params: rolloutParams,
  query: z.strictObject({
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageDefault),
    state: commaList(agentPolicyState).optional(),
    /** The agent after which to go on. */
    after: idSchema('agent').optional(),
  }),
  output: z.object({
    items: z.array(rolloutAgent),
    nextAfter: idSchema('agent').nullable(),
  }),
});
