/**
 * How many requests an identity, or an address that nobody is known at, may still send. Counted in this
 * process, in windows of a second that let a burst of several through; it is asked for every request,
 * so it neither waits nor makes a timer.
 */
import { ServiceError } from '@keystead/contracts/errors';

export interface AllowanceOptions {
  perSecond: number;
  /** Whole seconds of it that may come at once. */
  burstSeconds: number;
  /** Whoever came first longest ago is forgotten beyond this many. */
  namesMax: number;
  now?: () => number;
}

interface Bucket {
  tokens: number;
  atMs: number;
}

export class Allowance {
  readonly #burstSeconds: number;
  #perMs = 0;
  #most = 0;
  readonly #now: () => number;
  readonly #namesMax: number;
  readonly #buckets = new Map<string, Bucket>();

  constructor(options: AllowanceOptions) {
    this.#burstSeconds = options.burstSeconds;
    this.perSecond = options.perSecond;
    this.#now = options.now ?? (() => performance.now());
    this.#namesMax = options.namesMax;
  }

  /** Takes effect with the next request. */
  set perSecond(perSecond: number) {
    this.#perMs = perSecond / 1_000;
    this.#most = perSecond * this.#burstSeconds;
  }

  /** Counts one request. @throws ServiceError `rate_limited` */
  take(name: string): void {
    const nowMs = this.#now();
    const bucket = this.#buckets.get(name);
    if (bucket === undefined) {
      if (this.#buckets.size >= this.#namesMax) {
        for (const oldest of this.#buckets.keys()) {
          this.#buckets.delete(oldest);
          break;
        }
      }
      this.#buckets.set(name, { tokens: this.#most - 1, atMs: nowMs });
      return;
    }
    const tokens = Math.min(this.#most, bucket.tokens + (nowMs - bucket.atMs) * this.#perMs);
    bucket.atMs = nowMs;
    if (tokens < 1) {
      bucket.tokens = tokens;
      throw new ServiceError('rate_limited', {
        detail: `at most ${this.#perMs * 1_000} requests a second`,
        retryAfterSeconds: Math.max(1, Math.ceil((1 - tokens) / this.#perMs / 1_000)),
      });
    }
    bucket.tokens = tokens - 1;
  }
}
