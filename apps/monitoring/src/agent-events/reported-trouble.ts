/** Which events of agents people are told of, and what takes them back. No I/O. */
import type { RetainedEvent } from '@keystead/contracts/agent-link';
import type { ReportedAlertKind } from '@keystead/contracts/monitoring';
import type { Report } from '../alerts/reported-alert.ts';

export interface Trouble extends Report {
  organizationId: string;
  kind: ReportedAlertKind;
}

const notices: Record<string, { kind: ReportedAlertKind; reason: string; cleared?: true }> = {
  audit_blocked: { kind: 'agent.audit_blocked', reason: 'audit_blocked' },
  audit_resumed: { kind: 'agent.audit_blocked', reason: 'audit_blocked', cleared: true },
  audit_broken: { kind: 'agent.audit_rewritten', reason: 'audit_broken' },
  store_unavailable: { kind: 'agent.impaired', reason: 'store_unavailable' },
  store_available: { kind: 'agent.impaired', reason: 'store_unavailable', cleared: true },
  key_unavailable: { kind: 'agent.impaired', reason: 'key_unavailable' },
  key_available: { kind: 'agent.impaired', reason: 'key_unavailable', cleared: true },
  restore_forced: { kind: 'agent.override', reason: 'restore_forced' },
  emergency_override: { kind: 'agent.override', reason: 'emergency_override' },
  guessing: { kind: 'agent.security', reason: 'guessing' },
  identity_locked: { kind: 'agent.security', reason: 'identity_locked' },
  many_denials: { kind: 'agent.security', reason: 'many_denials' },
  bulk_reading: { kind: 'agent.security', reason: 'bulk_reading' },
  unusual_hour: { kind: 'agent.security', reason: 'unusual_hour' },
  new_network: { kind: 'agent.security', reason: 'new_network' },
  policy_alert: { kind: 'agent.security', reason: 'policy_alert' },
};

export function troubleOf(event: RetainedEvent): Trouble | undefined {
  const { organizationId, agentId, details } = event;
  const trouble = (
    kind: ReportedAlertKind,
    reason: string,
    state: Report['state'] = 'raised',
  ): Trouble => ({ organizationId, agentId, kind, reason, state });
  if (event.kind === 'rotation') {
    if (details.outcome === 'due_soon') return trouble('agent.rotation_due', 'rotation_due');
    if (details.outcome === 'gave_up') return trouble('agent.rotation_failed', 'rotation_gave_up');
  }
  if (event.kind === 'backup') {
    const reason = `${details.kind}_gave_up`;
    if (details.outcome === 'gave_up') return trouble('agent.backup_failed', reason);
    if (details.outcome === 'succeeded') return trouble('agent.backup_failed', reason, 'cleared');
  }
  const notice = event.kind === 'security_notice' ? notices[String(details.notice)] : undefined;
  return notice && trouble(notice.kind, notice.reason, notice.cleared ? 'cleared' : 'raised');
}
