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

export interface AllowanceOptions {
  perCaller: number;
  perAddress: number;
}

interface Reply {
  header(name: string, value: string): unknown;
}

export class RequestAllowance {
  readonly #callers: RateLimiterRedis;
  readonly #addresses: RateLimiterRedis;

  constructor(redis: Redis, options: AllowanceOptions) {
    const limiter = (kind: string, points: number) =>
      new RateLimiterRedis({
        storeClient: redis,
        keyPrefix: `keystead:requests:${kind}`,
        points,
        duration: windowSeconds,
        rejectIfRedisNotReady: true,
        insuranceLimiter: new RateLimiterMemory({ points, duration: windowSeconds }),
      });
    this.#callers = limiter('caller', options.perCaller);
    this.#addresses = limiter('address', options.perAddress);
  }

  /** Counts one request and says on the reply what is left. @throws ServiceError `rate_limited` */
  async take(ctx: Ctx, reply: Reply): Promise<void> {
    const [policy, limiter, key] =
      ctx.credentialId === null
        ? (['address', this.#addresses, networkOf(ctx.address ?? 'unknown')] as const)
        : (['caller', this.#callers, ctx.credentialId] as const);
    const { points } = limiter;
    let result: RateLimiterRes;
    let exceeded = false;
    try {
      result = await limiter.consume(key);
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
