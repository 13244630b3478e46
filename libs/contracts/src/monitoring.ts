/** Liveness, outages, alerts, and the rules that shape them. */
import { z } from 'zod';
import {
  commaList,
  instant,
  listQuery,
  name,
  offlineAfterSeconds,
  page,
  tag,
  tags,
} from './fields.ts';
import { idSchema } from './ids.ts';
import { limits } from './limits.ts';
import { operation } from './operation.ts';
import { wholeNumberText } from './whole-number-text.ts';

/** What people are told. The same names are the `type` of a webhook. */
export const alertKinds = [
  'vault.offline',
  'vault.degraded',
  'vault.recovered',
  'vault.stopped',
  'agent.duplicated',
  'agent.rotation_due',
  'agent.rotation_failed',
  'agent.backup_failed',
  'agent.audit_blocked',
  'agent.audit_rewritten',
  'agent.impaired',
  'agent.override',
  'agent.security',
  'policy.rejected',
  'policy.drifted',
  'policy.stale',
  'policy.halted',
  'policy.awaiting_approval',
  'approval.requested',
] as const;
export const alertKind = z.enum(alertKinds);
export type AlertKind = z.infer<typeof alertKind>;

export const severities = ['info', 'warning', 'critical'] as const;
export const severity = z.enum(severities);
export type Severity = z.infer<typeof severity>;

export const severityOf: Record<AlertKind, Severity> = {
  'vault.offline': 'critical',
  'vault.degraded': 'warning',
  'vault.recovered': 'info',
  'vault.stopped': 'info',
  'agent.duplicated': 'critical',
  'agent.rotation_due': 'info',
  'agent.rotation_failed': 'warning',
  'agent.backup_failed': 'warning',
  'agent.audit_blocked': 'critical',
  'agent.audit_rewritten': 'critical',
  'agent.impaired': 'warning',
  'agent.override': 'critical',
  'agent.security': 'warning',
  'policy.rejected': 'warning',
  'policy.drifted': 'warning',
  'policy.stale': 'warning',
  'policy.halted': 'critical',
  'policy.awaiting_approval': 'warning',
  'approval.requested': 'warning',
};

/** What agents report themselves, or what follows from their reports. */
export const reportedAlertKinds = [
  'agent.rotation_due',
  'agent.rotation_failed',
  'agent.backup_failed',
  'agent.audit_blocked',
  'agent.audit_rewritten',
  'agent.impaired',
  'agent.override',
  'agent.security',
  'policy.rejected',
  'policy.drifted',
  'policy.stale',
  'policy.halted',
  'policy.awaiting_approval',
  'approval.requested',
] as const satisfies readonly AlertKind[];
export type ReportedAlertKind = (typeof reportedAlertKinds)[number];

/** Why such an alert is raised, in words that follow an agent's name. */
const reasonWords: Record<string, string> = {
  rotation_due: 'a secret is to be rotated soon',
  rotation_gave_up: 'the last attempt to rotate a secret failed; its old value works on',
  backup_gave_up: 'the last attempt of a backup failed',
  restore_gave_up: 'a restore failed',
  verify_gave_up: 'a backup could not be verified',
  drill_gave_up: 'a restore drill failed',
  audit_blocked: 'the audit cannot be written, so that operations are refused',
  audit_broken: 'the local audit does not verify',
  signature_invalid: 'an audit head is signed wrongly',
  other_hash: 'the audit says something else than before about the same entry',
  went_back: 'the audit has become shorter than it was',
  chain_replaced: 'the audit was begun anew beside the one that was known',
  store_unavailable: 'the store of secrets cannot be reached',
  key_unavailable: 'the provider of the master key does not answer',
  restore_forced: 'an older backup was restored over a newer store',
  emergency_override: 'the owner overrode the policies with the master key',
  guessing: 'somebody is guessing credentials',
  identity_locked: 'an identity was locked',
  many_denials: 'one identity was denied unusually often',
  bulk_reading: 'one identity reads unusually many secrets',
  unusual_hour: 'an identity is active at an unusual hour',
  new_network: 'an identity came from a network that it never used',
  rejected_signature: 'a policy set is not signed by the organization',
  rejected_organization: "a policy set is another organization's",
  rejected_number: 'a policy set is older than the one that is held',
  rejected_predecessor: 'a policy set does not follow the one that is held',
  rejected_digest: 'a policy set arrived changed',
  rejected_form: 'a policy set has a form that the agent does not know',
  rejected_policy: 'a policy in the set is not valid for this agent',
  rejected_too_large: 'a policy set is larger than the agent takes',
  rejected_store: 'a policy set could not be kept',
  drifted: 'the policy set that is held is not the one that was made active',
  rolled_back: 'an older policy set was put in the place of the one that was made active',
  rejected_configuration: 'a policy set brings a configuration that the agent cannot take over',
  stale: 'the policy set may be out of date: nothing was heard for longer than it allows',
  halted_rejections: 'a rollout halted because agents reject the set',
  halted_errors: 'a rollout halted because evaluations fail',
  halted_denials: 'a rollout halted because too much is newly denied',
  halted_unanswered: 'a rollout halted because agents that are heard do not answer',
  halted_replay: 'a rollout halted because a replay found too much newly denied',
  policy_alert: 'a policy asks that people are told',
};

export function wordsOfReason(reason: string): string {
  const [, approvalId] = /^approval:(apr_[0-9a-z]{26})$/.exec(reason) ?? [];
  if (approvalId !== undefined) return `somebody waits for the approval ${approvalId}`;
  const [, rolloutId] = /^rollout:(rol_[0-9a-z]{26})$/.exec(reason) ?? [];
  if (rolloutId !== undefined) return `the rollout ${rolloutId} waits for a second person`;
  return reasonWords[reason] ?? reason.replaceAll('_', ' ');
}

const agentReference = z.object({ id: idSchema('agent'), name: z.string() });
const vaultReference = z.object({ id: idSchema('vault'), name: z.string() });

export const outage = z.object({
  id: idSchema('outage'),
  agent: agentReference,
  vault: vaultReference,
  status: z.enum(['open', 'closed']),
  /** The last heartbeat before the silence, by the clock of the database. */
  silentSince: instant,
  /** When the silence was judged an outage. */
  openedAt: instant,
  closedAt: instant.nullable(),
  /** What ended it: the agent came back, or it was revoked or deleted. */
  closedBy: z.enum(['heartbeat', 'revocation', 'deletion']).nullable(),
  /** From the last heartbeat to the next, or until now. */
  lengthSeconds: z.number(),
});

const outageSorts = ['openedAt', 'silentSince', 'closedAt', 'agent', 'vault'] as const;
export const listOutages = operation('monitoring', 'outages.list', {
  method: 'GET',
  path: '/v1/outages',
  summary: 'List outages, one for each silence of an agent',
  tag: 'Outages',
  permission: 'outages.read',
  sorts: outageSorts,
  query: listQuery(
    outageSorts,
    {
      status: z.enum(['open', 'closed']).optional(),
      agentId: idSchema('agent').optional(),
      vaultId: idSchema('vault').optional(),
      since: instant.optional(),
      until: instant.optional(),
    },
    '-openedAt',
  ),
  output: page(outage),
});

export const getOutage = operation('monitoring', 'outages.get', {
  method: 'GET',
  path: '/v1/outages/{id}',
  summary: 'Show an outage',
  tag: 'Outages',
  permission: 'outages.read',
  params: z.strictObject({ id: idSchema('outage') }),
  output: outage,
});

export const alert = z.object({
  id: idSchema('alert'),
  kind: alertKind,
  severity,
  status: z.enum(['open', 'acknowledged', 'resolved']),
  vault: vaultReference,
  /** The agents it is about, at most 50 of them. */
  agents: z.array(agentReference),
  agentCount: z.number().int(),
  /** For what agents report: which of it, e.g. `guessing`. */
  reasons: z.array(z.string()),
  summary: z.string(),
  openedAt: instant,
  resolvedAt: instant.nullable(),
  acknowledgedAt: instant.nullable(),
  acknowledgedBy: z.string().nullable(),
  mutedUntil: instant.nullable(),
  /** From the third outage within an hour: told once, recovered only after a calm while. */
  flapping: z.boolean(),
  /** For a recovery: the alert it ends, and how long that lasted. */
  resolves: idSchema('alert').nullable(),
  outageSeconds: z.number().nullable(),
  etag: z.string(),
});
const alertParams = z.strictObject({ id: idSchema('alert') });
const alertSorts = [
  'openedAt',
  'resolvedAt',
  'acknowledgedAt',
  'severity',
  'kind',
  'status',
  'agentCount',
  'vault',
] as const;

export const listAlerts = operation('monitoring', 'alerts.list', {
  method: 'GET',
  path: '/v1/alerts',
  summary: 'List alerts',
  tag: 'Alerts',
  permission: 'alerts.read',
  sorts: alertSorts,
  query: listQuery(
    alertSorts,
    {
      status: commaList(z.enum(['open', 'acknowledged', 'resolved'])).optional(),
      kind: commaList(alertKind).optional(),
      severity: commaList(severity).optional(),
      vaultId: idSchema('vault').optional(),
      since: instant.optional(),
      until: instant.optional(),
    },
    '-openedAt',
  ),
  output: page(alert),
});

export const getAlert = operation('monitoring', 'alerts.get', {
  method: 'GET',
  path: '/v1/alerts/{id}',
  summary: 'Show an alert',
  tag: 'Alerts',
  permission: 'alerts.read',
  params: alertParams,
  output: alert,
});

export const acknowledgeAlert = operation('monitoring', 'alerts.acknowledge', {
  method: 'POST',
  path: '/v1/alerts/{id}/acknowledge',
  summary: 'Say that somebody is on it',
  tag: 'Alerts',
  permission: 'alerts.write',
  params: alertParams,
  output: alert,
  status: 200,
});

export const muteAlert = operation('monitoring', 'alerts.mute', {
  method: 'POST',
  path: '/v1/alerts/{id}/mute',
  summary: 'Send nothing more about the vault of this alert for a time; 0 ends it',
  tag: 'Alerts',
  permission: 'alerts.write',
  params: alertParams,
  body: z.strictObject({
    seconds: z
      .number()
      .int()
      .min(0)
      .max(30 * 24 * 3_600),
  }),
  output: alert,
  status: 200,
});

export const thresholdRule = z.object({
  id: idSchema('thresholdRule'),
  tag: z.string(),
  offlineAfterSeconds: z.number().int(),
  createdAt: instant,
  updatedAt: instant,
  etag: z.string(),
});
const thresholdRuleParams = z.strictObject({ id: idSchema('thresholdRule') });
const thresholdSorts = ['tag', 'offlineAfterSeconds', 'createdAt', 'updatedAt'] as const;

export const listThresholdRules = operation('monitoring', 'threshold-rules.list', {
  method: 'GET',
  path: '/v1/threshold-rules',
  summary: 'List offline thresholds by tag',
  tag: 'Threshold rules',
  permission: 'rules.read',
  sorts: thresholdSorts,
  query: listQuery(thresholdSorts, { tag: tag.optional() }),
  output: page(thresholdRule),
});

export const getThresholdRule = operation('monitoring', 'threshold-rules.get', {
  method: 'GET',
  path: '/v1/threshold-rules/{id}',
  summary: 'Show a threshold rule',
  tag: 'Threshold rules',
  permission: 'rules.read',
  params: thresholdRuleParams,
  output: thresholdRule,
});

export const createThresholdRule = operation('monitoring', 'threshold-rules.create', {
  method: 'POST',
  path: '/v1/threshold-rules',
  summary: 'Set the offline threshold of every vault with a tag; the smallest wins',
  tag: 'Threshold rules',
  permission: 'rules.write',
  body: z.strictObject({ tag, offlineAfterSeconds }),
  output: thresholdRule,
});

export const updateThresholdRule = operation('monitoring', 'threshold-rules.update', {
  method: 'PATCH',
  path: '/v1/threshold-rules/{id}',
  summary: 'Change the threshold of a rule',
  tag: 'Threshold rules',
  permission: 'rules.write',
  params: thresholdRuleParams,
  body: z.strictObject({ offlineAfterSeconds }),
  output: thresholdRule,
});

export const deleteThresholdRule = operation('monitoring', 'threshold-rules.delete', {
  method: 'DELETE',
  path: '/v1/threshold-rules/{id}',
  summary: 'Delete a threshold rule',
  tag: 'Threshold rules',
  permission: 'rules.write',
  params: thresholdRuleParams,
  output: z.null(),
  status: 204,
});

export const alertRule = z.object({
  id: idSchema('alertRule'),
  name: z.string(),
  events: z.array(alertKind),
  /** Vaults that carry one of these tags; empty: every vault. */
  vaultTags: z.array(z.string()),
  /** `raise` with this severity, or `ignore`: the alert is not raised. */
  action: z.enum(['raise', 'ignore']),
  severity: severity.nullable(),
  enabled: z.boolean(),
  createdAt: instant,
  updatedAt: instant,
  etag: z.string(),
});
const alertRuleParams = z.strictObject({ id: idSchema('alertRule') });
const alertRuleSorts = ['createdAt', 'name', 'updatedAt', 'action'] as const;
const alertRuleBody = {
  name,
  events: z.array(alertKind).min(1).max(alertKinds.length),
  vaultTags: tags,
  action: z.enum(['raise', 'ignore']),
  severity: severity.nullable(),
  enabled: z.boolean(),
};

export const listAlertRules = operation('monitoring', 'alert-rules.list', {
  method: 'GET',
  path: '/v1/alert-rules',
  summary: 'List alert rules',
  tag: 'Alert rules',
  permission: 'rules.read',
  sorts: alertRuleSorts,
  query: listQuery(alertRuleSorts, { enabled: z.enum(['true', 'false']).optional() }),
  output: page(alertRule),
});

export const getAlertRule = operation('monitoring', 'alert-rules.get', {
  method: 'GET',
  path: '/v1/alert-rules/{id}',
  summary: 'Show an alert rule',
  tag: 'Alert rules',
  permission: 'rules.read',
  params: alertRuleParams,
  output: alertRule,
});

export const createAlertRule = operation('monitoring', 'alert-rules.create', {
  method: 'POST',
  path: '/v1/alert-rules',
  summary: 'Say which events of which vaults raise an alert, and how severe it is',
  tag: 'Alert rules',
  permission: 'rules.write',
  body: z.strictObject({
    ...alertRuleBody,
    vaultTags: tags.default([]),
    action: z.enum(['raise', 'ignore']).default('raise'),
    severity: severity.nullable().default(null),
    enabled: z.boolean().default(true),
  }),
  output: alertRule,
});

export const updateAlertRule = operation('monitoring', 'alert-rules.update', {
  method: 'PATCH',
  path: '/v1/alert-rules/{id}',
  summary: 'Change an alert rule',
  tag: 'Alert rules',
  permission: 'rules.write',
  params: alertRuleParams,
  body: z
    .strictObject(alertRuleBody)
    .partial()
    .refine((body) => Object.keys(body).length > 0, 'name at least one field'),
  output: alertRule,
});

export const deleteAlertRule = operation('monitoring', 'alert-rules.delete', {
  method: 'DELETE',
  path: '/v1/alert-rules/{id}',
  summary: 'Delete an alert rule',
  tag: 'Alert rules',
  permission: 'rules.write',
  params: alertRuleParams,
  output: z.null(),
  status: 204,
});

/** What an agent reports of its own life, kept until it was received. */
export const agentEventKinds = [
  'boot',
  'shutdown',
  'configuration_changed',
  'certificate_renewed',
  'clock_jump',
  'contact_lost',
  'contact_regained',
  'queue_overflow',
  'audit_head',
  'operation_counts',
  'rotation',
  'backup',
  'security_notice',
  'policy_set',
  'policy_decisions',
  'policy_replay',
  'approval',
  'approval_answer',
] as const;
export const agentEventKind = z.enum(agentEventKinds);

export const agentEvent = z.object({
  id: idSchema('agentEvent'),
  kind: agentEventKind,
  /** By the agent's clock. */
  occurredAt: instant,
  /** By the database's clock. */
  receivedAt: instant,
  bootId: z.string(),
  sequence: z.number().int(),
  /** Typed per kind: durations, versions, counts. Never a name or a value of a secret. */
  details: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()])),
});

const agentEventSorts = ['-receivedAt', 'receivedAt'] as const;
export const listAgentEvents = operation('monitoring', 'agent-events.list', {
  method: 'GET',
  path: '/v1/agents/{id}/events',
  summary: 'List what an agent reported of its own life, newest first',
  tag: 'Agents',
  permission: 'agents.read',
  params: z.strictObject({ id: idSchema('agent') }),
  sorts: agentEventSorts,
  query: z.strictObject({
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageDefault),
    cursor: z.string().max(limits.cursorMaxLength).optional(),
    sort: z.enum(agentEventSorts).default('-receivedAt'),
    kind: commaList(agentEventKind).optional(),
  }),
  output: page(agentEvent),
});

/** How far the local audit of an agent had come, by its own word. */
export const auditHead = z.object({
  id: idSchema('auditHead'),
  /** One unbroken log of an agent: 32 hexadecimal digits. */
  chainId: z.string(),
  sequence: z.number().int(),
  /** SHA-256 of the chain up to this entry. */
  hash: z.string(),
  /** By the agent's clock. */
  at: instant,
  /** By the database's clock. */
  receivedAt: instant,
  entriesSincePrevious: z.number().int(),
  /** `certificate`: by the key of a certificate of this agent. `other_key`: valid, by another key. */
  signature: z.enum(['certificate', 'other_key', 'absent', 'invalid']),
  signerKeyDigest: z.string().nullable(),
  /** What it contradicts; null where it goes on from what was known. */
  contradiction: z
    .enum(['signature_invalid', 'other_hash', 'went_back', 'chain_replaced'])
    .nullable(),
});

const auditHeadSorts = ['-receivedAt', 'receivedAt'] as const;
export const listAuditHeads = operation('monitoring', 'audit-heads.list', {
  method: 'GET',
  path: '/v1/agents/{id}/audit-heads',
  summary: 'List how far the local audit of an agent had come, newest first',
  tag: 'Agents',
  permission: 'agents.read',
  params: z.strictObject({ id: idSchema('agent') }),
  sorts: auditHeadSorts,
  query: z.strictObject({
    limit: wholeNumberText(1, limits.pageMax).default(limits.pageDefault),
    cursor: z.string().max(limits.cursorMaxLength).optional(),
    sort: z.enum(auditHeadSorts).default('-receivedAt'),
    contradicting: z.enum(['true', 'false']).optional(),
  }),
  output: page(auditHead),
});

/** What the live stream (`GET /v1/events`) carries. */
export const liveEventTypes = ['agent.status', 'alert.opened', 'alert.updated'] as const;
export const liveEvent = z.object({
  /** Position in the stream, for Last-Event-ID. */
  id: z.string(),
  type: z.enum(liveEventTypes),
  at: instant,
  data: z.record(z.string(), z.unknown()),
});
export type LiveEvent = z.infer<typeof liveEvent>;
