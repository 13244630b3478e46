import type { TenantCtx } from '@keystead/contracts/context';
import {
  createSubscription,
  deleteSubscription,
  getSubscription,
  listSubscriptions,
  updateSubscription,
} from '@keystead/contracts/notification';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Subscriptions } from './subscriptions.ts';

@Controller()
export class SubscriptionsBus {
  constructor(@Inject(Subscriptions) private readonly subscriptions: Subscriptions) {}

  @Answers(listSubscriptions)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof listSubscriptions>) {
    return this.subscriptions.list(ctx, input);
  }

  @Answers(getSubscription)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof getSubscription>) {
    return this.subscriptions.get(ctx, input);
  }

  @Answers(createSubscription)
  create(@Caller() ctx: TenantCtx, @Given() input: Input<typeof createSubscription>) {
    return this.subscriptions.create(ctx, input);
  }

  @Answers(updateSubscription)
  update(@Caller() ctx: TenantCtx, @Given() input: Input<typeof updateSubscription>) {
    return this.subscriptions.update(ctx, input);
  }

  @Answers(deleteSubscription)
  delete(@Caller() ctx: TenantCtx, @Given() input: Input<typeof deleteSubscription>) {
    return this.subscriptions.delete(ctx, input);
  }
}
