import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import * as contract from '@keystead/contracts/policy';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Rollouts } from './rollouts.ts';

@Controller()
export class RolloutsBus {
  constructor(@Inject(Rollouts) private readonly rollouts: Rollouts) {}

  @Answers(contract.listRollouts)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listRollouts>) {
    return this.rollouts.list(ctx, input);
  }

  @Answers(contract.getRollout)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getRollout>) {
    return this.rollouts.get(ctx, input);
  }

  @Answers(contract.createRollout)
  create(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.createRollout>) {
    return this.rollouts.create(ctx, input);
  }

  @Answers(contract.approveRollout)
  approve(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.approveRollout>) {
    return this.rollouts.approve(ctx, input);
  }

  @Answers(contract.pauseRollout)
  pause(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.pauseRollout>) {
    return this.rollouts.pause(ctx, input);
  }

  @Answers(contract.resumeRollout)
  resume(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.resumeRollout>) {
    return this.rollouts.resume(ctx, input);
  }

  @Answers(contract.stopRollout)
  stop(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.stopRollout>) {
    return this.rollouts.stop(ctx, input);
  }

  @Answers(contract.rollbackRollout)
  rollback(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.rollbackRollout>) {
    return this.rollouts.rollback(ctx, input);
  }

  @Answers(contract.listRolloutAgents)
  agents(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listRolloutAgents>) {
    return this.rollouts.agents(ctx, input);
  }
}
