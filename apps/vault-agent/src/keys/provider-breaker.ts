/**
 * Keeps the key ring from asking a key provider again and again that does not answer: after a failure it
 * is asked once in growing pauses, and meanwhile everything that needs it is refused at once. A token that
 * refused its PIN is not shown it again until somebody changed something: it would lock itself.
 */
import { ServiceError } from '@keystead/contracts/errors';
import {
  type KeyContext,
  type KeyProvider,
  KeyProviderError,
  type WrappedKey,
} from '@keystead/envelope/key-provider';
import type { SecretKey } from '@keystead/envelope/keys';
import {
  BrokenCircuitError,
  type CircuitBreakerPolicy,
  ConsecutiveBreaker,
  circuitBreaker,
  ExponentialBackoff,
  handleWhen,
} from 'cockatiel';
import { type Circuit, circuitOf } from '../store/store-breaker.ts';
import { keyLimits } from './key-limits.ts';

/** The provider failed a moment ago and was not asked. */
export class KeyProviderPaused extends ServiceError {
  constructor(reason: string) {
    super('unavailable', {
      detail: 'What guards the keys of the vault is not available at the moment',
      retryAfterSeconds: 5,
      internal: `the key provider was not asked: ${reason}`,
    });
    this.name = 'KeyProviderPaused';
  }
}

/** What a failing provider is to whoever asked the vault. */
export function providerAway(error: KeyProviderError): ServiceError {
  return new ServiceError('unavailable', {
    detail: 'What guards the keys of the vault is not available at the moment',
    ...(error.isRetryable ? { retryAfterSeconds: 5 } : {}),
    internal: `the key provider ${error.provider}: ${error.message}`,
    cause: error,
  });
}

const isFailure = (error: unknown) =>
  error instanceof KeyProviderError && error.reason !== 'closed';

export class ProviderBreaker {
  readonly #provider: KeyProvider;
  readonly #onChange: (isAvailable: boolean) => void;
  #policy = newPolicy();
  /** A PIN was refused. */
  #refusal: KeyProviderError | undefined;
  #isAvailable = true;

  constructor(provider: KeyProvider, onChange: (isAvailable: boolean) => void = () => undefined) {
    this.#provider = provider;
    this.#onChange = onChange;
  }

  /** Whether it did what it was last asked for. */
  get isAvailable(): boolean {
    return this.#isAvailable;
  }

  get circuit(): Circuit {
    return this.#refusal === undefined ? circuitOf(this.#policy.state) : 'open';
  }

  /** @throws KeyProviderError, KeyProviderPaused */
  wrap(key: SecretKey, context: KeyContext): Promise<WrappedKey> {
    return this.#ask(() => this.#provider.wrap(key, context));
  }

  /** @throws KeyProviderError, KeyProviderPaused */
  unwrap(wrapped: WrappedKey, context: KeyContext): Promise<SecretKey> {
    return this.#ask(() => this.#provider.unwrap(wrapped, context));
  }

  describe() {
    return this.#provider.describe();
  }

  /** Somebody changed something: the next call asks it, whatever was before. */
  askAgain(): void {
    this.#refusal = undefined;
    this.#policy = newPolicy();
  }

  async #ask<T>(work: () => Promise<T>): Promise<T> {
    if (this.#refusal !== undefined) {
      throw new KeyProviderPaused(
        `${this.#refusal.message}; it is asked again after a reload or a restart`,
      );
    }
    try {
      const answer = await this.#policy.execute(work);
      this.#tell(true);
      return answer;
    } catch (error) {
      if (error instanceof BrokenCircuitError) throw new KeyProviderPaused('it failed just now');
      if (isFailure(error)) {
        const { provider, reason } = error as KeyProviderError;
        if (provider === 'pkcs11' && reason === 'denied') this.#refusal = error as KeyProviderError;
        this.#tell(false);
      }
      throw error;
    }
  }

  #tell(isAvailable: boolean): void {
    if (this.#isAvailable === isAvailable) return;
    this.#isAvailable = isAvailable;
    this.#onChange(isAvailable);
  }
}

function newPolicy(): CircuitBreakerPolicy {
  return circuitBreaker(handleWhen(isFailure), {
    breaker: new ConsecutiveBreaker(1),
    halfOpenAfter: new ExponentialBackoff({
      initialDelay: keyLimits.providerPauseFirstMs,
      maxDelay: keyLimits.providerPauseMostMs,
    }),
  });
}
