/** The agent's audit: who did what, on what, when, from where, with what result. Never a value. */
import { z } from 'zod';
import { agentActions } from './actions.ts';
import { instant, listQuery, page } from './fields.ts';
import { agentOperation } from './operation.ts';

export const auditResults = [
  'started',
  'done',
  'denied',
  'refused',
  'throttled',
  'failed',
] as const;

const auditedActions = [...agentActions, 'authenticate'] as const;

export const auditEntry = z.object({
  /** Position in the chain, from 1. */
  sequence: z.number().int(),
  at: instant,
  requestId: z.string(),
  identity: z.object({ kind: z.string(), id: z.string(), name: z.string() }),
  /** Empty for the agent's own work. */
  address: z.string(),
  action: z.string(),
  operation: z.string(),
  namespace: z.string().nullable(),
  secret: z.string().nullable(),
  /** What else it was about, e.g. `backup:bkp_…`. */
  other: z.string().nullable(),
  /** A change has an entry `started` before it is made, and `outcome` after. */
  phase: z.enum(['started', 'outcome']),
  result: z.enum(auditResults),
  /** The code of the error, where there was one. */
  code: z.string().nullable(),
  /** Roles and policies that decided. */
  decidedBy: z.array(z.string()),
  context: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  hash: z.string(),
});
export type AuditEntry = z.output<typeof auditEntry>;

const filter = z.string().min(1).max(512);

export const auditFilters = {
  /** From this instant on, and before that one. */
  from: instant.optional(),
  to: instant.optional(),
  /** Id or name. */
  identity: filter.optional(),
  action: z.enum(auditedActions).optional(),
  operation: filter.optional(),
  namespace: filter.optional(),
  secret: filter.optional(),
  result: z.enum(auditResults).optional(),
  requestId: filter.optional(),
  address: filter.optional(),
};

/** The agent's own, and that of the commands of its machine beside it; each is a chain by itself. */
export const auditLogs = ['agent', 'commands'] as const;
const log = z.enum(auditLogs).default('agent');

export const auditHead = z.object({
  /** 16 bytes in hexadecimal digits; the same as long as the chain is. */
  chain: z.string().regex(/^[0-9a-f]{32}$/, 'must be 32 hexadecimal digits'),
  /** The entry up to which it covers the chain. */
  sequence: z.number().int().min(0),
  /** Its hash. */
  hash: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 hexadecimal digits'),
  at: instant,
  /** Base64; over the bytes that the documentation of the audit names. */
  signature: z.string().max(200),
  /** SubjectPublicKeyInfo in base64. */
  signerKey: z.string().max(300),
});
export type AuditHeadView = z.output<typeof auditHead>;

/** What somebody kept of a head: enough to find a log that was rewritten before it. */
export const trustedHead = z.strictObject({
  chain: auditHead.shape.chain,
  sequence: auditHead.shape.sequence,
  hash: auditHead.shape.hash,
});
export type TrustedHead = z.output<typeof trustedHead>;

export const auditProblemKinds = [
  'unreadable',
  'not_an_entry',
  'wrong_sequence',
  'wrong_hash',
  'wrong_head',
  'missing_entries',
  'wrong_retirement',
  'other_chain',
  'other_signer',
  'damaged_file',
] as const;

export const auditVerification = z.object({
  ok: z.boolean(),
  /** Null where there is no log at all. */
  chain: z.string().nullable(),
  files: z.number().int(),
  entries: z.number().int(),
  firstSequence: z.number().int(),
  lastSequence: z.number().int(),
  lastHash: z.string(),
  /** Signed heads in the log that hold, and the entry up to which the last one covers it. */
  heads: z.number().int(),
  signedThrough: z.number().int(),
  /** Heads from outside that the log agrees with; those of retired entries cannot be compared. */
  trustedHeads: z.object({
    given: z.number().int(),
    confirmed: z.number().int(),
    retired: z.number().int(),
  }),
  /** Crashes whose unfinished line was cut off, and the bytes of one that is at the end now. */
  mended: z.number().int(),
  tornBytes: z.number().int(),
  /** The first entry that is wrong. */
  problem: z
    .object({
      kind: z.enum(auditProblemKinds),
      sequence: z.number().int(),
      file: z.string(),
      /** From 1; 0 where it is about the whole file. */
      line: z.number().int(),
      message: z.string(),
    })
    .nullable(),
});
export type AuditVerification = z.output<typeof auditVerification>;

export const listAudit = agentOperation('audit.list', {
  method: 'GET',
  path: '/v1/audit',
  summary: 'What was done, newest first',
  tag: 'Audit',
  action: 'audit.read',
  query: listQuery({ ...auditFilters, log }),
  output: page(auditEntry),
  narrows: true,
});

export const listAuditHeads = agentOperation('audit.list-heads', {
  method: 'GET',
  path: '/v1/audit/heads',
  summary: 'Signed heads of the chain, newest first: keep one elsewhere to find a rewritten log',
  tag: 'Audit',
  action: 'audit.read',
  query: listQuery({ log }),
  output: page(auditHead),
});

export const verifyAuditChain = agentOperation('audit.verify', {
  method: 'POST',
  path: '/v1/audit/verify',
  summary: 'Verify the chain, and that it agrees with heads that were kept elsewhere',
  tag: 'Audit',
  action: 'audit.verify',
  effect: 'read',
  status: 200,
  body: z.strictObject({ trustedHeads: z.array(trustedHead).max(1_000).default([]), log }),
  output: auditVerification,
});

export const auditOperations = [listAudit, listAuditHeads, verifyAuditChain];
