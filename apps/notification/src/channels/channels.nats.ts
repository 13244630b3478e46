import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import {
  confirmRecipient,
  createChannel,
  deleteChannel,
  getChannel,
  listChannels,
  rotateChannelSecret,
  testChannel,
  updateChannel,
} from '@keystead/contracts/notification';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { ChannelTests } from './channel-tests.ts';
import { Channels } from './channels.ts';

@Controller()
export class ChannelsBus {
  constructor(
    @Inject(Channels) private readonly channels: Channels,
    @Inject(ChannelTests) private readonly tests: ChannelTests,
  ) {}

  @Answers(listChannels)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof listChannels>) {
    return this.channels.list(ctx, input);
  }

  @Answers(getChannel)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof getChannel>) {
    return this.channels.get(ctx, input);
  }

  @Answers(createChannel)
  create(@Caller() ctx: TenantCtx, @Given() input: Input<typeof createChannel>) {
    return this.channels.create(ctx, input);
  }

  @Answers(updateChannel)
  update(@Caller() ctx: TenantCtx, @Given() input: Input<typeof updateChannel>) {
    return this.channels.update(ctx, input);
  }

  @Answers(deleteChannel)
  delete(@Caller() ctx: TenantCtx, @Given() input: Input<typeof deleteChannel>) {
    return this.channels.delete(ctx, input);
  }

  @Answers(rotateChannelSecret)
  rotateSecret(@Caller() ctx: TenantCtx, @Given() input: Input<typeof rotateChannelSecret>) {
    return this.channels.rotateSecret(ctx, input);
  }

  @Answers(testChannel)
  test(@Caller() ctx: TenantCtx, @Given() input: Input<typeof testChannel>) {
    return this.tests.test(ctx, input);
  }

  @Answers(confirmRecipient)
  confirm(@Caller() ctx: Ctx, @Given() input: Input<typeof confirmRecipient>) {
    return this.channels.confirm(ctx, input);
  }
}
