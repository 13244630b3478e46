import { OnNudge } from '@keystead/messaging/bus-handlers';
import { Jobs } from '@keystead/messaging/jobs';
import { Controller, Inject, type OnApplicationBootstrap } from '@nestjs/common';
import { ReportedUsage } from './reported-usage.ts';
import { UsageRollUp } from './usage-roll-up.ts';

const rollUpPeriodMs = 10_000;
const addUpPeriodMs = 5_000;
const removalPeriodMs = 3_600_000;

@Controller()
export class UsageRollUpJob implements OnApplicationBootstrap {
  #addUpNow: () => void = () => undefined;

  constructor(
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject(UsageRollUp) private readonly rollUp: UsageRollUp,
    @Inject(ReportedUsage) private readonly reported: ReportedUsage,
  ) {}

  onApplicationBootstrap(): void {
    this.jobs.every({
      name: 'analytics-roll-up-usage',
      periodMs: rollUpPeriodMs,
      work: async () => void (await this.rollUp.rollUp()),
    });
    this.#addUpNow = this.jobs.every({
      name: 'analytics-add-up-reports',
      periodMs: addUpPeriodMs,
      work: async () => void (await this.reported.addUp()),
    }).runNow;
    this.jobs.every({
      name: 'analytics-remove-old-usage',
      periodMs: removalPeriodMs,
      work: () => this.rollUp.removeOld(),
    });
  }

  @OnNudge('usage')
  nudged(): void {
    this.#addUpNow();
  }
}
