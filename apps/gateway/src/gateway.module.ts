import { Authenticator } from '@keystead/access/authenticator';
import { ApiKeyStrategy, SessionStrategy } from '@keystead/access/passport';
import { operations } from '@keystead/contracts/operations';
import { Database } from '@keystead/database/database';
import { Bus } from '@keystead/messaging/bus';
import type { Logger } from '@keystead/service-runtime/log';
import { type DynamicModule, Module } from '@nestjs/common';
import type { Config } from './config.ts';
import type { Connections } from './connections.ts';
import { CallerGuard } from './rest/caller.guard.ts';
import { OperationDoor } from './rest/operation-door.ts';
import { operationsController } from './rest/operations.http.ts';
import { RequestAllowance } from './rest/request-allowance.ts';

/** The composition root. Connections are opened and closed by `main.ts`. */
@Module({})
export class GatewayModule {
  static with(config: Config, connections: Connections, _log: Logger): DynamicModule {
    const { database, bus, redis, sessionKey } = connections;
    const authenticator = new Authenticator(database, sessionKey);
    return {
      module: GatewayModule,
      controllers: [operationsController(operations)],
      providers: [
        CallerGuard,
        { provide: Database, useValue: database },
        { provide: Bus, useValue: bus },
        { provide: Authenticator, useValue: authenticator },
        { provide: SessionStrategy, useValue: new SessionStrategy(authenticator) },
        { provide: ApiKeyStrategy, useValue: new ApiKeyStrategy(authenticator) },
        { provide: OperationDoor, useValue: new OperationDoor(bus) },
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
}
