/**
 * The life of a gateway process: open the connections, offer the doors, and on SIGTERM say so,
 * finish what runs and close. It starts also while NATS or Redis are away; `/readyz` then says no.
 */

import { RouteTable } from '@keystead/contracts/http/route-table';
import { natsConnection } from '@keystead/messaging/bus-options';
import { stopOnSignal } from '@keystead/service-runtime/boot-service';
import { listenForHealth, serveHealth } from '@keystead/service-runtime/health';
import { type Logger, nestLogger } from '@keystead/service-runtime/log';
import { NestFactory } from '@nestjs/core';
import { type MicroserviceOptions, Transport } from '@nestjs/microservices';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyInstance } from 'fastify';
import { collectDefaultMetrics, Registry } from 'prom-client';
import { AgentHalf } from './agent-half.ts';
import type { Config } from './config.ts';
import { openConnections } from './connections.ts';
import { gatewayModule } from './gateway.module.ts';
import { serveDocs } from './rest/docs.http.ts';
import { OpenStreams } from './rest/events.http.ts';
import { createHttpServer } from './rest/http-server.ts';
import { servePages } from './rest/pages.http.ts';
import { ProblemFilter } from './rest/problem.filter.ts';
import { RequestMetrics } from './rest/request-metrics.ts';

const finishWithinMs = 1_000;

export interface RunningGateway {
  httpPort: number;
  healthPort: number;
  /** Set once the agent link listens. */
  agentPort: () => number | undefined;
  close: () => Promise<void>;
}

export async function startGateway(config: Config, log: Logger): Promise<void> {
  try {
    const gateway = await runGateway(config, log);
    stopOnSignal(log, gateway.close);
    const { httpPort, healthPort } = gateway;
    log.info({ httpPort, healthPort }, 'started');
  } catch (error) {
    log.fatal({ err: error }, 'could not start');
    process.exit(1);
  }
}

export async function runGateway(config: Config, log: Logger): Promise<RunningGateway> {
  const metrics = new Registry();
  metrics.setDefaultLabels({ service: 'gateway' });
  collectDefaultMetrics({ register: metrics });
  const hasRest = config.KEYSTEAD_GATEWAY_HALVES.includes('rest');
  const connections = openConnections(config, log);
  const routes = new RouteTable();
  const { adapter, finish } = createHttpServer({
    trustedProxies: config.KEYSTEAD_TRUSTED_PROXIES,
    corsOrigins: config.KEYSTEAD_CORS_ORIGINS,
    https: config.KEYSTEAD_PUBLIC_URL?.startsWith('https:') ?? false,
    routes,
    metrics: new RequestMetrics(metrics),
  });
  const agents = config.KEYSTEAD_GATEWAY_HALVES.includes('agents')
    ? new AgentHalf({
        bus: connections.bus,
        database: connections.database,
        log,
        metrics,
        host: config.agentListenHost,
        port: config.KEYSTEAD_AGENT_PORT,
        hosts: config.agentHosts,
      })
    : undefined;
  const checks = agents
    ? [...connections.checks, { name: 'agents', run: () => agents.check() }]
    : connections.checks;
  const app = await NestFactory.create<NestFastifyApplication>(
    gatewayModule({ config, connections, agents, metrics, log }),
    adapter,
    { bodyParser: false, logger: nestLogger(log), abortOnError: false },
  );
  app.useGlobalFilters(new ProblemFilter(log, routes));
  const server = adapter.getInstance<FastifyInstance>();
  serveHealth(server, checks, metrics);
  if (hasRest) {
    serveDocs(server);
    servePages(server);
  }
  app.connectMicroservice<MicroserviceOptions>({
    transport: Transport.NATS,
    options: natsConnection({ natsUrl: config.KEYSTEAD_NATS_URL, service: 'gateway' }),
  });
  await app.listen({ host: config.KEYSTEAD_HTTP_HOST, port: config.KEYSTEAD_HTTP_PORT });
  // Nudges only hurry what is looked at every second anyway, so nothing waits for NATS here.
  app.startAllMicroservices().catch((error: unknown) => log.error({ err: error }, 'no nudges'));
  const health = await listenForHealth(
    { host: config.KEYSTEAD_HEALTH_HOST, port: config.KEYSTEAD_HEALTH_PORT },
    checks,
    metrics,
  );
  agents?.start().catch((error: unknown) => {
    log.fatal({ err: error }, 'the agent link could not start');
    process.exit(1);
  });
  const bound = app.getHttpServer().address();
  return {
    httpPort: typeof bound === 'object' && bound ? bound.port : config.KEYSTEAD_HTTP_PORT,
    healthPort: health.port,
    agentPort: () => agents?.port,
    close: async () => {
      if (hasRest) app.get(OpenStreams).endAll('this gateway is going away');
      await Promise.all([agents?.stop(), app.close(), finish(finishWithinMs), health.close()]);
      await connections.close();
    },
  };
}
