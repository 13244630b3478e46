/**
 * The owner's way past the policies when they are in the way of an emergency: for a time, with a reason,
 * seen by everybody. Roles go on deciding. Only who opens the vault's keys can make one, because each
 * is signed with a key that comes from them; agents that share the store see it within a second.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { SqlStore } from '@keystead/vault-store/sql/sql-store';
import type { Caller } from '../access/caller.ts';
import { identityText } from '../namespaces/namespace-change.ts';
import { policyLimits } from './policy-limits.ts';
import type { PolicyTables } from './policy-tables.ts';

export interface Override {
  id: string;
  reason: string;
  by: string;
  fromMs: number;
  /** When it ends; in the past where it was revoked. */
  untilMs: number;
}

export interface OverridesOptions {
  store: SqlStore<PolicyTables>;
  /** 32 bytes derived from the vault's keys. */
  key: Uint8Array;
  now?: () => number;
  monotonicMs?: () => number;
  onError?: (error: unknown) => void;
}

export class Overrides {
  readonly #options: OverridesOptions;
  readonly #now: () => number;
  readonly #monotonicMs: () => number;
  readonly #listeners: ((override: Override, isActive: boolean) => void)[] = [];
  #current: Override | undefined;
  /** Setting the clock back does not prolong it. */
  #endsMonotonicMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> = Promise.resolve();

  constructor(options: OverridesOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#monotonicMs = options.monotonicMs ?? (() => performance.now());
  }

  /** Told once of each beginning and each end. */
  onChange(listener: (override: Override, isActive: boolean) => void): void {
    this.#listeners.push(listener);
  }

  /** The one in force now, as far as this agent has seen. */
  get active(): Override | undefined {
    const current = this.#current;
    if (current === undefined) return undefined;
    const isOver = current.untilMs <= this.#now() || this.#endsMonotonicMs <= this.#monotonicMs();
    return isOver ? undefined : current;
  }

  start(): void {
    const next = () => {
      this.#timer = setTimeout(() => {
        this.#looking = this.look().catch((error) => this.#options.onError?.(error));
        void this.#looking.finally(() => this.#timer !== undefined && next());
      }, policyLimits.overridePollMs);
      this.#timer.unref();
    };
    next();
  }

  async stop(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    await this.#looking;
  }

  async look(): Promise<void> {
    const row = await this.#options.store.db
      .selectFrom('policy_override')
      .selectAll()
      .orderBy('position', 'desc')
      .limit(1)
      .executeTakeFirst();
    const found: Override | undefined = row && {
      id: row.id,
      reason: row.reason,
      by: row.by_whom,
      fromMs: row.from_ms,
      untilMs: row.until_ms,
    };
    const isSigned = row !== undefined && found !== undefined && this.#isSigned(found, row.mac);
    const next = isSigned && found.untilMs > this.#now() ? found : undefined;
    const before = this.#current;
    if (before?.id === next?.id && before?.untilMs === next?.untilMs) {
      if (before !== undefined && this.active === undefined) this.#end(before);
      return;
    }
    if (before !== undefined && before.id !== next?.id) this.#end(before);
    this.#current = next;
    if (next === undefined) return;
    this.#endsMonotonicMs = this.#monotonicMs() + (next.untilMs - this.#now());
    if (before?.id !== next.id) for (const listener of this.#listeners) listener(next, true);
  }

  /** By whoever has opened the vault's keys on the spot. */
  async activate(caller: Caller, reason: string, minutes: number): Promise<Override> {
    if (!Number.isInteger(minutes) || minutes < 1 || minutes > policyLimits.overrideMaxMinutes) {
      throw new RangeError(`an override lasts 1 to ${policyLimits.overrideMaxMinutes} minutes`);
    }
    if (reason.trim() === '' || reason.length > policyLimits.reasonMaxLength) {
      throw new RangeError(
        `an override needs a reason of up to ${policyLimits.reasonMaxLength} characters`,
      );
    }
    const nowMs = this.#now();
    const override: Override = {
      id: toId('override', newUuid(nowMs)),
      reason,
      by: identityText(caller.identity),
      fromMs: nowMs,
      untilMs: nowMs + minutes * 60_000,
    };
    await this.#write(override);
    return override;
  }

  /** Ends the one in force. @returns whether there was one */
  async revoke(): Promise<boolean> {
    await this.look();
    const current = this.active;
    if (current === undefined) return false;
    await this.#write({ ...current, untilMs: this.#now() });
    await this.look();
    return true;
  }

  #end(override: Override): void {
    this.#current = undefined;
    for (const listener of this.#listeners) listener(override, false);
  }

  #write(override: Override): Promise<unknown> {
    return this.#options.store.write((queries) =>
      queries
        .insertInto('policy_override')
        .values({
          id: override.id,
          reason: override.reason,
          by_whom: override.by,
          from_ms: override.fromMs,
          until_ms: override.untilMs,
          mac: this.#macOf(override),
        })
        .execute(),
    );
  }

  #isSigned(override: Override, mac: string): boolean {
    const expected = Buffer.from(this.#macOf(override), 'hex');
    const given = Buffer.from(mac, 'hex');
    return given.length === expected.length && timingSafeEqual(given, expected);
  }

  #macOf({ id, reason, by, fromMs, untilMs }: Override): string {
    return createHmac('sha256', this.#options.key)
      .update(JSON.stringify(['keystead.override.v1', id, reason, by, fromMs, untilMs]))
      .digest('hex');
  }
}
