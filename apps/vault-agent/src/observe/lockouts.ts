/**
 * Who may do nothing for a while because of what they did, or everybody: the answer to suspicious activity
 * where vault.yaml or a policy set asks for it (R4.5). Kept in a file, so that a restart opens nothing; `keystead-agent
 * unlock` takes it away, and the running agent notices within a second.
 */
import { readFileSync, statSync } from 'node:fs';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { AuditIdentity } from '../audit/audit-entry.ts';
import { removeDurably, writeDurably } from '../durable-file.ts';
import { suspicionLimits } from './suspicion-limits.ts';

const lockout = z.object({
  kind: z.string().max(64),
  id: z.string().max(2_048),
  reason: z.string().max(64),
  sinceMs: z.number().int(),
  /** Null until somebody unlocks. */
  untilMs: z.number().int().nullable(),
});
export type Lockout = z.infer<typeof lockout>;
const content = z.object({ agent: lockout.nullable(), identities: z.array(lockout) });

export function readLockouts(file: string): z.infer<typeof content> {
  try {
    return content.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { agent: null, identities: [] };
    // What cannot be read may have locked everybody.
    const nowMs = Date.now();
    const reason = 'the file of lockouts cannot be read';
    return {
      agent: { kind: '', id: '', reason, sinceMs: nowMs, untilMs: null },
      identities: [],
    };
  }
}

/** Takes every lock away. Answers how many there were. */
export function unlock(file: string): number {
  const { agent, identities } = readLockouts(file);
  removeDurably(file);
  return identities.length + (agent === null ? 0 : 1);
}

export class Lockouts {
  readonly #file: string;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #identities = new Map<string, Lockout>();
  #agent: Lockout | null = null;
  #writtenAtMs = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(file: string, log: Logger, now: () => number = Date.now) {
    this.#file = file;
    this.#log = log;
    this.#now = now;
    const { agent, identities } = readLockouts(file);
    this.#agent = agent;
    for (const each of identities) this.#identities.set(keyOf(each), each);
    this.#writtenAtMs = this.#fileTimeMs();
    if (this.count > 0) log.warn({ lockouts: this.count }, 'identities are locked since before');
  }

  start(): void {
    this.#timer = setInterval(() => this.#look(), suspicionLimits.lockoutPollMs).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  get count(): number {
    return this.#identities.size + (this.#agent === null ? 0 : 1);
  }

  /** Why the identity may do nothing now; undefined where it may. */
  of(identity: Pick<AuditIdentity, 'kind' | 'id'>): Lockout | undefined {
    if (identity.kind === 'system') return undefined;
    if (this.#agent !== null) return this.#agent;
    if (this.#identities.size === 0) return undefined;
    const key = keyOf(identity);
    const found = this.#identities.get(key);
    if (found === undefined) return undefined;
    if (found.untilMs === null || this.#now() < found.untilMs) return found;
    this.#look();
    if (this.#identities.delete(key)) this.#write();
    return undefined;
  }

  lockIdentity(identity: AuditIdentity, reason: string, forMs: number): void {
    // What was taken away a moment ago does not come back with this one.
    this.#look();
    const nowMs = this.#now();
    const [oldest] = this.#identities.keys();
    if (this.#identities.size >= suspicionLimits.lockouts && oldest !== undefined) {
      this.#identities.delete(oldest);
    }
    const { kind, id } = identity;
    const untilMs = nowMs + forMs;
    this.#identities.set(keyOf(identity), { kind, id, reason, sinceMs: nowMs, untilMs });
    this.#log.error({ identity: { kind, id }, reason, untilMs }, 'an identity is locked');
    this.#write();
  }

  lockAgent(reason: string): void {
    this.#look();
    this.#agent = { kind: '', id: '', reason, sinceMs: this.#now(), untilMs: null };
    this.#log.error({ reason }, 'the agent is locked: "keystead-agent unlock" opens it');
    this.#write();
  }

  /** Somebody took the file away. */
  #look(): void {
    if (this.count === 0 || this.#fileTimeMs() === this.#writtenAtMs) return;
    const { agent, identities } = readLockouts(this.#file);
    this.#agent = agent;
    this.#identities.clear();
    for (const each of identities) this.#identities.set(keyOf(each), each);
    this.#writtenAtMs = this.#fileTimeMs();
    this.#log.warn({ lockouts: this.count }, 'locks were taken away');
  }

  #write(): void {
    try {
      const kept = { agent: this.#agent, identities: [...this.#identities.values()] };
      writeDurably(this.#file, `${JSON.stringify(kept)}\n`, 0o600);
    } catch (error) {
      this.#log.error({ error: String(error) }, 'a lock holds only until the agent stops');
    }
    this.#writtenAtMs = this.#fileTimeMs();
  }

  #fileTimeMs(): number {
    return statSync(this.#file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  }
}

const keyOf = ({ kind, id }: { kind: string; id: string }) => `${kind} ${id}`;
