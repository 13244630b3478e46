/** The unattended duties of the policy service, by name. */
import { OnNudge } from '@keystead/messaging/bus-handlers';
import { Jobs } from '@keystead/messaging/jobs';
import { Controller, Inject, type OnApplicationBootstrap } from '@nestjs/common';
import { AgentReports } from './deliveries/agent-reports.ts';

@Controller()
export class Duties implements OnApplicationBootstrap {
  #takeReports: () => void = () => undefined;

  constructor(
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject(AgentReports) private readonly reports: AgentReports,
  ) {}

  onApplicationBootstrap(): void {
    this.#takeReports = this.jobs.every({
      name: 'policy-reports',
      periodMs: 5_000,
      work: async () => void (await this.reports.take()),
    }).runNow;
  }

  @OnNudge('policyReports')
  reported(): void {
    this.#takeReports();
  }
}
