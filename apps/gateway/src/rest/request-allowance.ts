/**
 * How many requests a caller, or a network address without a caller, may still send. Counted in Redis
 * for all gateways together; while Redis is away each gateway counts for itself.
 */
import { networkOf } from '@keystead/access/network-of';
import type { Ctx } from '@keystead/contracts/context';
import { ServiceError } from '@keystead/contracts/errors';
import type { Redis } from 'ioredis';
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';

const windowSeconds = 60;
/** After Redis failed, nobody waits for it again so long. */
const aloneForMs = 1_000;

export interface AllowanceOptions {
  perCaller: number;
  perAddress: number;
}

interface Reply {
  header(name: string, value: string): unknown;
}

/** One kind of allowance: in Redis, or in memory for as long as Redis has not answered lately. */
class Counter {
  readonly points: number;
  readonly #together: RateLimiterRedis;
  readonly #alone: RateLimiterMemory;
  #aloneUntilMs = 0;

  constructor(redis: Redis, kind: string, points: number) {
    this.points = points;
    const keyPrefix = `keystead:requests:${kind}`;
    const duration = windowSeconds;
    this.#alone = new RateLimiterMemory({ keyPrefix, points, duration });
    this.#together = new RateLimiterRedis({
      storeClient: redis,
      keyPrefix,
      points,
      duration,
      rejectIfRedisNotReady: true,
    });
  }

  /** @throws RateLimiterRes when there is nothing left */
  async consume(key: string): Promise<RateLimiterRes> {
    if (performance.now() >= this.#aloneUntilMs) {
      try {
        return await this.#together.consume(key);
      } catch (error) {
        if (error instanceof RateLimiterRes) throw error;
        // A Redis that hangs would hold up every request: the next ones do not ask.
        this.#aloneUntilMs = performance.now() + aloneForMs;
      }
    }
    return this.#alone.consume(key);
  }
}

export class RequestAllowance {
  readonly #callers: Counter;
  readonly #addresses: Counter;

  constructor(redis: Redis, options: AllowanceOptions) {
    this.#callers = new Counter(redis, 'caller', options.perCaller);
    this.#addresses = new Counter(redis, 'address', options.perAddress);
  }

  /** Counts one request and says on the reply what is left. @throws ServiceError `rate_limited` */
  async take(ctx: Ctx, reply: Reply): Promise<void> {
    const [policy, counter, key] =
      ctx.credentialId === null
        ? (['address', this.#addresses, networkOf(ctx.address ?? 'unknown')] as const)
        : (['caller', this.#callers, ctx.credentialId] as const);
    const { points } = counter;
    let result: RateLimiterRes;
    let exceeded = false;
    try {
      result = await counter.consume(key);
    } catch (error) {
      if (!(error instanceof RateLimiterRes)) throw error;
      result = error;
      exceeded = true;
    }
    const remaining = Math.max(0, result.remainingPoints);
    const resetSeconds = Math.max(1, Math.ceil(result.msBeforeNext / 1_000));
    reply.header('ratelimit-policy', `"${policy}";q=${points};w=${windowSeconds}`);
    reply.header('ratelimit', `"${policy}";r=${remaining};t=${resetSeconds}`);
    reply.header('ratelimit-limit', String(points));
    reply.header('ratelimit-remaining', String(remaining));
    reply.header('ratelimit-reset', String(resetSeconds));
    if (exceeded) {
      throw new ServiceError('rate_limited', {
        detail: `at most ${points} requests a minute`,
        retryAfterSeconds: resetSeconds,
      });
    }
  }
}
