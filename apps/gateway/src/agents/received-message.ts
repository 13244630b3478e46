/**
 * What agents send, checked and put into the contract's words. Every text has a form and a bound
 * here, so that nothing of an agent's choosing gets further.
 */

import { createHash, type KeyObject } from 'node:crypto';
import {
  auditHeadKeyMaxBytes,
  auditHeadSignatureMaxBytes,
  isAuditHeadSignedBy,
} from '@keystead/agent-protocol/audit-head';
import type { PolicySet } from '@keystead/agent-protocol/generated/keystead/agent/v1/envelope';
import {
  ApprovalDecisionOutcome,
  type ApprovalReported,
  ApprovalState,
  ApprovalVerdict,
  type AuditHead,
  BackupDestination,
  BackupKind,
  BackupOutcome,
  ConfigurationSection,
  ContactLossReason,
  type Event,
  Health,
  type Heartbeat,
  type Hello,
  Operation,
  type OperationCounts,
  OperationOutcome,
  PolicySetOutcome,
  PolicySetProblem,
  ReplayChange,
  ReplayObstacle,
  ReplayOutcome,
  type ReplayReported,
  RotationOutcome,
  Rotator,
  SecurityNoticeKind,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import type {
  AgentFacts,
  ApprovalReport,
  AuditHeadReport,
  Beat,
  HeldPolicySet,
  OperationCountsReport,
  PolicyReplayReport,
  RetainedEvent,
} from '@keystead/contracts/agent-link';
import { limits } from '@keystead/contracts/limits';

/** A text where the value is wrong: it goes into the status of the stream. */
export type Checked<T> = { value: T } | { wrong: string };

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const versionPattern = /^[0-9A-Za-z.+-]{1,64}$/;
const plainPattern = /^[\x20-\x7e]{0,64}$/;
const hostnamePattern = /^[\p{L}\p{N}._-]{0,255}$/u;
const digestPattern = /^(?:[0-9a-f]{64})?$/;
const serialPattern = /^[0-9a-f]{1,64}$/;

export function isBootId(text: string): boolean {
  return uuidPattern.test(text);
}

export function factsOf(hello: Hello): Checked<AgentFacts> {
  const { host } = hello;
  if (!versionPattern.test(hello.agentVersion)) return { wrong: 'hello.agent_version' };
  if (!digestPattern.test(hello.configurationDigest))
    return { wrong: 'hello.configuration_digest' };
  if (host === undefined) return { wrong: 'hello.host' };
  if (!hostnamePattern.test(host.hostname)) return { wrong: 'hello.host.hostname' };
  for (const field of ['platform', 'architecture', 'runtime', 'release'] as const) {
    if (!plainPattern.test(host[field])) return { wrong: `hello.host.${field}` };
  }
  return {
    value: {
      version: hello.agentVersion,
      hostname: host.hostname,
      platform: host.platform,
      architecture: host.architecture,
      runtime: host.runtime,
    },
  };
}

export function healthOf(heartbeat: Heartbeat): Beat['health'] | undefined {
  switch (heartbeat.health) {
    case Health.HEALTHY:
      return 'healthy';
    case Health.DEGRADED:
      return 'degraded';
    case Health.FAILING:
      return 'failing';
    case Health.UNSPECIFIED:
      return undefined;
    // A newer agent has a word for it that this gateway does not know.
    default:
      return 'degraded';
  }
}

type Told = Pick<
  RetainedEvent,
  | 'kind'
  | 'details'
  | 'auditHead'
  | 'operationCounts'
  | 'policySet'
  | 'policyDecisions'
  | 'policyReplay'
  | 'approval'
  | 'approvalAnswer'
>;

/**
 * Kind, time and content of a retained event. The key is the session's certificate's: an audit head
 * says whether it was signed by it.
 */
export function eventOf(
  event: Event,
  certificateKey: KeyObject | undefined,
): Checked<Told & { occurredAtMs: number }> {
  const occurredAtMs = event.occurredAtUnixMs;
  if (!isInstant(occurredAtMs)) return { wrong: 'event.occurred_at_unix_ms' };
  const told = toldBy(event, certificateKey);
  return typeof told === 'string' ? { wrong: told } : { value: { ...told, occurredAtMs } };
}

function toldBy({ kind }: Event, certificateKey: KeyObject | undefined): Told | string {
  switch (kind?.$case) {
    case 'booted': {
      const { agentVersion, previousBootId, previousRunEndedCleanly, configurationDigest } =
        kind.value;
      if (!versionPattern.test(agentVersion)) return 'booted.agent_version';
      if (previousBootId !== '' && !isBootId(previousBootId)) return 'booted.previous_boot_id';
      if (!digestPattern.test(configurationDigest)) return 'booted.configuration_digest';
      return {
        kind: 'boot',
        details: {
          version: agentVersion,
          previousBootId: previousBootId || null,
          previousRunEndedCleanly,
          configurationDigest: configurationDigest || null,
        },
      };
    }
    case 'shutDown':
      return { kind: 'shutdown', details: { uptimeSeconds: kind.value.uptimeSeconds } };
    case 'configurationChanged': {
      const { previousDigest, digest, sections } = kind.value;
      if (!digestPattern.test(previousDigest)) return 'configuration_changed.previous_digest';
      if (!digestPattern.test(digest)) return 'configuration_changed.digest';
      if (sections.length > 16) return 'configuration_changed.sections';
      return {
        kind: 'configuration_changed',
        details: {
          previousDigest: previousDigest || null,
          digest: digest || null,
          sections: [...new Set(sections)]
            .map((section) => nameOf(ConfigurationSection, section))
            .join(','),
        },
      };
    }
    case 'certificateRenewed': {
      const { previousSerial, serial, notAfterUnixMs } = kind.value;
      if (!serialPattern.test(previousSerial)) return 'certificate_renewed.previous_serial';
      if (!serialPattern.test(serial)) return 'certificate_renewed.serial';
      if (!isInstant(notAfterUnixMs)) return 'certificate_renewed.not_after_unix_ms';
      return {
        kind: 'certificate_renewed',
        details: {
          previousSerialNumber: previousSerial,
          serialNumber: serial,
          expiresAt: new Date(notAfterUnixMs).toISOString(),
        },
      };
    }
    case 'clockJumped':
      return { kind: 'clock_jump', details: { jumpMs: kind.value.jumpMs } };
    case 'contactLost': {
      const { lastContactUnixMs, reason } = kind.value;
      if (!isInstant(lastContactUnixMs)) return 'contact_lost.last_contact_unix_ms';
      return {
        kind: 'contact_lost',
        details: {
          lastContactAt: lastContactUnixMs === 0 ? null : new Date(lastContactUnixMs).toISOString(),
          reason: nameOf(ContactLossReason, reason),
        },
      };
    }
    case 'contactRegained': {
      const { lostAtUnixMs, gapMs, attempts, reason } = kind.value;
      if (!isInstant(lostAtUnixMs)) return 'contact_regained.lost_at_unix_ms';
      return {
        kind: 'contact_regained',
        details: {
          lostAt: new Date(lostAtUnixMs).toISOString(),
          gapMs,
          attempts,
          reason: nameOf(ContactLossReason, reason),
        },
      };
    }
    case 'queueOverflowed': {
      const { count, firstAtUnixMs, lastAtUnixMs } = kind.value;
      if (!isInstant(firstAtUnixMs) || !isInstant(lastAtUnixMs)) return 'queue_overflowed';
      return {
        kind: 'queue_overflow',
        details: {
          count,
          firstAt: new Date(firstAtUnixMs).toISOString(),
          lastAt: new Date(lastAtUnixMs).toISOString(),
        },
      };
    }
    case 'auditHead':
      return auditHeadOf(kind.value, certificateKey);
    case 'operationCounts':
      return operationCountsOf(kind.value);
    case 'rotationReported': {
      const { namespaceRef, secretRef, outcome, attempt, rotator, nextDueUnixMs } = kind.value;
      if (!isReference(namespaceRef)) return 'rotation_reported.namespace_ref';
      if (!isReference(secretRef)) return 'rotation_reported.secret_ref';
      if (!isInstant(nextDueUnixMs)) return 'rotation_reported.next_due_unix_ms';
      return {
        kind: 'rotation',
        details: {
          namespaceRef: namespaceRef.toString('hex'),
          secretRef: secretRef.toString('hex'),
          outcome: nameOf(RotationOutcome, outcome),
          attempt,
          rotator: nameOf(Rotator, rotator),
          nextDueAt: nextDueUnixMs === 0 ? null : new Date(nextDueUnixMs).toISOString(),
        },
      };
    }
    case 'backupReported': {
      const { outcome, destination, bytes, secrets, durationMs, attempt } = kind.value;
      return {
        kind: 'backup',
        details: {
          kind: nameOf(BackupKind, kind.value.kind),
          outcome: nameOf(BackupOutcome, outcome),
          destination: nameOf(BackupDestination, destination),
          bytes,
          secrets,
          durationMs,
          attempt,
        },
      };
    }
    case 'securityNotice': {
      const { identityRef, count } = kind.value;
      if (identityRef.length > 0 && !isReference(identityRef))
        return 'security_notice.identity_ref';
      return {
        kind: 'security_notice',
        details: {
          notice: nameOf(SecurityNoticeKind, kind.value.kind),
          identityRef: identityRef.length === 0 ? null : identityRef.toString('hex'),
          count,
        },
      };
    }
    case 'policySetReported': {
      const { outcome, problem, configurationDigest, unknownDestinations } = kind.value;
      const held = heldOf(kind.value.policySet);
      if (held === undefined) return 'policy_set_reported.policy_set';
      if (!digestPattern.test(configurationDigest))
        return 'policy_set_reported.configuration_digest';
      const policySet = {
        ...held,
        outcome: nameOf(PolicySetOutcome, outcome),
        problem: nameOf(PolicySetProblem, problem),
      };
      return {
        kind: 'policy_set',
        details: {
          ...policySet,
          configurationDigest: configurationDigest || null,
          unknownDestinations,
        },
        policySet,
      };
    }
    case 'policyDecisionCounts': {
      const { allowed, denied, newlyAllowed, newlyDenied, errors } = kind.value;
      const held = heldOf(kind.value.policySet);
      if (held === undefined) return 'policy_decision_counts.policy_set';
      const policyDecisions = { ...held, allowed, denied, newlyAllowed, newlyDenied, errors };
      return { kind: 'policy_decisions', details: policyDecisions, policyDecisions };
    }
    case 'replayReported':
      return replayOf(kind.value);
    case 'approvalReported':
      return approvalOf(kind.value);
    case 'approvalAnswered': {
      const { approvalId, decisionId, outcome } = kind.value;
      if (!isUuid(approvalId)) return 'approval_answered.approval_id';
      if (!isUuid(decisionId)) return 'approval_answered.decision_id';
      const approvalAnswer = {
        approvalId: uuidOf(approvalId),
        decisionId: uuidOf(decisionId),
        outcome: nameOf(ApprovalDecisionOutcome, outcome),
      };
      return { kind: 'approval_answer', details: approvalAnswer, approvalAnswer };
    }
    default:
      return 'event.kind';
  }
}

const policySetNumberMax = 2 ** 31 - 1;

/** What an agent holds, in its own words; undefined where these are none. */
export function heldOf(policySet: PolicySet | undefined): HeldPolicySet | undefined {
  const { version: number, digest } = policySet ?? { version: 0, digest: '' };
  return number <= policySetNumberMax && digestPattern.test(digest)
    ? { number, digest }
    : undefined;
}

function replayOf(reported: ReplayReported): Told | string {
  const { replayId, fromUnixMs, unevaluated, differences } = reported;
  const { decisions, newlyDenied, newlyAllowed, newlyNeedingApproval, unchanged } = reported;
  if (!isUuid(replayId)) return 'replay_reported.replay_id';
  if (!isInstant(fromUnixMs)) return 'replay_reported.from_unix_ms';
  if (unevaluated.length > 16) return 'replay_reported.unevaluated';
  if (
    differences.length > limits.replayDifferencesPerAgent ||
    !differences.every(({ decisionRef }) => isReference(decisionRef))
  ) {
    return 'replay_reported.differences';
  }
  const counts = { decisions, newlyDenied, newlyAllowed, newlyNeedingApproval, unchanged };
  const policyReplay: PolicyReplayReport = {
    replayId: uuidOf(replayId),
    outcome: nameOf(ReplayOutcome, reported.outcome),
    fromMs: fromUnixMs,
    ...counts,
    unevaluated: unevaluated.map(({ obstacle, count }) => ({
      obstacle: nameOf(ReplayObstacle, obstacle),
      count,
    })),
    differences: differences.map(({ decisionRef, change, count }) => ({
      reference: decisionRef.toString('hex'),
      change: nameOf(ReplayChange, change),
      count,
    })),
    durationMs: reported.durationMs,
  };
  const { replayId: id, outcome, durationMs } = policyReplay;
  return {
    kind: 'policy_replay',
    details: { replayId: id, outcome, ...counts, durationMs },
    policyReplay,
  };
}

const actionPattern = /^[a-z-]{1,40}\.[a-z-]{1,40}$/;
const policyIdPattern = /^[\x21-\x7e]{1,128}$/;
const roleNamePattern = /^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$/;
const approvalStates: Partial<Record<ApprovalState, ApprovalReport['state']>> = {
  [ApprovalState.PENDING]: 'pending',
  [ApprovalState.APPROVED]: 'approved',
  [ApprovalState.DENIED]: 'denied',
  [ApprovalState.USED]: 'used',
};
const approvalVerdicts: Partial<Record<ApprovalVerdict, 'approve' | 'deny'>> = {
  [ApprovalVerdict.APPROVE]: 'approve',
  [ApprovalVerdict.DENY]: 'deny',
};

function approvalOf(reported: ApprovalReported): Told | string {
  const { approvalId, action, requesterRef, requestedAtUnixMs, expiresAtUnixMs } = reported;
  const { requirements, decisions } = reported;
  const state = approvalStates[reported.state];
  if (!isUuid(approvalId)) return 'approval_reported.approval_id';
  if (state === undefined) return 'approval_reported.state';
  if (reported.revision > policySetNumberMax) return 'approval_reported.revision';
  if (!actionPattern.test(action)) return 'approval_reported.action';
  for (const field of ['namespaceRef', 'secretRef', 'otherRef'] as const) {
    if (reported[field].length > 0 && !isReference(reported[field])) {
      return `approval_reported.${field}`;
    }
  }
  if (!isReference(requesterRef)) return 'approval_reported.requester_ref';
  if (!isInstant(requestedAtUnixMs)) return 'approval_reported.requested_at_unix_ms';
  if (!isInstant(expiresAtUnixMs)) return 'approval_reported.expires_at_unix_ms';
  const areRequirements =
    requirements.length <= limits.approvalRequirementsMax &&
    requirements.every(
      ({ policy, approvers }) =>
        policyIdPattern.test(policy) &&
        approvers.length <= 32 &&
        approvers.every((name) => roleNamePattern.test(name)),
    );
  if (!areRequirements) return 'approval_reported.requirements';
  if (decisions.length > limits.approvalDecisionsMax) return 'approval_reported.decisions';
  const decided: ApprovalReport['decisions'] = [];
  for (const { approverRef, verdict, atUnixMs, decisionId } of decisions) {
    const said = approvalVerdicts[verdict];
    if (
      said === undefined ||
      !isReference(approverRef) ||
      !isInstant(atUnixMs) ||
      (decisionId.length !== 0 && !isUuid(decisionId))
    ) {
      return 'approval_reported.decisions';
    }
    decided.push({
      approverRef: approverRef.toString('hex'),
      verdict: said,
      atMs: atUnixMs,
      decisionId: decisionId.length === 0 ? null : uuidOf(decisionId),
    });
  }
  const referenceOf = (bytes: Buffer) => (bytes.length === 0 ? null : bytes.toString('hex'));
  const approval: ApprovalReport = {
    id: uuidOf(approvalId),
    revision: reported.revision,
    state,
    action,
    namespaceRef: referenceOf(reported.namespaceRef),
    secretRef: referenceOf(reported.secretRef),
    otherRef: referenceOf(reported.otherRef),
    requesterRef: requesterRef.toString('hex'),
    requestedAtMs: requestedAtUnixMs,
    expiresAtMs: expiresAtUnixMs,
    requirements,
    decisions: decided,
  };
  return {
    kind: 'approval',
    details: {
      approvalId: approval.id,
      state,
      action,
      requesterRef: approval.requesterRef,
      expiresAt: new Date(expiresAtUnixMs).toISOString(),
    },
    approval,
  };
}

function isUuid(bytes: Buffer): boolean {
  return bytes.length === 16 && uuidPattern.test(uuidOf(bytes));
}

function uuidOf(bytes: Buffer): string {
  const digits = bytes.toString('hex');
  return [8, 12, 16, 20, 32].map((end, at) => digits.slice([0, 8, 12, 16, 20][at], end)).join('-');
}

function auditHeadOf(head: AuditHead, certificateKey: KeyObject | undefined): Told | string {
  const { chainId, sequence, hash, atUnixMs, entriesSincePrevious, signature, signerKey } = head;
  if (chainId.length !== 16) return 'audit_head.chain_id';
  if (!isReference(hash)) return 'audit_head.hash';
  if (!isInstant(atUnixMs)) return 'audit_head.at_unix_ms';
  if (signature.length > auditHeadSignatureMaxBytes) return 'audit_head.signature';
  if (signerKey.length > auditHeadKeyMaxBytes) return 'audit_head.signer_key';
  const auditHead: AuditHeadReport = {
    chainId: chainId.toString('hex'),
    sequence,
    hash: hash.toString('hex'),
    atMs: atUnixMs,
    entriesSincePrevious,
    signature: auditHeadSignature(head, certificateKey),
    signerKeyDigest:
      signature.length === 0 ? null : createHash('sha256').update(signerKey).digest('hex'),
  };
  const { atMs, ...details } = auditHead;
  return {
    kind: 'audit_head',
    details: { ...details, at: new Date(atMs).toISOString() },
    auditHead,
  };
}

function auditHeadSignature(
  head: AuditHead,
  certificateKey: KeyObject | undefined,
): AuditHeadReport['signature'] {
  if (head.signature.length === 0) return 'absent';
  if (!isAuditHeadSignedBy(head, head.signature, head.signerKey)) return 'invalid';
  return certificateKey !== undefined &&
    head.signerKey.equals(certificateKey.export({ type: 'spki', format: 'der' }))
    ? 'certificate'
    : 'other_key';
}

function operationCountsOf(reported: OperationCounts): Told | string {
  const { periodStartUnixMs, periodEndUnixMs, counts, topSecrets } = reported;
  if (!isInstant(periodStartUnixMs) || !isInstant(periodEndUnixMs))
    return 'operation_counts.period_start_unix_ms';
  if (counts.length > limits.operationCountsPerEvent) return 'operation_counts.counts';
  if (topSecrets.length > limits.topSecretsPerEvent) return 'operation_counts.top_secrets';
  if (!topSecrets.every(({ secretRef }) => isReference(secretRef)))
    return 'operation_counts.top_secrets';
  const operationCounts: OperationCountsReport = {
    periodStartMs: periodStartUnixMs,
    periodEndMs: periodEndUnixMs,
    counts: counts.map(({ operation, outcome, count, p50Us, p95Us, p99Us }) => ({
      operation: nameOf(Operation, operation),
      outcome: nameOf(OperationOutcome, outcome),
      count,
      p50Us,
      p95Us,
      p99Us,
    })),
    topSecrets: topSecrets.map(({ secretRef, count }) => ({
      secretRef: secretRef.toString('hex'),
      count,
    })),
    namespaces: reported.namespaces,
    secrets: reported.secrets,
    storedBytes: reported.storedBytes,
  };
  return {
    kind: 'operation_counts',
    details: {
      periodStart: new Date(periodStartUnixMs).toISOString(),
      periodEnd: new Date(periodEndUnixMs).toISOString(),
      operations: counts.reduce((sum, { count }) => sum + count, 0),
      namespaces: reported.namespaces,
      secrets: reported.secrets,
      storedBytes: reported.storedBytes,
    },
    operationCounts,
  };
}

/** A keyed hash, or a hash: 32 bytes. */
function isReference(bytes: Uint8Array): boolean {
  return bytes.length === 32;
}

/** What ISO 8601 can write with four digits of year. */
function isInstant(ms: number): boolean {
  return Number.isInteger(ms) && ms >= 0 && ms < 253_402_300_800_000;
}

function nameOf(names: Record<string, number>, value: number): string {
  const found = Object.entries(names).find(([, number]) => number === value);
  return (found?.[0] ?? 'UNRECOGNIZED').toLowerCase();
}
