/**
 * Starts a service: environment, logs, the NATS microservice, health and metrics, and an orderly
 * stop on SIGTERM. What goes wrong at start is said in one line.
 */
import 'reflect-metadata';
import type { ServiceName } from '@keystead/contracts/operation';
import { AnswerSerializer } from '@keystead/messaging/answer-serializer';
import { natsConnection } from '@keystead/messaging/bus-options';
import { BusServer } from '@keystead/messaging/bus-server';
import type { DynamicModule, INestMicroservice } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { MicroserviceOptions } from '@nestjs/microservices';
import { collectDefaultMetrics, Registry } from 'prom-client';
import { type BaseEnvironment, ConfigurationError } from './environment.ts';
import { type Check, listenForHealth } from './health.ts';
import { createLog, type Logger, nestLogger } from './log.ts';

export interface BootOptions<E extends BaseEnvironment> {
  service: ServiceName;
  environment: () => E;
  module: (environment: E, log: Logger, metrics: Registry) => DynamicModule;
  /** What must answer before the service is ready. */
  checks: (app: INestMicroservice) => Check[];
}

export async function bootService<E extends BaseEnvironment>(
  options: BootOptions<E>,
): Promise<void> {
  const environment = readOrExit(options.service, options.environment);
  const log = createLog(options.service, environment.KEYSTEAD_LOG_LEVEL);
  const metrics = new Registry();
  metrics.setDefaultLabels({ service: options.service });
  collectDefaultMetrics({ register: metrics });
  try {
    const app = await NestFactory.createMicroservice<MicroserviceOptions>(
      options.module(environment, log, metrics),
      {
        strategy: new BusServer({
          ...natsConnection({
            natsUrl: environment.KEYSTEAD_NATS_URL,
            service: options.service,
          }),
          serializer: new AnswerSerializer((bytes) =>
            log.warn({ bytes }, 'an answer is too large for the bus'),
          ),
        }),
        logger: nestLogger(log),
      },
    );
    await app.listen();
    const health = await listenForHealth(
      { host: environment.KEYSTEAD_HEALTH_HOST, port: environment.KEYSTEAD_HEALTH_PORT },
      options.checks(app),
      metrics,
    );
    stopOnSignal(log, async () => {
      await health.close();
      await app.close();
    });
    log.info({ healthPort: health.port }, 'started');
  } catch (error) {
    log.fatal({ err: error }, 'could not start');
    process.exit(1);
  }
}

export function readOrExit<E>(service: ServiceName, read: () => E): E {
  try {
    return read();
  } catch (error) {
    if (error instanceof ConfigurationError) {
      process.stderr.write(`${service}: ${error.message}\n`);
      process.exit(2);
    }
    throw error;
  }
}

const stopWithinMs = 4_000;

/** SIGTERM and SIGINT stop in order; a stop that hangs is cut off. */
export function stopOnSignal(log: Logger, stop: () => Promise<void>): void {
  let stopping = false;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (stopping) return;
      stopping = true;
      log.info({ signal }, 'stopping');
      setTimeout(() => process.exit(0), stopWithinMs).unref();
      stop()
        .catch((error: unknown) => log.error({ err: error }, 'did not stop cleanly'))
        .finally(() => process.exit(0));
    });
  }
  process.on('unhandledRejection', (error) => log.error({ err: error }, 'unhandled rejection'));
}
