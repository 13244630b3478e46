import { Authenticator } from '@keystead/access/authenticator';
import { ApiKeyStrategy, SessionStrategy } from '@keystead/access/passport';
import { operations } from '@keystead/contracts/operations';
import type { Logger } from '@keystead/service-runtime/log';
import { type DynamicModule, Module } from '@nestjs/common';
import type { Registry } from 'prom-client';
import { AgentHalf } from './agent-half.ts';
import type { Config } from './config.ts';
import type { Connections } from './connections.ts';
import { LiveEventNudges, PolicySetNudges, RevocationNudges } from './nudges.nats.ts';
import { CallerGuard } from './rest/caller.guard.ts';
import { EventsHttp, OpenStreams } from './rest/events.http.ts';
import { LiveFeeds } from './rest/live-feeds.ts';
import { OperationDoor } from './rest/operation-door.ts';
import { operationsController } from './rest/operations.http.ts';
import { RequestAllowance } from './rest/request-allowance.ts';

/** The composition root; `gateway.ts` opens what it is given and closes it. */
@Module({})
class GatewayModule {}

export interface GatewayParts {
  config: Config;
  connections: Connections;
  /** Absent where this process serves the HTTP API alone. */
  agents: AgentHalf | undefined;
  metrics: Registry;
  log: Logger;
}

export function gatewayModule(given: GatewayParts): DynamicModule {
  const { config, agents } = given;
  const parts = [
    config.KEYSTEAD_GATEWAY_HALVES.includes('rest') ? rest(given) : {},
    agents
      ? {
          controllers: [RevocationNudges, PolicySetNudges],
          providers: [{ provide: AgentHalf, useValue: agents }],
        }
      : {},
  ];
  return {
    module: GatewayModule,
    controllers: parts.flatMap(({ controllers = [] }) => controllers),
    providers: parts.flatMap(({ providers = [] }) => providers),
  };
}

type Part = Pick<DynamicModule, 'controllers' | 'providers'>;

function rest({ config, connections, metrics, log }: GatewayParts): Part {
  const { database, bus, redis, sessionKey } = connections;
  const authenticator = new Authenticator(database, sessionKey);
  return {
    controllers: [operationsController(operations), EventsHttp, LiveEventNudges],
    providers: [
      CallerGuard,
      { provide: OpenStreams, useValue: new OpenStreams(metrics) },
      { provide: Authenticator, useValue: authenticator },
      { provide: SessionStrategy, useValue: new SessionStrategy(authenticator) },
      { provide: ApiKeyStrategy, useValue: new ApiKeyStrategy(authenticator) },
      { provide: OperationDoor, useValue: new OperationDoor(bus) },
      {
        provide: LiveFeeds,
        useValue: new LiveFeeds(bus, (error) => log.warn({ err: error }, 'no live events')),
      },
      {
        provide: RequestAllowance,
        useValue: new RequestAllowance(redis, {
          perCaller: config.KEYSTEAD_REQUESTS_PER_MINUTE_PER_CALLER,
          perAddress: config.KEYSTEAD_REQUESTS_PER_MINUTE_PER_ADDRESS,
        }),
      },
    ],
  };
}
