/**
 * Sends the audit on to one receiver, every line at least once and in order. It reads the files alone, so
 * that a receiver that is down or slow holds up nobody: the log waits for it, not the agent.
 *
 * The position is written after what it says has arrived; a crash in between sends again. After failures
 * in a row the receiver is left alone, each time longer, and then tried with one piece.
 */
import { readFileSync } from 'node:fs';
import type { auditLogs } from '@keystead/contracts/agent-api/audit';
import {
  BrokenCircuitError,
  CircuitState,
  ConsecutiveBreaker,
  circuitBreaker,
  ExponentialBackoff,
  handleAll,
} from 'cockatiel';
import type { Logger } from 'pino';
import { z } from 'zod';
import { writeDurably } from '../../durable-file.ts';
import type { Destination } from './destination.ts';
import { forwardingLimits } from './forwarding-limits.ts';
import { LogPosition } from './log-position.ts';

export interface AuditForwarderOptions {
  logFile: string;
  /** Whose log it is. */
  source: (typeof auditLogs)[number];
  /** Where the position is kept. */
  positionFile: string;
  destination: Destination;
  log: Logger;
  /** The last entry that is on the disk; undefined where that is not known. */
  through?: (() => number | undefined) | undefined;
  monotonicNow?: () => number;
  everyMs?: number;
  firstPauseMs?: number;
}

export class AuditForwarder {
  readonly #options: AuditForwarderOptions;
  readonly #log: Logger;
  readonly #destination: Destination;
  readonly #position: LogPosition;
  readonly #monotonicNow: () => number;
  readonly #breaker;
  /** Entries up to this one have arrived. */
  #confirmed: number;
  /** Of the log that they are of. */
  #chain: string | undefined;
  #saved: number;
  #savedAtMs = Number.NEGATIVE_INFINITY;
  #unconfirmedSinceMs: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #turn: Promise<void> = Promise.resolve();
  #running = false;
  #stopping = false;
  /** Another may write the position from then on. */
  #isStopped = false;
  #failing = false;
  readonly counters = { forwarded: 0, failures: 0 };

  constructor(options: AuditForwarderOptions) {
    this.#options = options;
    this.#destination = options.destination;
    this.#log = options.log.child({ destination: options.destination.name });
    this.#monotonicNow = options.monotonicNow ?? (() => performance.now());
    const { sequence, chain } = readPosition(options.positionFile);
    this.#confirmed = sequence;
    this.#chain = chain;
    this.#saved = sequence;
    this.#position = new LogPosition(options.logFile, sequence, chain);
    this.#breaker = circuitBreaker(handleAll, {
      breaker: new ConsecutiveBreaker(forwardingLimits.failuresBeforeOpen),
      halfOpenAfter: new ExponentialBackoff({
        initialDelay: options.firstPauseMs ?? forwardingLimits.firstPauseMs,
        maxDelay: forwardingLimits.longestPauseMs,
      }),
    });
  }

  start(): void {
    this.#timer = setInterval(
      () => this.wake(),
      this.#options.everyMs ?? forwardingLimits.everyMs,
    ).unref();
    this.wake();
  }

  /** Sends what there is; one at a time. */
  wake(): void {
    if (this.#stopping || this.#running) return;
    this.#running = true;
    this.#turn = this.#forwardAll().finally(() => {
      this.#running = false;
      // What was opened after the end was waited for long enough.
      if (this.#isStopped) this.#destination.reset();
    });
  }

  get name(): string {
    return this.#destination.name;
  }

  get source(): (typeof auditLogs)[number] {
    return this.#options.source;
  }

  /** Entries that were read and have not arrived. */
  get underWay(): number {
    return Math.max(0, this.#position.sequence - this.#confirmed);
  }

  /** Entries up to this one have arrived. */
  get confirmed(): number {
    return this.#confirmed;
  }

  /** Entries that were retired before they were sent. */
  get skipped(): number {
    return this.#position.skipped;
  }

  get isPaused(): boolean {
    return this.#breaker.state !== CircuitState.Closed;
  }

  /** Writes the position down. What has only left is sent again by the next run. */
  async stop(withinMs = 500): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#timer);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, withinMs);
    });
    await Promise.race([this.#turn.then(() => this.#confirm(true)), late]).catch(() => undefined);
    clearTimeout(timer);
    this.#save(true);
    this.#isStopped = true;
    this.#destination.reset();
  }

  async #forwardAll(): Promise<void> {
    try {
      while (!this.#stopping) {
        const readBefore = this.#position.sequence;
        const lines = await this.#position.read(this.#options.through?.());
        if (this.#stopping) {
          // Not sent, so not to be taken for sent by the last confirmation.
          this.#position.rewind(readBefore, this.#chain);
          return;
        }
        if (this.#position.chain !== this.#chain) {
          if (this.#chain !== undefined) this.#confirmed = 0;
          this.#chain = this.#position.chain;
        }
        if (lines.length === 0) break;
        await this.#breaker.execute(() => this.#destination.send(lines));
        this.counters.forwarded += lines.length;
        this.#unconfirmedSinceMs ??= this.#monotonicNow();
        if (this.#destination.acknowledges) this.#arrived();
        else await this.#confirm(false);
        this.#well();
      }
      await this.#confirm(false);
      this.#save(false);
    } catch (error) {
      this.#position.rewind(this.#confirmed, this.#chain);
      this.#unconfirmedSinceMs = undefined;
      this.#destination.reset();
      if (error instanceof BrokenCircuitError) return;
      this.counters.failures += 1;
      if (!this.#failing) this.#log.warn({ error: String(error) }, 'the audit is not forwarded');
      this.#failing = true;
    }
  }

  /** Asks a receiver that acknowledges nothing, when enough was sent or time has passed. */
  async #confirm(isLast: boolean): Promise<void> {
    const sinceMs = this.#unconfirmedSinceMs;
    if (sinceMs === undefined || this.#position.sequence === this.#confirmed) return;
    const isDue =
      isLast ||
      this.#position.sequence - this.#confirmed >= forwardingLimits.unconfirmedLines ||
      this.#monotonicNow() - sinceMs >= forwardingLimits.unconfirmedMs;
    if (!isDue) return;
    await this.#breaker.execute(() => this.#destination.confirm());
    this.#arrived();
  }

  #arrived(): void {
    this.#confirmed = this.#position.sequence;
    this.#unconfirmedSinceMs = undefined;
    this.#save(false);
  }

  #well(): void {
    if (!this.#failing) return;
    this.#failing = false;
    this.#log.info('the audit is forwarded again');
  }

  #save(isLast: boolean): void {
    const nowMs = this.#monotonicNow();
    if (this.#isStopped || this.#saved === this.#confirmed) return;
    if (!isLast && nowMs - this.#savedAtMs < forwardingLimits.saveEveryMs) return;
    try {
      writeDurably(
        this.#options.positionFile,
        `${JSON.stringify({ sequence: this.#confirmed, chain: this.#chain })}\n`,
        0o600,
      );
      this.#saved = this.#confirmed;
      this.#savedAtMs = nowMs;
    } catch (error) {
      this.#log.warn({ error: String(error) }, 'the position of forwarding could not be written');
    }
  }
}

const storedPosition = z.object({
  sequence: z.number().int().min(0),
  chain: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .optional(),
});

/** From the beginning where nothing is known: twice is better than never. */
function readPosition(file: string): z.infer<typeof storedPosition> {
  try {
    return storedPosition.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch {
    return { sequence: 0 };
  }
}
