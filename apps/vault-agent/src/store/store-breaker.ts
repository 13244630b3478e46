/**
 * Keeps callers from waiting for a store that is away: after several failures in a row everything is
 * refused at once, until a single probe has succeeded. Only the store's absence counts as a failure;
 * what it says about a query does not.
 */
import { ServiceError } from '@keystead/contracts/errors';
import {
  BrokenCircuitError,
  type CircuitBreakerPolicy,
  CircuitState,
  ConsecutiveBreaker,
  circuitBreaker,
  ExponentialBackoff,
  handleWhen,
} from 'cockatiel';
import { storeLimits } from './store-limits.ts';

/** The store did not answer in time. */
class StoreTimeout extends Error {
  /** Of a reading. A change may wait for another change, which says nothing of the store. */
  readonly isAbsence: boolean;

  constructor(afterMs: number, isAbsence: boolean) {
    super(`the store did not answer within ${afterMs} ms`);
    this.name = 'StoreTimeout';
    this.isAbsence = isAbsence;
  }
}

export interface StorePatience {
  timeoutMs: number;
  /** A change: it may wait for others. */
  isChange: boolean;
  /** Ended work is waited for, so that what is said of it is true. */
  isAwaited?: boolean;
}

const connectionCodes = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ENOENT',
  'PROTOCOL_CONNECTION_LOST',
  'PROTOCOL_SEQUENCE_TIMEOUT',
  'PROTOCOL_ENQUEUE_AFTER_FATAL_ERROR',
  'POOL_CLOSED',
  'ER_SERVER_SHUTDOWN',
  'ER_CON_COUNT_ERROR',
  'ER_QUERY_INTERRUPTED',
  'ER_CONNECTION_KILLED',
  'ER_OPTION_PREVENTS_STATEMENT',
]);

/** SQLite's primary codes: busy, locked, read-only, an error of the disk, full, cannot open. */
const sqliteCodes = new Set([5, 6, 8, 10, 13, 14]);

/** Whether an error says that the store is away, and nothing about the query. */
export function isStoreAway(error: unknown): boolean {
  if (error instanceof StoreTimeout) return error.isAbsence;
  const { code, errcode, message, errors } = (error ?? {}) as {
    code?: unknown;
    errcode?: unknown;
    message?: unknown;
    errors?: unknown;
  };
  // Several addresses of one host, all refused.
  if (Array.isArray(errors) && errors.length > 0) return errors.every(isStoreAway);
  if (typeof errcode === 'number' && sqliteCodes.has(errcode & 0xff)) return true;
  if (typeof code === 'string') {
    // PostgreSQL: connection exceptions, operator intervention, too many connections, starting up.
    if (/^(?:08...|57P0.|53...|57014|25006)$/.test(code)) return true;
    if (connectionCodes.has(code)) return true;
  }
  return (
    typeof message === 'string' &&
    /^(?:Connection terminated|timeout exceeded when trying to connect|connect ETIMEDOUT|Connection lost|Can't add new command when connection is in closed state|Pool is closed|Client has encountered a connection error)/.test(
      message,
    )
  );
}

export type Circuit = 'closed' | 'half-open' | 'open';

export function circuitOf(state: CircuitState): Circuit {
  if (state === CircuitState.Closed) return 'closed';
  return state === CircuitState.HalfOpen ? 'half-open' : 'open';
}

export class StoreBreaker {
  readonly #policy: CircuitBreakerPolicy;
  readonly #listeners = new Set<(isAvailable: boolean) => void>();

  constructor() {
    this.#policy = circuitBreaker(handleWhen(isStoreAway), {
      breaker: new ConsecutiveBreaker(storeLimits.failuresToOpen),
      halfOpenAfter: new ExponentialBackoff({
        initialDelay: storeLimits.probeAfterFirstMs,
        maxDelay: storeLimits.probeAfterMostMs,
      }),
    });
    this.#policy.onBreak(() => this.#tell(false));
    this.#policy.onReset(() => this.#tell(true));
  }

  get isAvailable(): boolean {
    return this.#policy.state === CircuitState.Closed;
  }

  /** `half-open` while one work tries whether the store is back. */
  get circuit(): Circuit {
    return circuitOf(this.#policy.state);
  }

  /** Called when the store went away and when it is back. */
  onChange(listener: (isAvailable: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Work that is not done in time has its signal aborted.
   * @throws ServiceError `unavailable` where the store is away, was refused without asking, or did not
   * answer in time; a write may have happened then
   */
  async run<T>(work: (signal: AbortSignal) => Promise<T>, patience: StorePatience): Promise<T> {
    try {
      return await this.#policy.execute(() => within(work, patience));
    } catch (error) {
      if (
        error instanceof BrokenCircuitError ||
        error instanceof StoreTimeout ||
        isStoreAway(error)
      ) {
        throw new ServiceError('unavailable', {
          detail: 'The store of the vault is not available at the moment',
          retryAfterSeconds: 1,
          internal: `the store is away: ${(error as Error).message}`,
          cause: error,
        });
      }
      throw error;
    }
  }

  #tell(isAvailable: boolean): void {
    for (const listener of this.#listeners) listener(isAvailable);
  }
}

async function within<T>(
  work: (signal: AbortSignal) => Promise<T>,
  { timeoutMs, isChange, isAwaited }: StorePatience,
): Promise<T> {
  const ending = new AbortController();
  const tooLate = new StoreTimeout(timeoutMs, !isChange);
  const timers: NodeJS.Timeout[] = [];
  const after = (ms: number, then: () => void) => {
    timers.push(setTimeout(then, ms).unref());
  };
  const late = new Promise<never>((_resolve, reject) => {
    after(timeoutMs, () => {
      ending.abort(tooLate);
      // Where even this passes the work waits for something else than the store: it ends when that comes.
      if (isAwaited) after(storeLimits.bulkEndsWithinMs, () => reject(tooLate));
      else reject(tooLate);
    });
  });
  try {
    return await Promise.race([work(ending.signal), late]);
  } finally {
    for (const timer of timers) clearTimeout(timer);
  }
}
