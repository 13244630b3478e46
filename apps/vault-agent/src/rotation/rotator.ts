/**
 * What changes a value where it is used. Each step may be run again after a crash, by another agent, with
 * the same values: a rotator makes the world as the step wants it and does not count on how it was.
 *
 * `create` makes the new value and changes nothing that is in force. `apply` puts it in force.
 * `verify` proves that a value works. `rollBack` puts the value before in force again, also where
 * `apply` never happened, or half of it. `retire` ends the value before, after the overlap.
 */
import type { RotatorKind, SecretReference } from '@keystead/contracts/agent-api/rotation';
import type { ValueEncoding } from '@keystead/contracts/agent-api/secrets';

/** As the API writes it in JSON. */
export interface RotationValue {
  readonly value: string;
  readonly encoding: ValueEncoding;
}

export interface RotationWork {
  readonly secret: { readonly namespace: string; readonly name: string };
  /** What is in force when the rotation begins. */
  readonly current: RotationValue;
  /** Aborts at the end of the step's time, or when another agent took over. */
  readonly signal: AbortSignal;
  /** Another secret of the vault, as text. */
  readSecret(reference: SecretReference): Promise<string>;
}

export interface Rotator {
  readonly kind: RotatorKind;
  /** For one step. */
  readonly timeoutMs: number;
  create(work: RotationWork): Promise<RotationValue>;
  apply(work: RotationWork, next: RotationValue): Promise<void>;
  verify(work: RotationWork, value: RotationValue): Promise<void>;
  rollBack(work: RotationWork, next: RotationValue): Promise<void>;
  /** `work.current` is in force now, `retired` was before. */
  retire(work: RotationWork, retired: RotationValue): Promise<void>;
}

/**
 * Why a step failed. It goes into history, logs and answers, so it never repeats what a script, a server
 * or a library said: that may hold the value.
 */
export class RotationFailure extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.name = 'RotationFailure';
    this.code = code;
  }
}

const problemCode = /^[a-z][a-z0-9-]{0,39}$/;

/** A code that a script, an endpoint or an own rotator gave, unless it could be part of a value. */
export function safeCode(given: unknown, values: readonly RotationValue[]): string | undefined {
  if (typeof given !== 'string' || !problemCode.test(given)) return undefined;
  const isPart = values.some(({ value }) => value.includes(given) || given.includes(value));
  return isPart ? undefined : given;
}

/** Any error as a failure: what is not one already says no more than that it failed. */
export function asFailure(error: unknown, signal: AbortSignal): RotationFailure {
  if (error instanceof RotationFailure) return error;
  if (signal.aborted) return new RotationFailure('timeout', 'The step took too long');
  return new RotationFailure('failed', 'The step failed');
}

/** Rejects when the signal aborts; for races with what does not listen to it. */
export function outOfTime(
  signal: AbortSignal,
  message = 'The step took too long',
): { promise: Promise<never>; stop: () => void } {
  const { promise, reject } = Promise.withResolvers<never>();
  promise.catch(() => undefined);
  const abort = () => reject(new RotationFailure('timeout', message));
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  return { promise, stop: () => signal.removeEventListener('abort', abort) };
}
