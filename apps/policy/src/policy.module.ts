import { AccessModule } from '@keystead/access/access.module';
import { Database } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import { MessagingModule } from '@keystead/service-runtime/messaging.module';
import { type DynamicModule, type INestMicroservice, Module } from '@nestjs/common';
import type { Config } from './config.ts';
import { PolicySetsBus } from './policy-sets/policy-sets.nats.ts';
import { PolicySets } from './policy-sets/policy-sets.ts';

@Module({})
export class PolicyModule {
  static with(config: Config, log: Logger): DynamicModule {
    return {
      module: PolicyModule,
      imports: [
        AccessModule.forRoot({
          serviceUrl: config.KEYSTEAD_SERVICE_DATABASE_URL,
          acrossUrl: config.KEYSTEAD_ACROSS_DATABASE_URL,
          installationKeyFile: config.KEYSTEAD_INSTALLATION_KEY_FILE,
          poolSize: config.KEYSTEAD_POOL_SIZE,
        }),
        MessagingModule.forRoot({ service: 'policy', environment: config }, log),
      ],
      controllers: [PolicySetsBus],
      providers: [PolicySets],
    };
  }
}

export const checks = (app: INestMicroservice) => [
  { name: 'postgresql', run: () => app.get(Database, { strict: false }).ping() },
];
