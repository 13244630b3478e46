/**
 * The time that the agent believes. What cannot be undone, and what is done because it is time for it,
 * goes by this clock and not by the machine's, which may be set ten years ahead by a mistake.
 *
 * Three witnesses are heard: the clock itself; a clock that never steps, which says how much time went by
 * in this process; and the store, where every agent that believes its clock notes the time. A step that
 * none of them explains is doubted: time goes on from where it was, until the clock has kept to the step
 * for a day while no other agent contradicts, or has come back.
 */
import { ServiceError } from '@keystead/contracts/errors';
import { isDuplicate, type SqlStore } from '@keystead/vault-store/sql/sql-store';
import { clockLimits as limits } from './clock-limits.ts';
import type { ClockTables } from './clock-tables.ts';
import { type ClockState, weigh } from './clock-weighing.ts';

export interface ClockDoubt {
  /** How far the clock is ahead of the time that is believed; negative where it is behind. */
  aheadMs: number;
  /** Another agent of the store believes another time. */
  isContradicted: boolean;
}

export interface TrustedClockOptions {
  store: SqlStore<ClockTables>;
  /** Unique among the agents of the store and among the runs of one. */
  writer: string;
  now?: () => number;
  /** Milliseconds of a clock that never steps. */
  monotonicMs?: () => number;
  /** Told when the clock comes into doubt and out of it. */
  onDoubt?: (doubt: ClockDoubt | undefined) => void;
  onError?: (error: unknown) => void;
}

export class TrustedClock {
  readonly #store: SqlStore<ClockTables>;
  readonly #writer: string;
  readonly #wallMs: () => number;
  readonly #monotonicMs: () => number;
  readonly #onDoubt: (doubt: ClockDoubt | undefined) => void;
  readonly #onError: (error: unknown) => void;
  #state: ClockState;
  #weighedAtMs: number;
  /** What the store said last. */
  #noted: number | undefined;
  /** By the clock that never steps; another agent contradicted, and none has agreed since. */
  #contradictedAtMs: number | undefined;
  #isDoubted = false;
  #timer: NodeJS.Timeout | undefined;

  private constructor(options: TrustedClockOptions) {
    this.#store = options.store;
    this.#writer = options.writer;
    this.#wallMs = options.now ?? Date.now;
    this.#monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.#onDoubt = options.onDoubt ?? (() => undefined);
    this.#onError = options.onError ?? (() => undefined);
    this.#weighedAtMs = this.#monotonicMs();
    this.#state = { believedMs: this.#wallMs() };
  }

  static async open(options: TrustedClockOptions): Promise<TrustedClock> {
    const clock = new TrustedClock(options);
    const noted = await clock.#read();
    if (noted !== undefined) {
      clock.#noted = noted.seen_ms;
      clock.#state = weigh({ believedMs: noted.seen_ms }, clock.#wallMs(), undefined);
      clock.#tell();
    }
    await clock.#note(noted?.seen_ms);
    return clock;
  }

  /** Looks at the store from time to time. */
  start(): void {
    this.#timer ??= setInterval(
      () => void this.look().catch((error) => this.#onError(error)),
      limits.lookEveryMs,
    );
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Milliseconds since 1970, as far as they are believed. */
  readonly nowMs = (): number => {
    this.#weigh();
    return Math.round(this.#state.believedMs);
  };

  /** Undefined while the clock is believed. */
  get doubt(): ClockDoubt | undefined {
    this.#weigh();
    const { step } = this.#state;
    const isContradicted = this.#isContradicted;
    if (step === undefined && !isContradicted) return undefined;
    return { aheadMs: Math.round(step?.offMs ?? 0), isContradicted };
  }

  /** Hears the other agents of the store, and notes the time for them where it is believed. */
  async look(): Promise<void> {
    this.#weigh();
    const noted = await this.#read();
    const isNews = noted !== undefined && noted.seen_ms !== this.#noted;
    if (isNews && noted.writer !== this.#writer) this.#hear(noted.seen_ms);
    this.#tell();
    await this.#note(noted?.seen_ms);
  }

  get #isContradicted(): boolean {
    if (this.#contradictedAtMs === undefined) return false;
    return this.#monotonicMs() - this.#contradictedAtMs < limits.agreementMs;
  }

  #weigh(): void {
    const atMs = this.#monotonicMs();
    const elapsedMs = Math.max(0, atMs - this.#weighedAtMs);
    this.#weighedAtMs = atMs;
    this.#state = weigh(this.#state, this.#wallMs(), elapsedMs);
    this.#tell();
  }

  /** @param theirMs what another agent has believed since the last look */
  #hear(theirMs: number): void {
    const mostMs = limits.peersDifferMs + limits.lookEveryMs;
    const wallMs = this.#wallMs();
    if (Math.abs(theirMs - wallMs) <= mostMs) {
      // Two clocks agree.
      this.#state = { believedMs: wallMs };
      this.#contradictedAtMs = undefined;
      return;
    }
    this.#contradictedAtMs = this.#monotonicMs();
    const { step, believedMs } = this.#state;
    if (step !== undefined) this.#state = { believedMs, step: { ...step, stayedMs: 0 } };
  }

  #tell(): void {
    const isDoubted = this.#state.step !== undefined || this.#isContradicted;
    if (isDoubted === this.#isDoubted) return;
    this.#isDoubted = isDoubted;
    const { step } = this.#state;
    this.#onDoubt(
      isDoubted
        ? { aheadMs: Math.round(step?.offMs ?? 0), isContradicted: this.#isContradicted }
        : undefined,
    );
  }

  async #read() {
    return this.#store.db
      .selectFrom('clock_witness')
      .select(['seen_ms', 'writer'])
      .where('only', '=', 1)
      .executeTakeFirst();
  }

  async #note(before: number | undefined): Promise<void> {
    if (this.#isDoubted) {
      this.#noted = before;
      return;
    }
    const seen = { seen_ms: Math.round(this.#state.believedMs), writer: this.#writer };
    this.#noted = seen.seen_ms;
    // A command that runs for a moment adds nothing.
    if (before !== undefined && Math.abs(seen.seen_ms - before) < limits.driftMs) return;
    await this.#store
      .write(async (queries) => {
        if (before !== undefined) {
          await queries.updateTable('clock_witness').set(seen).where('only', '=', 1).execute();
          return;
        }
        await queries
          .insertInto('clock_witness')
          .values({ only: 1, ...seen })
          .execute();
      })
      .catch((error: unknown) => {
        // Another agent was first.
        if (!isDuplicate(error)) throw error;
      });
  }
}

/** For what cannot be undone. @throws ServiceError `conflict` */
export function requireBelieved(clock: { readonly doubt: ClockDoubt | undefined }): void {
  const { doubt } = clock;
  if (doubt === undefined) return;
  throw new ServiceError('conflict', {
    detail: `${doubtText(doubt)}. What cannot be undone waits until that is settled`,
  });
}

export function doubtText({ aheadMs, isContradicted }: ClockDoubt): string {
  const hours = Math.round(Math.abs(aheadMs) / 3_600_000);
  const step =
    aheadMs === 0
      ? 'The clock of this machine is doubted'
      : `The clock of this machine has stepped ${hours} hours ${aheadMs > 0 ? 'ahead' : 'back'}`;
  return isContradicted ? `${step}, and another agent of the store believes another time` : step;
}
