import { Authenticator } from '@keystead/access/authenticator';
import { ApiKeyStrategy, SessionStrategy } from '@keystead/access/passport';
import { operations } from '@keystead/contracts/operations';
import type { Logger } from '@keystead/service-runtime/log';
import { type DynamicModule, Module } from '@nestjs/common';
import { AgentHalf } from './agent-half.ts';
import type { Config } from './config.ts';
import type { Connections } from './connections.ts';
import { LiveEventNudges, RevocationNudges } from './nudges.nats.ts';
import { CallerGuard } from './rest/caller.guard.ts';
import { EventsHttp, OpenStreams } from './rest/events.http.ts';
import { LiveFeeds } from './rest/live-feeds.ts';
import { OperationDoor } from './rest/operation-door.ts';
import { operationsController } from './rest/operations.http.ts';
import { RequestAllowance } from './rest/request-allowance.ts';

/** The composition root; `gateway.ts` opens what it is given and closes it. */
@Module({})
class GatewayModule {}

export function gatewayModule(
  config: Config,
  connections: Connections,
  agents: AgentHalf | undefined,
  log: Logger,
): DynamicModule {
  const parts = [
    config.KEYSTEAD_GATEWAY_HALVES.includes('rest') ? rest(config, connections, log) : {},
    agents
      ? {
          controllers: [RevocationNudges],
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

function rest(
  config: Config,
  { database, bus, redis, sessionKey }: Connections,
  log: Logger,
): Part {
  const authenticator = new Authenticator(database, sessionKey);
  return {
    controllers: [operationsController(operations), EventsHttp, LiveEventNudges],
    providers: [
      CallerGuard,
      OpenStreams,
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
