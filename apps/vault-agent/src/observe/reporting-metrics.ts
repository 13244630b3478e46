/** What the audit, its forwarding and the queue count, for the metrics (R10.4). Names no secret. */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { AuditTrail } from '../audit/audit-trail.ts';
import type { AuditForwarder } from '../audit/forwarding/audit-forwarder.ts';
import type { AuditForwarding } from '../audit/forwarding/audit-forwarding.ts';
import type { TrustedClock } from '../clock/trusted-clock.ts';
import { type DurableQueue, eventRanks } from '../durable-queue.ts';
import type { Lockouts } from './lockouts.ts';
import type { SuspicionGuard } from './suspicion-guard.ts';

export interface ReportingSources {
  clock: Pick<TrustedClock, 'doubt'>;
  trail: AuditTrail;
  queue: DurableQueue;
  forwarding: Pick<AuditForwarding, 'forwarders' | 'isPossible'>;
  lockouts: Lockouts;
  suspicions: SuspicionGuard;
}

export function addReportingMetrics(registry: Registry, sources: ReportingSources): void {
  const { clock, trail, queue, forwarding, lockouts, suspicions } = sources;
  const gauge = (name: string, help: string, read: () => number) => {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(read());
      },
    });
  };
  const counter = (name: string, help: string, read: () => number) => {
    new Counter({
      name,
      help,
      registers: [registry],
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  };
  const { counters } = trail;
  counter('vault_audit_entries_total', 'Entries written', () => counters.entries);
  counter('vault_audit_bytes_total', 'Bytes of entries written', () => counters.bytes);
  counter(
    'vault_audit_syncs_total',
    'Syncs, each for all entries that waited',
    () => counters.commits,
  );
  counter(
    'vault_audit_refused_total',
    'Entries refused because the audit was blocked',
    () => counters.refused,
  );
  counter('vault_audit_blockings_total', 'Times the audit was blocked', () => counters.blockings);
  gauge('vault_audit_blocked', '1 while the audit cannot be written', () =>
    trail.blocked === undefined ? 0 : 1,
  );
  gauge('vault_audit_waiting', 'Entries that wait for the disk', () => trail.waiting);
  gauge('vault_audit_sequence', 'The last entry on the disk', () => trail.sequence ?? 0);
  counter(
    'vault_suspicious_activity_total',
    'Times that something looked suspicious',
    () => suspicions.counters.suspicions,
  );
  gauge('vault_clock_doubted', '1 while the clock of this machine is not believed', () =>
    clock.doubt === undefined ? 0 : 1,
  );
  gauge(
    'vault_clock_ahead_seconds',
    'How far the clock of this machine is ahead of the time that is believed',
    () => Math.round((clock.doubt?.aheadMs ?? 0) / 1_000),
  );
  gauge('vault_lockouts', 'Identities that are locked', () => lockouts.count);
  new Gauge({
    name: 'keystead_agent_queue_events_by_rank',
    help: 'Events that wait for a receipt, by what they are worth',
    labelNames: ['rank'],
    registers: [registry],
    collect() {
      for (const rank of eventRanks) this.set({ rank }, queue.waitingOf(rank));
    },
  });
  if (!forwarding.isPossible) return;
  const perDestination = (name: string, help: string, read: (each: AuditForwarder) => number) => {
    new Gauge({
      name,
      help,
      labelNames: ['destination', 'log'],
      registers: [registry],
      collect() {
        // One that is off has no numbers.
        this.reset();
        for (const each of forwarding.forwarders)
          this.set({ destination: each.name, log: each.source }, read(each));
      },
    });
  };
  perDestination('vault_audit_forward_lag_entries', 'Entries that have not arrived yet', (each) =>
    each.source === 'agent' ? Math.max(0, (trail.sequence ?? 0) - each.confirmed) : each.underWay,
  );
  perDestination(
    'vault_audit_forward_paused',
    '1 while the receiver is left alone after failures',
    (each) => (each.isPaused ? 1 : 0),
  );
  perDestination(
    'vault_audit_forward_skipped_entries',
    'Entries that were retired before they arrived',
    (each) => each.skipped,
  );
}
