import { Jobs } from '@keystead/messaging/jobs';
import { Inject, Injectable, type OnApplicationBootstrap } from '@nestjs/common';
import { ExpiredDeliveries } from './expired-deliveries.ts';

const periodMs = 10 * 60_000;

@Injectable()
export class ExpiryJob implements OnApplicationBootstrap {
  constructor(
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject(ExpiredDeliveries) private readonly expired: ExpiredDeliveries,
  ) {}

  onApplicationBootstrap(): void {
    const work = () => this.expired.remove();
    this.jobs.every({ name: 'notification-remove-expired', periodMs, work });
  }
}
