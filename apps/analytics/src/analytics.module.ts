import { AccessModule } from '@keystead/access/access.module';
import { Database } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import { MessagingModule } from '@keystead/service-runtime/messaging.module';
import { type DynamicModule, type INestMicroservice, Module } from '@nestjs/common';
import type { Config } from './config.ts';
import { ReportedUsage } from './usage/reported-usage.ts';
import { UsageBus } from './usage/usage.nats.ts';
import { Usage } from './usage/usage.ts';
import { UsageRollUpJob } from './usage/usage-roll-up.job.ts';
import { UsageRollUp } from './usage/usage-roll-up.ts';

@Module({})
export class AnalyticsModule {
  static with(config: Config, log: Logger): DynamicModule {
    return {
      module: AnalyticsModule,
      imports: [
        AccessModule.forRoot({
          serviceUrl: config.KEYSTEAD_SERVICE_DATABASE_URL,
          acrossUrl: config.KEYSTEAD_ACROSS_DATABASE_URL,
          installationKeyFile: config.KEYSTEAD_INSTALLATION_KEY_FILE,
          poolSize: config.KEYSTEAD_POOL_SIZE,
        }),
        MessagingModule.forRoot({ service: 'analytics', environment: config }, log),
      ],
      controllers: [UsageBus, UsageRollUpJob],
      providers: [ReportedUsage, Usage, UsageRollUp],
    };
  }
}

export const checks = (app: INestMicroservice) => [
  { name: 'postgresql', run: () => app.get(Database, { strict: false }).ping() },
];
