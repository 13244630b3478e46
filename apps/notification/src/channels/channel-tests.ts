/** The test button: one message, sent at once, and the answer tells how it went. */
import { TenantWork } from '@keystead/access/tenant-work';
import type { TenantCtx } from '@keystead/contracts/context';
import { newUuid, toUuid } from '@keystead/contracts/ids';
import { testChannel } from '@keystead/contracts/notification';
import type { Input, Output } from '@keystead/contracts/operation';
import { Inject, Injectable } from '@nestjs/common';
import { findDelivery, makeDue, toDelivery } from '../deliveries/delivery-rows.ts';
import { DeliveryRunner } from '../deliveries/delivery-runner.ts';
import { findChannel } from './channels.ts';

/** Less than callers wait for an answer on the bus; what takes longer is shown as it stands. */
const answerWithinMs = 6_500;

@Injectable()
export class ChannelTests {
  constructor(
    @Inject(TenantWork) private readonly work: TenantWork,
    @Inject(DeliveryRunner) private readonly runner: DeliveryRunner,
  ) {}

  async test(
    ctx: TenantCtx,
    input: Input<typeof testChannel>,
  ): Promise<Output<typeof testChannel>> {
    const { organizationId } = ctx;
    const created = await this.work.write(ctx, testChannel, input, async (transaction, note) => {
      const channel = await findChannel(transaction, ctx, input.params.id);
      const id = newUuid();
      await transaction.delivery.create({
        data: {
          organizationId,
          id,
          channelId: channel.id,
          kind: 'channel.test',
          status: 'pending',
          content: { requestedBy: ctx.actor.name },
        },
      });
      await makeDue(transaction, { organizationId, id });
      note({ target: { kind: 'channel', id: input.params.id, name: channel.name } });
      return toDelivery(await findDelivery(transaction, organizationId, id));
    });
    const id = toUuid('delivery', created.id);
    const channelId = toUuid('channel', created.channel.id);
    await this.runner.runNow({ organizationId, id, channelId }, answerWithinMs);
    return this.work.read(ctx, async (transaction) =>
      toDelivery(await findDelivery(transaction, organizationId, id)),
    );
  }
}
