import { Jobs } from '@keystead/messaging/jobs';
import { Inject, Injectable, type OnApplicationBootstrap } from '@nestjs/common';
import { UsageRollUp } from './usage-roll-up.ts';

const rollUpPeriodMs = 10_000;
const removalPeriodMs = 3_600_000;

@Injectable()
export class UsageRollUpJob implements OnApplicationBootstrap {
  constructor(
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject(UsageRollUp) private readonly rollUp: UsageRollUp,
  ) {}

  onApplicationBootstrap(): void {
    this.jobs.every({
      name: 'analytics-roll-up-usage',
      periodMs: rollUpPeriodMs,
      work: async () => void (await this.rollUp.rollUp()),
    });
    this.jobs.every({
      name: 'analytics-remove-old-usage',
      periodMs: removalPeriodMs,
      work: () => this.rollUp.removeOld(),
    });
  }
}
