import { AccessModule } from '@keystead/access/access.module';
import { InstallationKey } from '@keystead/access/sealing';
import { Database } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import { MessagingModule } from '@keystead/service-runtime/messaging.module';
import { type DynamicModule, type INestMicroservice, Module } from '@nestjs/common';
import { ApiKeysBus } from './api-keys/api-keys.nats.ts';
import { ApiKeys } from './api-keys/api-keys.ts';
import { AuditEventsBus } from './audit-events/audit-events.nats.ts';
import { AuditEvents } from './audit-events/audit-events.ts';
import type { Config } from './config.ts';
import { ExpiredRows } from './expiry/expired-rows.ts';
import { RemoveExpiredJob } from './expiry/remove-expired.job.ts';
import { Invitations } from './members/invitations.ts';
import { MembersBus } from './members/members.nats.ts';
import { Members } from './members/members.ts';
import { OrganizationsBus } from './organizations/organizations.nats.ts';
import { Organizations, SIGN_UP } from './organizations/organizations.ts';
import { Passwords } from './passwords/passwords.ts';
import { Afterwards } from './people/afterwards.ts';
import { People } from './people/people.ts';
import { Refusals } from './refusals/refusals.ts';
import { SessionsBus } from './sessions/sessions.nats.ts';
import { Sessions } from './sessions/sessions.ts';
import { AttemptThrottle } from './throttle/attempt-throttle.ts';
import { ThrottleRedis } from './throttle/throttle-redis.ts';

@Module({})
export class AuthModule {
  static with(config: Config, log: Logger): DynamicModule {
    return {
      module: AuthModule,
      imports: [
        AccessModule.forRoot({
          serviceUrl: config.KEYSTEAD_SERVICE_DATABASE_URL,
          acrossUrl: config.KEYSTEAD_ACROSS_DATABASE_URL,
          installationKeyFile: config.KEYSTEAD_INSTALLATION_KEY_FILE,
          poolSize: config.KEYSTEAD_POOL_SIZE,
        }),
        MessagingModule.forRoot({ service: 'auth', environment: config }, log),
      ],
      controllers: [OrganizationsBus, SessionsBus, MembersBus, ApiKeysBus, AuditEventsBus],
      providers: [
        { provide: SIGN_UP, useValue: config.KEYSTEAD_SIGN_UP },
        { provide: Passwords, useValue: new Passwords() },
        { provide: ThrottleRedis, useValue: new ThrottleRedis(config.KEYSTEAD_REDIS_URL, log) },
        {
          provide: AttemptThrottle,
          inject: [ThrottleRedis, InstallationKey],
          useFactory: (redis: ThrottleRedis, key: InstallationKey) =>
            new AttemptThrottle(
              redis.connection,
              key,
              config.KEYSTEAD_SIGN_UPS_PER_ADDRESS_PER_HOUR,
            ),
        },
        Afterwards,
        Refusals,
        People,
        Organizations,
        Sessions,
        Members,
        Invitations,
        ApiKeys,
        AuditEvents,
        ExpiredRows,
        RemoveExpiredJob,
      ],
    };
  }
}

export const checks = (app: INestMicroservice) => [
  { name: 'postgresql', run: () => app.get(Database, { strict: false }).ping() },
];
