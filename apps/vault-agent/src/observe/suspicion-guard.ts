/** Watches what the audit records, tells people of what is suspicious, and locks where it is asked to. */
import { readFileSync } from 'node:fs';
import ipaddr from 'ipaddr.js';
import type { Logger } from 'pino';
import type { AuditFact, AuditIdentity } from '../audit/audit-entry.ts';
import { writeDurably } from '../durable-file.ts';
import type { NoticeKind } from '../upward/upward.ts';
import type { Lockouts } from './lockouts.ts';
import { type SuspicionRules, SuspicionWatch } from './suspicion.ts';
import { suspicionLimits } from './suspicion-limits.ts';

export interface SuspicionGuardOptions {
  rules: SuspicionRules;
  lockMs: number;
  lockouts: Lockouts;
  /** Where what was learned of identities is kept over a restart. */
  learnedFile: string;
  notice: (kind: NoticeKind, about: { identity?: AuditIdentity; count?: number }) => void;
  log: Logger;
  now?: () => number;
}

export class SuspicionGuard {
  readonly #options: SuspicionGuardOptions;
  #lockMs: number;
  readonly #watch: SuspicionWatch;
  readonly #now: () => number;
  #timer: NodeJS.Timeout | undefined;
  readonly counters = { suspicions: 0 };

  constructor(options: SuspicionGuardOptions) {
    this.#options = options;
    this.#lockMs = options.lockMs;
    this.#now = options.now ?? Date.now;
    this.#watch = new SuspicionWatch(options.rules, networkAround);
    try {
      this.#watch.recall(JSON.parse(readFileSync(options.learnedFile, 'utf8')));
    } catch {
      // Nothing was learned yet.
    }
  }

  /** What holds from now on; locks that there are stay. */
  configure(rules: SuspicionRules, lockMs: number): void {
    this.#watch.rules = rules;
    this.#lockMs = lockMs;
  }

  start(): void {
    this.#timer = setInterval(() => this.#save(), suspicionLimits.saveEveryMs).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#save();
  }

  /** A listener of the audit. */
  readonly recorded = (fact: AuditFact): void => {
    // What a lock refuses says nothing new.
    if (fact.context?.lockedFor !== undefined) return;
    const { lockouts, log, notice } = this.#options;
    for (const { kind, identity, count, response } of this.#watch.observe(fact, this.#now())) {
      this.counters.suspicions += 1;
      log.warn(
        { kind, identity: { kind: identity.kind, id: identity.id }, count, response },
        'suspicious activity',
      );
      notice(kind, { identity, count });
      if (response === 'notice') continue;
      if (response === 'lock_agent') lockouts.lockAgent(kind);
      else lockouts.lockIdentity(identity, kind, this.#lockMs);
      notice('IDENTITY_LOCKED', { identity, count: 1 });
    }
  };

  #save(): void {
    const { learnedFile, log } = this.#options;
    try {
      writeDurably(learnedFile, `${JSON.stringify(this.#watch.learned())}\n`, 0o600);
    } catch (error) {
      log.warn({ error: String(error) }, 'what was learned of identities could not be kept');
    }
  }
}

/** An address with its neighbours: 256 of IPv4, a /64 of IPv6. */
export function networkAround(address: string): string {
  try {
    const parsed = ipaddr.process(address.split('%')[0] ?? '');
    const [kept, length] = parsed.kind() === 'ipv4' ? [3, 24] : [8, 64];
    const bytes = parsed.toByteArray().map((byte, at) => (at < kept ? byte : 0));
    return `${ipaddr.fromByteArray(bytes)}/${length}`;
  } catch {
    return address;
  }
}
