import { AccessModule } from '@keystead/access/access.module';
import { Database } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import { MessagingModule } from '@keystead/service-runtime/messaging.module';
import { type DynamicModule, type INestMicroservice, Module } from '@nestjs/common';
import { Admission } from './agent-link/admission.ts';
import { AgentLinkBus } from './agent-link/agent-link.nats.ts';
import { Enrollment } from './agent-link/enrollment.ts';
import { Renewal } from './agent-link/renewal.ts';
import { AgentsBus } from './agents/agents.nats.ts';
import { Agents } from './agents/agents.ts';
import { CONFIG, type Config } from './config.ts';
import { EnrollmentTokensBus } from './enrollment/enrollment-tokens.nats.ts';
import { EnrollmentTokens } from './enrollment/enrollment-tokens.ts';
import { AuthorityKeeper } from './issuing/authority-keeper.ts';
import { GatewayCertificates } from './issuing/gateway-certificates.ts';
import { SignerCertificates } from './issuing/signer-certificates.ts';
import { RemovalJob } from './removal/removal.job.ts';
import { Removal } from './removal/removal.ts';
import { VaultsBus } from './vaults/vaults.nats.ts';
import { Vaults } from './vaults/vaults.ts';

@Module({})
export class VaultRegistryModule {
  static with(config: Config, log: Logger): DynamicModule {
    return {
      module: VaultRegistryModule,
      imports: [
        AccessModule.forRoot({
          serviceUrl: config.KEYSTEAD_SERVICE_DATABASE_URL,
          acrossUrl: config.KEYSTEAD_ACROSS_DATABASE_URL,
          installationKeyFile: config.KEYSTEAD_INSTALLATION_KEY_FILE,
          poolSize: config.KEYSTEAD_POOL_SIZE,
        }),
        MessagingModule.forRoot({ service: 'vault-registry', environment: config }, log),
      ],
      controllers: [VaultsBus, AgentsBus, EnrollmentTokensBus, AgentLinkBus],
      providers: [
        { provide: CONFIG, useValue: config },
        {
          provide: AuthorityKeeper,
          inject: [Database],
          useFactory: (database: Database) =>
            AuthorityKeeper.open(
              database,
              {
                sealingKey: config.KEYSTEAD_CA_KEY,
                trustDomain: config.KEYSTEAD_TRUST_DOMAIN,
              },
              log,
            ),
        },
        Vaults,
        Agents,
        EnrollmentTokens,
        Enrollment,
        Renewal,
        Admission,
        GatewayCertificates,
        SignerCertificates,
        Removal,
        RemovalJob,
      ],
    };
  }
}

export const checks = (app: INestMicroservice) => [
  { name: 'postgresql', run: () => app.get(Database, { strict: false }).ping() },
];
