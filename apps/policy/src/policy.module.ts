import { AccessModule } from '@keystead/access/access.module';
import { Database } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import { MessagingModule } from '@keystead/service-runtime/messaging.module';
import { type DynamicModule, type INestMicroservice, Module } from '@nestjs/common';
import { ApprovalsEnd } from './approvals/approval-reports.ts';
import { ApprovalsBus } from './approvals/approvals.nats.ts';
import { Approvals } from './approvals/approvals.ts';
import { Assignments } from './assignments/assignments.ts';
import type { Config } from './config.ts';
import { AgentCommands } from './deliveries/agent-commands.ts';
import { AgentPolicies } from './deliveries/agent-policies.ts';
import { AgentReports } from './deliveries/agent-reports.ts';
import { DeliveriesBus } from './deliveries/deliveries.nats.ts';
import { Deliveries } from './deliveries/deliveries.ts';
import { Duties } from './duties.job.ts';
import { PoliciesBus } from './policies/policies.nats.ts';
import { Policies } from './policies/policies.ts';
import { PolicyFiles } from './policies/policy-files.ts';
import { PolicySetsBus } from './policy-sets/policy-sets.nats.ts';
import { PolicySets } from './policy-sets/policy-sets.ts';
import { ReplayRunner } from './replays/replay-runner.ts';
import { ReplaysBus } from './replays/replays.nats.ts';
import { Replays } from './replays/replays.ts';
import { RolloutRunner } from './rollouts/rollout-runner.ts';
import { RolloutsBus } from './rollouts/rollouts.nats.ts';
import { Rollouts } from './rollouts/rollouts.ts';
import { StandingRollouts } from './rollouts/standing-rollouts.ts';
import { CommandSigner } from './signing/command-signer.ts';
import { OrganizationSigners } from './signing/organization-signers.ts';
import { Simulations } from './simulation/simulations.ts';

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
      controllers: [
        PoliciesBus,
        PolicySetsBus,
        DeliveriesBus,
        RolloutsBus,
        ReplaysBus,
        ApprovalsBus,
        Duties,
      ],
      providers: [
        AgentCommands,
        AgentPolicies,
        AgentReports,
        Approvals,
        ApprovalsEnd,
        Assignments,
        CommandSigner,
        Deliveries,
        OrganizationSigners,
        Policies,
        PolicyFiles,
        PolicySets,
        ReplayRunner,
        Replays,
        RolloutRunner,
        Rollouts,
        Simulations,
        StandingRollouts,
      ],
    };
  }
}

export const checks = (app: INestMicroservice) => [
  { name: 'postgresql', run: () => app.get(Database, { strict: false }).ping() },
];
