import { Jobs } from '@keystead/messaging/jobs';
import { Inject, Injectable, type OnApplicationBootstrap } from '@nestjs/common';
import { Removal } from './removal.ts';

const periodMs = 3_600_000;

@Injectable()
export class RemovalJob implements OnApplicationBootstrap {
  constructor(
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject(Removal) private readonly removal: Removal,
  ) {}

  onApplicationBootstrap(): void {
    this.jobs.every({
      name: 'registry-remove-expired',
      periodMs,
      work: async () => void (await this.removal.removeExpired()),
    });
  }
}
