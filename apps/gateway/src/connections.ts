/** What the gateway holds open: PostgreSQL (who calls, what was revoked), NATS and Redis. */
import { createPublicKey, type KeyObject } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Database } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import { readServiceKeys } from '@keystead/messaging/service-token';
import type { Check } from '@keystead/service-runtime/health';
import type { Logger } from '@keystead/service-runtime/log';
import { Redis } from 'ioredis';
import type { Config } from './config.ts';

export interface Connections {
  database: Database;
  bus: Bus;
  redis: Redis;
  /** Verifies the access tokens that the auth service signs. */
  sessionKey: KeyObject;
  checks: Check[];
  close: () => Promise<void>;
}

const redisCommandTimeoutMs = 500;
const redisRetryMaxMs = 2_000;

export function openConnections(config: Config, log: Logger): Connections {
  const database = new Database({
    serviceUrl: config.KEYSTEAD_SERVICE_DATABASE_URL,
    acrossUrl: config.KEYSTEAD_ACROSS_DATABASE_URL,
    poolSize: config.KEYSTEAD_POOL_SIZE,
  });
  const bus = new Bus({
    natsUrl: config.KEYSTEAD_NATS_URL,
    service: 'gateway',
    keys: readServiceKeys(
      'gateway',
      config.KEYSTEAD_SIGNING_KEY_FILE,
      config.KEYSTEAD_PUBLIC_KEYS_DIR,
    ),
  });
  // Without Redis the limits are counted in memory, so nothing may wait for it.
  const redis = new Redis(config.KEYSTEAD_REDIS_URL, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 1,
    commandTimeout: redisCommandTimeoutMs,
    retryStrategy: (attempt) => Math.min(attempt * 100, redisRetryMaxMs),
  });
  redis.on('error', (error) => log.debug({ err: error }, 'redis'));
  return {
    database,
    bus,
    redis,
    sessionKey: createPublicKey(
      readFileSync(join(config.KEYSTEAD_PUBLIC_KEYS_DIR, 'auth.pem'), 'utf8'),
    ),
    // Not Redis: whoever takes a gateway out of service for it would take out all of them.
    checks: [
      { name: 'postgresql', run: () => database.ping() },
      { name: 'nats', run: () => bus.ping() },
    ],
    close: async () => {
      redis.disconnect();
      await bus.close();
      await database.close();
    },
  };
}
