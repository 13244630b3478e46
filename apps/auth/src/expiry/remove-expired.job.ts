import { Jobs } from '@keystead/messaging/jobs';
import type { Logger } from '@keystead/service-runtime/log';
import { LOG } from '@keystead/service-runtime/messaging.module';
import { Inject, Injectable, type OnApplicationBootstrap } from '@nestjs/common';
import { ExpiredRows } from './expired-rows.ts';

const periodMs = 10 * 60_000;

@Injectable()
export class RemoveExpiredJob implements OnApplicationBootstrap {
  constructor(
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject(ExpiredRows) private readonly expiredRows: ExpiredRows,
    @Inject(LOG) private readonly log: Pick<Logger, 'debug'>,
  ) {}

  onApplicationBootstrap(): void {
    this.jobs.every({
      name: 'auth-remove-expired',
      periodMs,
      work: async () => this.log.debug(await this.expiredRows.remove(), 'removed what expired'),
    });
  }
}
