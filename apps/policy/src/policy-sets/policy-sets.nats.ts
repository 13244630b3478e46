import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { assignPolicySet, getPolicySet } from '@keystead/contracts/policy';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { PolicySets } from './policy-sets.ts';

@Controller()
export class PolicySetsBus {
  constructor(@Inject(PolicySets) private readonly policySets: PolicySets) {}

  @Answers(getPolicySet)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof getPolicySet>) {
    return this.policySets.get(ctx, input);
  }

  @Answers(assignPolicySet)
  assign(@Caller() ctx: TenantCtx, @Given() input: Input<typeof assignPolicySet>) {
    return this.policySets.assign(ctx, input);
  }
}
