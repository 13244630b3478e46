/** The bus and the jobs of a service, with the guard, interceptor and error filter of its answers. */

import { Bus } from '@keystead/messaging/bus';
import {
  BusErrorFilter,
  BusGuard,
  BusInterceptor,
  ERROR_LOG,
  SERVICE_KEYS,
} from '@keystead/messaging/bus-handlers';
import { Jobs } from '@keystead/messaging/jobs';
import { readServiceKeys } from '@keystead/messaging/service-token';
import {
  type BeforeApplicationShutdown,
  type DynamicModule,
  Module,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { APP_FILTER, APP_GUARD, APP_INTERCEPTOR } from '@nestjs/core';
import type { RuntimeOptions } from './environment.ts';
import type { Logger } from './log.ts';

export const LOG = Symbol('LOG');

const openJobs = new Set<Jobs>();
const openBuses = new Set<Bus>();

@Module({})
export class MessagingModule implements BeforeApplicationShutdown, OnApplicationShutdown {
  static forRoot(options: RuntimeOptions, log: Logger): DynamicModule {
    const { service, environment } = options;
    const keys = readServiceKeys(
      service,
      environment.KEYSTEAD_SIGNING_KEY_FILE,
      environment.KEYSTEAD_PUBLIC_KEYS_DIR,
    );
    const bus = new Bus({ natsUrl: environment.KEYSTEAD_NATS_URL, service, keys });
    const jobs = new Jobs({
      redisUrl: environment.KEYSTEAD_REDIS_URL,
      onError: (error, what) => log.warn({ err: error, what }, 'a job or its queue failed'),
    });
    openJobs.add(jobs);
    openBuses.add(bus);
    return {
      module: MessagingModule,
      providers: [
        { provide: Bus, useValue: bus },
        { provide: Jobs, useValue: jobs },
        { provide: LOG, useValue: log },
        { provide: SERVICE_KEYS, useValue: keys },
        {
          provide: ERROR_LOG,
          useValue: (error: unknown, what: string) => log.error({ err: error, what }, 'failed'),
        },
        { provide: APP_GUARD, useClass: BusGuard },
        { provide: APP_INTERCEPTOR, useClass: BusInterceptor },
        { provide: APP_FILTER, useClass: BusErrorFilter },
      ],
      exports: [Bus, Jobs, LOG, SERVICE_KEYS],
    };
  }

  /** Before any module closes what duties need, as the database. */
  async beforeApplicationShutdown(): Promise<void> {
    for (const jobs of openJobs) await jobs.close();
    openJobs.clear();
  }

  async onApplicationShutdown(): Promise<void> {
    for (const bus of openBuses) await bus.close();
    openBuses.clear();
  }
}
