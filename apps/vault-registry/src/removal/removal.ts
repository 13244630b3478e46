/**
 * Removes what has ended and opens nothing any more: expired certificates, and enrolment tokens
 * long after their end. In bounded batches, so that it never holds the tables for long.
 */
import { limits } from '@keystead/contracts/limits';
import { Database } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';

const batch = 1_000;
const batchesPerRun = 100;

@Injectable()
export class Removal {
  constructor(@Inject(Database) private readonly database: Database) {}

  async removeExpired(): Promise<{ certificates: number; tokens: number }> {
    return {
      certificates: await inBatches(() => this.#removeCertificates()),
      tokens: await inBatches(() => this.#removeTokens()),
    };
  }

  #removeCertificates(): Promise<number> {
    return this.database.acrossTenants(
      'remove-expired',
      (transaction) => transaction.$executeRaw`
        delete from registry.certificate
        where (organization_id, serial_number) in (
          select organization_id, serial_number from registry.certificate
          where expires_at < clock_timestamp() - interval '1 day'
          limit ${batch} for update skip locked
        )`,
    );
  }

  #removeTokens(): Promise<number> {
    const days = limits.enrollmentTokenKeepDays;
    return this.database.acrossTenants(
      'remove-expired',
      (transaction) => transaction.$executeRaw`
        delete from registry.enrollment_token
        where (organization_id, id) in (
          select organization_id, id from registry.enrollment_token
          where expires_at < clock_timestamp() - make_interval(days => ${days}::int)
          limit ${batch} for update skip locked
        )`,
    );
  }
}

async function inBatches(remove: () => Promise<number>): Promise<number> {
  let total = 0;
  for (let run = 0; run < batchesPerRun; run += 1) {
    const removed = await remove();
    total += removed;
    if (removed < batch) break;
  }
  return total;
}
