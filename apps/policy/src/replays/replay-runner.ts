/**
 * Ends replays. Takes no input: what runs is a row with an end, so that no replay hangs, whoever was
 * killed in the middle of it.
 */
import { Database } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';
import { expireReplay } from './replay-steps.ts';

const replaysPerRun = 200;

@Injectable()
export class ReplayRunner {
  constructor(@Inject(Database) private readonly database: Database) {}

  /** @returns how many ended */
  async run(): Promise<number> {
    const over = await this.database.acrossTenants(
      'roll-out',
      (transaction) => transaction.$queryRaw<{ organization_id: string; id: string }[]>`
        select organization_id, id from policy.replay r
        where state = 'running' and (expires_at < clock_timestamp() or not exists (
          select from policy.replay_agent a where a.organization_id = r.organization_id
            and a.replay_id = r.id and a.state = 'pending'))
        order by expires_at limit ${replaysPerRun}`,
    );
    for (const { organization_id: organizationId, id } of over) {
      await this.database.withTenant({ organizationId }, (transaction) =>
        expireReplay(transaction, organizationId, id),
      );
    }
    return over.length;
  }
}
