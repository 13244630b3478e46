import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import * as contract from '@keystead/contracts/policy';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Assignments } from '../assignments/assignments.ts';
import { PolicySets } from './policy-sets.ts';

@Controller()
export class PolicySetsBus {
  constructor(
    @Inject(PolicySets) private readonly sets: PolicySets,
    @Inject(Assignments) private readonly assignments: Assignments,
  ) {}

  @Answers(contract.listPolicySets)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listPolicySets>) {
    return this.sets.list(ctx, input);
  }

  @Answers(contract.showPolicySet)
  show(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.showPolicySet>) {
    return this.sets.get(ctx, input);
  }

  @Answers(contract.createPolicySet)
  create(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.createPolicySet>) {
    return this.sets.create(ctx, input);
  }

  @Answers(contract.updatePolicySet)
  update(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.updatePolicySet>) {
    return this.sets.update(ctx, input);
  }

  @Answers(contract.deletePolicySet)
  remove(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.deletePolicySet>) {
    return this.sets.remove(ctx, input);
  }

  @Answers(contract.createPolicySetVersion)
  addVersion(
    @Caller() ctx: TenantCtx,
    @Given() input: Input<typeof contract.createPolicySetVersion>,
  ) {
    return this.sets.addVersion(ctx, input);
  }

  @Answers(contract.listPolicySetVersions)
  listVersions(
    @Caller() ctx: TenantCtx,
    @Given() input: Input<typeof contract.listPolicySetVersions>,
  ) {
    return this.sets.listVersions(ctx, input);
  }

  @Answers(contract.getPolicySet)
  assigned(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getPolicySet>) {
    return this.assignments.get(ctx, input);
  }

  @Answers(contract.assignPolicySet)
  assign(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.assignPolicySet>) {
    return this.assignments.assign(ctx, input);
  }

  @Answers(contract.effectivePolicies)
  effective(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.effectivePolicies>) {
    return this.assignments.effective(ctx, input);
  }
}
