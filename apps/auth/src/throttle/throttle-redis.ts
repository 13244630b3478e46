import type { Logger } from '@keystead/service-runtime/log';
import type { OnApplicationShutdown } from '@nestjs/common';
import { Redis } from 'ioredis';

/** A connection that answers at once or not at all: a sign-in does not wait for Redis. */
export class ThrottleRedis implements OnApplicationShutdown {
  readonly connection: Redis;

  constructor(url: string, log: Pick<Logger, 'warn'>) {
    this.connection = new Redis(url, {
      maxRetriesPerRequest: 0,
      enableOfflineQueue: false,
      commandTimeout: 1_000,
      retryStrategy: (tries) => Math.min(100 * tries, 1_000),
    });
    this.connection.on('error', (error) => log.warn({ err: error }, 'redis'));
  }

  onApplicationShutdown(): void {
    this.connection.disconnect();
  }
}
