/**
 * How often somebody may try. Attempts are counted before the password is looked at and given back
 * when it was right, so parallel guesses gain nothing; a mail address is counted whether it is
 * known or not, so a lockout tells nothing. Redis counts for all replicas; without it each process
 * counts by itself.
 */

import { networkOf } from '@keystead/access/network-of';
import { InstallationKey } from '@keystead/access/sealing';
import { ServiceError } from '@keystead/contracts/errors';
import { limits } from '@keystead/contracts/limits';
import type { Redis } from 'ioredis';
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';

export interface Attempt {
  /** The password was right: what was counted is given back. */
  succeeded: () => Promise<void>;
}

type Limiter = RateLimiterRedis;

export class AttemptThrottle {
  readonly #key: InstallationKey;
  readonly #byEmail: Limiter;
  readonly #byAddress: Limiter;
  readonly #signUps: Limiter;

  constructor(redis: Redis, key: InstallationKey, signUpsPerAddressPerHour: number) {
    this.#key = key;
    const limiter = (keyPrefix: string, points: number, duration: number): Limiter =>
      new RateLimiterRedis({
        storeClient: redis,
        keyPrefix: `keystead:${keyPrefix}`,
        points,
        duration,
        rejectIfRedisNotReady: true,
        insuranceLimiter: new RateLimiterMemory({ keyPrefix, points, duration }),
      });
    this.#byEmail = limiter('sign-in-email', limits.signInsPerEmailPer15Minutes, 15 * 60);
    this.#byAddress = limiter('sign-in-address', limits.signInsPerAddressPer15Minutes, 15 * 60);
    this.#signUps = limiter('sign-up-address', signUpsPerAddressPerHour, 3_600);
  }

  /** Before a password is compared. @throws ServiceError `rate_limited` */
  async beginPassword(email: string, address: string | null): Promise<Attempt> {
    const taken: { limiter: Limiter; key: string }[] = [];
    const tries = [
      { limiter: this.#byEmail, key: this.#hide(email.trim().toLowerCase()) },
      ...(address === null
        ? []
        : [{ limiter: this.#byAddress, key: this.#hide(networkOf(address)) }]),
    ];
    for (const { limiter, key } of tries) {
      await consume(limiter, key);
      taken.push({ limiter, key });
    }
    return {
      succeeded: async () => {
        await Promise.all(taken.map(({ limiter, key }) => limiter.reward(key)));
      },
    };
  }

  /** @throws ServiceError `rate_limited` */
  async beginSignUp(address: string | null): Promise<void> {
    if (address !== null) await consume(this.#signUps, this.#hide(networkOf(address)));
  }

  /** Redis is no place for mail addresses. */
  #hide(text: string): string {
    return this.#key.sign('throttle', text).subarray(0, 16).toString('base64url');
  }
}

async function consume(limiter: Limiter, key: string): Promise<void> {
  try {
    await limiter.consume(key);
  } catch (reason) {
    if (!(reason instanceof RateLimiterRes)) throw reason;
    throw new ServiceError('rate_limited', {
      detail: 'too many attempts; wait before the next',
      retryAfterSeconds: Math.max(1, Math.ceil(reason.msBeforeNext / 1_000)),
    });
  }
}
