import * as contract from '@keystead/contracts/approvals';
import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Approvals } from './approvals.ts';

@Controller()
export class ApprovalsBus {
  constructor(@Inject(Approvals) private readonly approvals: Approvals) {}

  @Answers(contract.listApprovals)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listApprovals>) {
    return this.approvals.list(ctx, input);
  }

  @Answers(contract.getApproval)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getApproval>) {
    return this.approvals.get(ctx, input);
  }

  @Answers(contract.approveApproval)
  approve(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.approveApproval>) {
    return this.approvals.approve(ctx, input);
  }

  @Answers(contract.denyApproval)
  deny(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.denyApproval>) {
    return this.approvals.deny(ctx, input);
  }
}
