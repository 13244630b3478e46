/**
 * Calling a key service over the network: a deadline for each try, a few tries with growing pauses where
 * another may succeed, and an end to all of it.
 */
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { KeyProviderError, type KeyProviderKind, type KeyProviderReason } from '../key-provider.ts';

export interface RemoteCallOptions {
  /** For one try. */
  timeoutMs?: number;
  maxAttempts?: number;
  /** Before the second try; doubles from there, and half of it is random. */
  firstPauseMs?: number;
  /** What the service asks for in Retry-After is obeyed up to this. */
  maxPauseMs?: number;
}

const defaults = { timeoutMs: 5_000, maxAttempts: 4, firstPauseMs: 200, maxPauseMs: 5_000 };

export interface RemoteFailure {
  reason: KeyProviderReason;
  message: string;
  retryAfterMs?: number;
}

/**
 * @param work gets a signal that fires at the try's deadline
 * @param explain what an error of the service's client means
 * @throws KeyProviderError
 */
export async function callRemote<T>(
  kind: KeyProviderKind,
  options: RemoteCallOptions | undefined,
  work: (signal: AbortSignal) => Promise<T>,
  explain: (error: unknown) => RemoteFailure,
): Promise<T> {
  const { timeoutMs, maxAttempts, firstPauseMs, maxPauseMs } = { ...defaults, ...options };
  for (let attempt = 1; ; attempt += 1) {
    const signal = AbortSignal.timeout(timeoutMs);
    let failure: RemoteFailure;
    try {
      return await raced(work(signal), signal);
    } catch (error) {
      if (error instanceof KeyProviderError) throw error;
      failure = signal.aborted
        ? { reason: 'timed_out', message: `no answer within ${timeoutMs} ms` }
        : explain(error);
    }
    const wrong = new KeyProviderError(kind, failure.reason, failure.message);
    if (!wrong.isRetryable || attempt >= maxAttempts) throw wrong;
    const pauseMs = firstPauseMs * 2 ** (attempt - 1);
    const jitteredMs = pauseMs / 2 + randomInt(Math.max(1, Math.ceil(pauseMs / 2)));
    await sleep(Math.min(maxPauseMs, Math.max(jitteredMs, failure.retryAfterMs ?? 0)));
  }
}

/** A client that does not heed the signal is left behind. */
function raced<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abandon = () => reject(signal.reason);
    signal.addEventListener('abort', abandon, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abandon));
  });
}

const unreachable = [
  'ECONNREFUSED',
  'ECONNRESET',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EPIPE',
  'ETIMEDOUT',
  'UND_ERR_SOCKET',
  'UND_ERR_CONNECT_TIMEOUT',
];

/** The code of the network's error that hides somewhere in the causes, if that is what it was. */
export function networkErrorCode(error: unknown): string | undefined {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 5; depth += 1) {
    const { code } = cause as NodeJS.ErrnoException;
    if (typeof code === 'string' && unreachable.includes(code)) return code;
    cause = cause.cause;
  }
  return undefined;
}

/** Retry-After in milliseconds, if it is there in seconds. */
export function retryAfterMs(header: string | null | undefined): number | undefined {
  const seconds = Number(header ?? Number.NaN);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds * 1_000 : undefined;
}
