/**
 * What the agent tells the control plane: usage in numbers, heads of its audit, how rotations and backups
 * went, and what people must know. It is written into the durable queue and waits there for its receipt;
 * names leave as keyed hashes alone, values never.
 *
 * Cast: `usage-counts` adds up a period, `pacing` says when a report or a head is due, `notice-pace` how
 * often people are told the same, `name-references` what a name is called outside.
 */
import { createPublicKey, type KeyObject } from 'node:crypto';
import { signAuditHead } from '@keystead/agent-protocol/audit-head';
import {
  AuditHeadSigner,
  BackupDestination,
  BackupKind,
  BackupOutcome,
  RotationOutcome,
  Rotator,
  SecurityNoticeKind,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import type { Logger } from 'pino';
import type { Errand } from '../access/door.ts';
import type { AuditFact, AuditResult } from '../audit/audit-entry.ts';
import type { AuditHead, AuditTrail } from '../audit/audit-trail.ts';
import {
  type DurableQueue,
  type EventKind,
  type EventRank,
  eventRanks,
  rankOf,
} from '../durable-queue.ts';
import type { RotationReport } from '../rotation/rotation-report.ts';
import type { NameReferences } from './name-references.ts';
import { NoticePace } from './notice-pace.ts';
import { operationOf, outcomeOf } from './operation-kinds.ts';
import { isHeadDue, usagePeriodEndMs } from './pacing.ts';
import { upwardLimits } from './upward-limits.ts';
import { type StoreSizes, UsageCounts } from './usage-counts.ts';

export type NoticeKind = Exclude<keyof typeof SecurityNoticeKind, 'UNSPECIFIED' | 'UNRECOGNIZED'>;

export interface BackupReport {
  kind: 'backup' | 'restore' | 'verify' | 'drill';
  /** `gave-up`: no attempt follows. */
  outcome: 'succeeded' | 'failed' | 'gave-up';
  destination: 'directory' | 's3' | 'sftp' | 'other';
  bytes: number;
  secrets: number;
  durationMs: number;
  /** From 1. */
  attempt: number;
}

export interface UpwardOptions {
  /** Undefined where there is no control plane to tell. */
  queue: DurableQueue | undefined;
  names: NameReferences;
  /** What the vault holds, for the reports of usage. */
  sizes: () => Promise<StoreSizes>;
  /** The key of the agent's certificate; undefined where it is not enrolled. */
  identityKey: () => KeyObject | undefined;
  log: Logger;
  /** Called when something waits to be sent. */
  onQueued?: () => void;
  now?: () => number;
  monotonicNow?: () => number;
}

type Timed = { kind: EventKind; atMs: number };
type FollowedHead = { latest: AuditHead; reportedSequence: number; reportedAtMs: number };

export class Upward {
  readonly #options: UpwardOptions;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #monotonicNow: () => number;
  readonly #notices = new NoticePace<string>();
  #usage: UsageCounts;
  /** Of the last vault that answered. */
  #sizes: StoreSizes = { namespaces: 0, secrets: 0, storedBytes: 0 };
  #reporting: Promise<void> = Promise.resolve();
  /** By chain: the agent's own, and that of the commands beside it. */
  readonly #heads = new Map<string, FollowedHead>();
  #unwritten: Timed[] = [];
  #triedAtMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  readonly counters = { told: 0, notices: 0, unwritten: 0 };

  constructor(options: UpwardOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#now = options.now ?? Date.now;
    this.#monotonicNow = options.monotonicNow ?? (() => performance.now());
    this.#usage = new UsageCounts(this.#now());
  }

  start(): void {
    this.#timer = setInterval(() => this.tick(), upwardLimits.usageTickMs).unref();
  }

  /** Tells the last head and what the last period brought. The audit has stopped before. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#reportHeads(true);
    this.#tellDueNotices(Number.POSITIVE_INFINITY);
    if (!this.#usage.isEmpty) this.#reportUsage(this.#now());
    await this.#reporting;
    this.#writeUnwritten();
  }

  /** Follows an audit: its heads go up, and so does that it is blocked, resumed or broken. */
  follow(trail: AuditTrail): void {
    trail.onHead(this.head);
    trail.onNotice((notice) => {
      if (notice.kind === 'blocked') this.notice('AUDIT_BLOCKED');
      if (notice.kind === 'resumed') this.notice('AUDIT_RESUMED', { count: notice.refused });
      if (notice.kind === 'broken') this.notice('AUDIT_BROKEN');
    });
    if (trail.blocked !== undefined) this.notice('AUDIT_BLOCKED');
  }

  /** The newest head of a chain. */
  readonly head = (latest: AuditHead): void => {
    const chain = latest.chainId.toString('hex');
    const before = this.#heads.get(chain);
    this.#heads.set(chain, {
      reportedSequence: before?.reportedSequence ?? 0,
      reportedAtMs: before?.reportedAtMs ?? Number.NEGATIVE_INFINITY,
      latest,
    });
    this.#reportHeads(false);
  };

  /** A listener of the door: something came to an end. */
  readonly settled = (
    { action, resource }: Pick<Errand, 'action' | 'resource'>,
    result: AuditResult,
    durationMs: number,
  ): void => {
    const outcome = outcomeOf(result);
    if (outcome === undefined) return;
    const nowMs = this.#now();
    if (nowMs >= this.#periodEndMs) this.#reportUsage(nowMs);
    this.#usage.count(operationOf(action), outcome, durationMs);
    if (action === 'key.rotate' && result === 'done') this.notice('MASTER_KEY_ROTATED');
    if (action !== 'secret.read-value' || result !== 'done') return;
    const { namespace, secret } = resource;
    if (namespace !== undefined && secret !== undefined) this.#usage.read(namespace, secret);
  };

  /** A listener of the audit, for what does not come to the door: who could not say who they are. */
  readonly recorded = (fact: AuditFact): void => {
    const outcome = outcomeOf(fact.result);
    if (fact.action !== 'authenticate' || outcome === undefined) return;
    const nowMs = this.#now();
    if (nowMs >= this.#periodEndMs) this.#reportUsage(nowMs);
    this.#usage.count(operationOf('authenticate'), outcome, 0);
  };

  /** A `Report` of rotations. */
  readonly rotation = (report: RotationReport): void => {
    const { names } = this.#options;
    this.tell(
      {
        $case: 'rotationReported',
        value: {
          namespaceRef: names.namespace(report.namespace),
          secretRef: names.secret(report.namespace, report.secret),
          outcome: rotationOutcomes[report.outcome],
          attempt: report.attempt,
          rotator: rotators[report.rotator] ?? Rotator.CUSTOM,
          nextDueUnixMs: report.nextDueMs ?? 0,
        },
      },
      report.atMs,
    );
  };

  readonly backup = (report: BackupReport): void => {
    this.tell({
      $case: 'backupReported',
      value: {
        kind: backupKinds[report.kind],
        outcome: backupOutcomes[report.outcome],
        destination: backupDestinations[report.destination],
        bytes: report.bytes,
        secrets: report.secrets,
        durationMs: Math.min(Math.round(report.durationMs), 2 ** 32 - 1),
        attempt: report.attempt,
      },
    });
  };

  /** People are told at once the first time; the same again within a minute as a count. */
  notice(
    kind: NoticeKind,
    about: { identity?: { kind: string; id: string }; count?: number } = {},
  ): void {
    const { identity, count = 1 } = about;
    const reference =
      identity === undefined
        ? Buffer.alloc(0)
        : this.#options.names.identity(identity.kind, identity.id);
    const key = `${kind} ${reference.toString('hex')}`;
    if (this.#notices.count(key, this.#monotonicNow()) > 0) this.#tellNotice(key, count);
  }

  /** Writes an event down; what cannot be written is tried again. */
  tell(kind: EventKind, atMs: number = this.#now()): void {
    if (this.#options.queue === undefined) return;
    this.#unwritten.push({ kind, atMs });
    this.#writeUnwritten();
  }

  /** What time brings: called each second. */
  tick(): void {
    const nowMs = this.#now();
    if (nowMs >= this.#periodEndMs) this.#reportUsage(nowMs);
    this.#reportHeads(false);
    this.#tellDueNotices(this.#monotonicNow());
    if (
      this.#unwritten.length > 0 &&
      this.#monotonicNow() - this.#triedAtMs >= upwardLimits.retryMs
    ) {
      this.#writeUnwritten();
    }
  }

  #writeUnwritten(): void {
    const { queue, onQueued } = this.#options;
    if (queue === undefined) return;
    let written = 0;
    this.#triedAtMs = this.#monotonicNow();
    try {
      for (const { kind, atMs } of this.#unwritten) {
        queue.append(kind, atMs);
        written += 1;
      }
    } catch (error) {
      this.#log.error({ error: String(error) }, 'an event could not be written down yet');
    }
    this.#unwritten.splice(0, written);
    this.counters.told += written;
    // What is worth least goes first, of that the oldest: what is told last is what holds.
    while (this.#unwritten.length > upwardLimits.unwrittenMax) {
      const ranks = this.#unwritten.map(({ kind }) => eventRanks.indexOf(rankOf(kind)));
      this.#unwritten.splice(ranks.indexOf(Math.min(...ranks)), 1);
      this.counters.unwritten += 1;
    }
    if (written > 0) onQueued?.();
  }

  #tellNotice(key: string, count: number): void {
    const [kind = '', reference = ''] = key.split(' ');
    this.counters.notices += 1;
    this.tell({
      $case: 'securityNotice',
      value: {
        kind: SecurityNoticeKind[kind as NoticeKind],
        identityRef: Buffer.from(reference, 'hex'),
        count: Math.min(Math.max(1, count), 2 ** 32 - 1),
      },
    });
  }

  #tellDueNotices(nowMs: number): void {
    for (const { key, count } of this.#notices.due(nowMs)) this.#tellNotice(key, count);
  }

  /** So much usage waits that more is told by the hour. */
  get isBehind(): boolean {
    return this.#waiting('usage') >= upwardLimits.usageWaitingBeforeSparse;
  }

  #waiting(rank: EventRank): number {
    return this.#options.queue?.waitingOf(rank) ?? 0;
  }

  // Heads

  #reportHeads(isLast: boolean): void {
    for (const head of this.#heads.values()) this.#reportHead(head, isLast);
  }

  #reportHead(head: FollowedHead, isLast: boolean): void {
    const nowMs = this.#monotonicNow();
    const since = {
      ms: nowMs - head.reportedAtMs,
      entries: head.latest.sequence - head.reportedSequence,
    };
    const due = isLast ? since.entries > 0 : isHeadDue(since, this.#waiting('auditHead'));
    if (!due) return;
    const { chainId, sequence, hash, atUnixMs, signature, signerKey } = head.latest;
    const identityKey = this.#options.identityKey();
    this.tell(
      {
        $case: 'auditHead',
        value: {
          chainId,
          sequence,
          hash,
          atUnixMs,
          entriesSincePrevious: head.reportedSequence === 0 ? 0 : since.entries,
          ...(identityKey === undefined
            ? { signer: AuditHeadSigner.AUDIT_KEY, signature, signerKey }
            : {
                signer: AuditHeadSigner.CERTIFICATE,
                signature: signAuditHead(head.latest, identityKey),
                signerKey: createPublicKey(identityKey).export({ type: 'spki', format: 'der' }),
              }),
        },
      },
      atUnixMs,
    );
    head.reportedSequence = sequence;
    head.reportedAtMs = nowMs;
  }

  // Usage

  get #periodEndMs(): number {
    return usagePeriodEndMs(this.#usage.startUnixMs, this.#waiting('usage'));
  }

  /** Ends the period where it ends, or now where the clock went back. */
  #reportUsage(nowMs: number): void {
    const ended = this.#usage;
    const endMs = Math.max(ended.startUnixMs, Math.min(nowMs, this.#periodEndMs));
    this.#usage = new UsageCounts(nowMs);
    // Of an idle vault once an hour, for its sizes.
    if (ended.isEmpty && endMs % hourMs !== 0) return;
    this.#reporting = this.#reporting.then(async () => {
      try {
        this.#sizes = await this.#options.sizes();
      } catch (error) {
        this.#log.debug({ error: String(error) }, 'the sizes of the vault are not known now');
      }
      const { names } = this.#options;
      const report = ended.report(endMs, this.#sizes, (namespace, name) =>
        names.secret(namespace, name),
      );
      this.tell({ $case: 'operationCounts', value: report }, endMs);
    });
  }
}

const hourMs = 3_600_000;

const rotationOutcomes: Record<RotationReport['outcome'], RotationOutcome> = {
  succeeded: RotationOutcome.SUCCEEDED,
  failed: RotationOutcome.FAILED,
  'gave-up': RotationOutcome.GAVE_UP,
  'rolled-back': RotationOutcome.ROLLED_BACK,
  'due-soon': RotationOutcome.DUE_SOON,
};

const rotators: Partial<Record<RotationReport['rotator'], Rotator>> = {
  generated: Rotator.GENERATED,
  script: Rotator.SCRIPT,
  http: Rotator.HTTP,
  postgresql: Rotator.POSTGRESQL,
  mysql: Rotator.MYSQL,
};

const backupKinds = {
  backup: BackupKind.BACKUP,
  restore: BackupKind.RESTORE,
  verify: BackupKind.VERIFY,
  drill: BackupKind.DRILL,
};
const backupOutcomes = {
  succeeded: BackupOutcome.SUCCEEDED,
  failed: BackupOutcome.FAILED,
  'gave-up': BackupOutcome.GAVE_UP,
};
const backupDestinations = {
  directory: BackupDestination.DIRECTORY,
  s3: BackupDestination.S3,
  sftp: BackupDestination.SFTP,
  other: BackupDestination.OTHER,
};
