/** The unattended duties of the policy service, by name. */
import { limits } from '@keystead/contracts/limits';
import { OnNudge } from '@keystead/messaging/bus-handlers';
import { Jobs } from '@keystead/messaging/jobs';
import { Controller, Inject, type OnApplicationBootstrap } from '@nestjs/common';
import { ApprovalsEnd } from './approvals/approval-reports.ts';
import { AgentCommands } from './deliveries/agent-commands.ts';
import { AgentReports } from './deliveries/agent-reports.ts';
import { ReplayRunner } from './replays/replay-runner.ts';
import { RolloutRunner } from './rollouts/rollout-runner.ts';
import { StandingRollouts } from './rollouts/standing-rollouts.ts';

@Controller()
export class Duties implements OnApplicationBootstrap {
  #takeReports: () => void = () => undefined;

  constructor(
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject(AgentReports) private readonly reports: AgentReports,
    @Inject(RolloutRunner) private readonly rollouts: RolloutRunner,
    @Inject(ReplayRunner) private readonly replays: ReplayRunner,
    @Inject(StandingRollouts) private readonly standing: StandingRollouts,
    @Inject(AgentCommands) private readonly commands: AgentCommands,
    @Inject(ApprovalsEnd) private readonly approvals: ApprovalsEnd,
  ) {}

  onApplicationBootstrap(): void {
    this.#takeReports = this.jobs.every({
      name: 'policy-reports',
      periodMs: 5_000,
      work: async () => void (await this.reports.take()),
    }).runNow;
    this.jobs.every({
      name: 'rollouts',
      periodMs: limits.rolloutStepPeriodMs,
      work: async () => void (await this.rollouts.run()),
    });
    this.jobs.every({
      name: 'approvals',
      periodMs: 5_000,
      work: () => this.approvals.look(),
    });
    this.jobs.every({
      name: 'policy-replays',
      periodMs: limits.replayEndPeriodMs,
      work: async () => void (await this.replays.run()),
    });
    this.jobs.every({
      name: 'agent-commands',
      periodMs: 5_000,
      work: () => this.commands.look(),
    });
    this.jobs.every({
      name: 'standing-rollouts',
      periodMs: limits.standingRolloutPeriodMs,
      work: async () => void (await this.standing.assignNew()),
    });
  }

  @OnNudge('policyReports')
  reported(): void {
    this.#takeReports();
  }
}
