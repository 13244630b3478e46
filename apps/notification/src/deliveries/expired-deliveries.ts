/** Removes what is over for good: old deliveries, counts of past hours, questions nobody answered. */
import { Database } from '@keystead/database/database';
import { Inject, Injectable } from '@nestjs/common';

const batch = 2_000;
/** A dead letter can be replayed for as long. */
const deliveryKeepDays = 90;
const mailHourKeepDays = 2;
const confirmationKeepDays = 30;

@Injectable()
export class ExpiredDeliveries {
  constructor(@Inject(Database) private readonly database: Database) {}

  async remove(): Promise<void> {
    for (let removed: number = batch; removed === batch; ) {
      removed = await this.database.acrossTenants('remove-expired', async (transaction) => {
        await transaction.$executeRaw`
          delete from notification.mail_hour
          where hour < clock_timestamp() - ${mailHourKeepDays} * interval '1 day'`;
        await transaction.$executeRaw`
          delete from notification.recipient_confirmation
          where confirmed_at is null
            and expires_at < clock_timestamp() - ${confirmationKeepDays} * interval '1 day'`;
        return transaction.$executeRaw`
          delete from notification.delivery where (organization_id, id) in (
            select organization_id, id from notification.delivery
            where status in ('delivered', 'dead', 'suppressed')
              and created_at < clock_timestamp() - ${deliveryKeepDays} * interval '1 day'
            limit ${batch} for update skip locked
          )`;
      });
    }
  }
}
