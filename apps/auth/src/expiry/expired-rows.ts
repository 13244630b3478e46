/** What nobody needs any more: removed in bounded batches, so that no lock is held for long. */
import { limits } from '@keystead/contracts/limits';
import { Database, type Transaction } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';

type Removal = (transaction: Transaction, batch: number) => Promise<number>;

/** Each removes at most `batch` rows that its keeping time has passed. */
const removals: Record<string, Removal> = {
  idempotencyRecords: (transaction, batch) => transaction.$executeRaw`
    delete from auth.idempotency_record
    where (organization_id, actor_id, key_hash) in (
      select organization_id, actor_id, key_hash from auth.idempotency_record
      where created_at < clock_timestamp() - make_interval(hours => ${limits.idempotencyKeepHours}::int)
      order by created_at limit ${batch} for update skip locked)`,
  sessions: (transaction, batch) => transaction.$executeRaw`
    delete from auth.session
    where (organization_id, id) in (
      select organization_id, id from auth.session
      where expires_at < clock_timestamp() - make_interval(secs => ${limits.sessionKeepSeconds}::int)
      order by expires_at limit ${batch} for update skip locked)`,
  apiKeys: (transaction, batch) => transaction.$executeRaw`
    delete from auth.api_key
    where (organization_id, id) in (
      select organization_id, id from auth.api_key
      where least(revoked_at, expires_at)
        < clock_timestamp() - make_interval(secs => ${limits.apiKeyKeepSeconds}::int)
      limit ${batch} for update skip locked)`,
  invitations: (transaction, batch) => transaction.$executeRaw`
    delete from auth.member
    where (organization_id, id) in (
      select organization_id, id from auth.member
      where person_id is null and invitation_expires_at
        < clock_timestamp() - make_interval(secs => ${limits.invitationKeepSeconds}::int)
      limit ${batch} for update skip locked)`,
};

@Injectable()
export class ExpiredRows {
  constructor(@Inject(Database) private readonly database: Database) {}

  /** @returns how many rows of each kind went; what is left over goes with the next run */
  async remove(
    batch: number = limits.removeExpiredBatch,
    batchesMax: number = limits.removeExpiredBatchesMax,
  ): Promise<Record<string, number>> {
    const removed: Record<string, number> = {};
    for (const [kind, remove] of Object.entries(removals)) {
      let total = 0;
      for (let round = 0; round < batchesMax; round += 1) {
        const count = await this.database.acrossTenants('remove-expired', (transaction) =>
          remove(transaction, batch),
        );
        total += count;
        if (count < batch) break;
      }
      removed[kind] = total;
    }
    return removed;
  }
}
