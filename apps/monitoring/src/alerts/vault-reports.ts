/** What other services found about vaults, taken out of the outbox in the transaction that tells it. */
import { Database } from '@keystead/database/database';
import { take } from '@keystead/database/outbox';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';
import { AlertDesk } from './alert-desk.ts';

const batch = 500;

@Injectable()
export class VaultReports {
  constructor(
    @Inject(Database) private readonly database: Database,
    @Inject(AlertDesk) private readonly desk: AlertDesk,
    @Inject(Bus) private readonly bus: Bus,
  ) {}

  async take(): Promise<void> {
    for (let taken = batch; taken === batch; ) {
      const told = await this.database.acrossTenants('calm-alerts', async (transaction) => {
        const rows = await take(transaction, 'vault.reported', batch);
        taken = rows.length;
        const [clock] = await transaction.$queryRaw<{ now: number }[]>`
          select (extract(epoch from clock_timestamp()) * 1000)::float8 as now`;
        return this.desk.report(
          transaction,
          clock?.now ?? 0,
          rows.flatMap(({ organizationId, payload }) =>
            organizationId === null ? [] : [{ organizationId, ...payload }],
          ),
        );
      });
      if (told.size > 0) this.bus.nudge('notification');
      for (const id of told) this.bus.nudge('liveEvents', id);
    }
  }
}
