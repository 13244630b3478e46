import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import * as contract from '@keystead/contracts/policy-replays';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Replays } from './replays.ts';

@Controller()
export class ReplaysBus {
  constructor(@Inject(Replays) private readonly replays: Replays) {}

  @Answers(contract.listPolicyReplays)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listPolicyReplays>) {
    return this.replays.list(ctx, input);
  }

  @Answers(contract.getPolicyReplay)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getPolicyReplay>) {
    return this.replays.get(ctx, input);
  }

  @Answers(contract.createPolicyReplay)
  create(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.createPolicyReplay>) {
    return this.replays.create(ctx, input);
  }

  @Answers(contract.stopPolicyReplay)
  stop(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.stopPolicyReplay>) {
    return this.replays.stop(ctx, input);
  }

  @Answers(contract.listPolicyReplayAgents)
  agents(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listPolicyReplayAgents>) {
    return this.replays.agents(ctx, input);
  }
}
