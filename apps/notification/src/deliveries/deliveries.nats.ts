import type { TenantCtx } from '@keystead/contracts/context';
import { getDelivery, listDeliveries, replayDelivery } from '@keystead/contracts/notification';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Deliveries } from './deliveries.ts';

@Controller()
export class DeliveriesBus {
  constructor(@Inject(Deliveries) private readonly deliveries: Deliveries) {}

  @Answers(listDeliveries)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof listDeliveries>) {
    return this.deliveries.list(ctx, input);
  }

  @Answers(getDelivery)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof getDelivery>) {
    return this.deliveries.get(ctx, input);
  }

  @Answers(replayDelivery)
  replay(@Caller() ctx: TenantCtx, @Given() input: Input<typeof replayDelivery>) {
    return this.deliveries.replay(ctx, input);
  }
}
