/**
 * Lets a few in at a time. Whoever knocks without credentials must not take every connection to the
 * database from those who have some, and who has waited too long is gone: working for them would
 * spend what nobody receives.
 */
import { ServiceError } from '@keystead/contracts/errors';

export interface TurnstileOptions {
  /** How many at once. */
  places: number;
  /** How many may wait. */
  waiting: number;
  waitMs: number;
}

export class Turnstile {
  readonly #options: TurnstileOptions;
  readonly #waiting = new Set<() => void>();
  #free: number;

  constructor(options: TurnstileOptions) {
    this.#options = options;
    this.#free = options.places;
  }

  /** @throws ServiceError `unavailable` when too many wait, or this one has waited too long */
  async pass<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await this.#wait();
    try {
      return await work();
    } finally {
      const [next] = this.#waiting;
      if (next) next();
      else this.#free += 1;
    }
  }

  #wait(): Promise<void> {
    if (this.#waiting.size >= this.#options.waiting) return Promise.reject(busy());
    return new Promise((resolve, reject) => {
      const enter = () => {
        this.#waiting.delete(enter);
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(enter);
        reject(busy());
      }, this.#options.waitMs);
      this.#waiting.add(enter);
    });
  }
}

function busy(): ServiceError {
  return new ServiceError('unavailable', {
    detail: 'many enrol at the moment; try again',
    retryAfterSeconds: 2,
  });
}
