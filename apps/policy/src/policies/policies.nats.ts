import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import * as contract from '@keystead/contracts/policy';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Simulations } from '../simulation/simulations.ts';
import { Policies } from './policies.ts';
import { PolicyFiles } from './policy-files.ts';
import { policyTemplates } from './policy-templates.ts';

@Controller()
export class PoliciesBus {
  constructor(
    @Inject(Policies) private readonly policies: Policies,
    @Inject(PolicyFiles) private readonly files: PolicyFiles,
    @Inject(Simulations) private readonly simulations: Simulations,
  ) {}

  @Answers(contract.listPolicies)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listPolicies>) {
    return this.policies.list(ctx, input);
  }

  @Answers(contract.getPolicy)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getPolicy>) {
    return this.policies.get(ctx, input);
  }

  @Answers(contract.createPolicy)
  create(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.createPolicy>) {
    return this.policies.create(ctx, input);
  }

  @Answers(contract.updatePolicy)
  update(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.updatePolicy>) {
    return this.policies.update(ctx, input);
  }

  @Answers(contract.deletePolicy)
  remove(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.deletePolicy>) {
    return this.policies.remove(ctx, input);
  }

  @Answers(contract.createPolicyVersion)
  addVersion(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.createPolicyVersion>) {
    return this.policies.addVersion(ctx, input);
  }

  @Answers(contract.listPolicyVersions)
  listVersions(
    @Caller() ctx: TenantCtx,
    @Given() input: Input<typeof contract.listPolicyVersions>,
  ) {
    return this.policies.listVersions(ctx, input);
  }

  @Answers(contract.getPolicyVersion)
  getVersion(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getPolicyVersion>) {
    return this.policies.getVersion(ctx, input);
  }

  @Answers(contract.diffPolicyVersion)
  diff(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.diffPolicyVersion>) {
    return this.policies.diff(ctx, input);
  }

  @Answers(contract.reviewPolicyVersion)
  review(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.reviewPolicyVersion>) {
    return this.policies.review(ctx, input);
  }

  @Answers(contract.publishPolicyVersion)
  publish(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.publishPolicyVersion>) {
    return this.policies.publish(ctx, input);
  }

  @Answers(contract.listPolicyComments)
  listComments(
    @Caller() ctx: TenantCtx,
    @Given() input: Input<typeof contract.listPolicyComments>,
  ) {
    return this.policies.listComments(ctx, input);
  }

  @Answers(contract.createPolicyComment)
  comment(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.createPolicyComment>) {
    return this.policies.comment(ctx, input);
  }

  @Answers(contract.validatePolicy)
  validate(@Given() input: Input<typeof contract.validatePolicy>) {
    return this.policies.validate(input);
  }

  @Answers(contract.listPolicyTemplates)
  listTemplates() {
    return { items: policyTemplates };
  }

  @Answers(contract.exportPolicies)
  exportFiles(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.exportPolicies>) {
    return this.files.export(ctx, input);
  }

  @Answers(contract.applyPolicies)
  applyFiles(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.applyPolicies>) {
    return this.files.apply(ctx, input);
  }

  @Answers(contract.explainPolicies)
  explain(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.explainPolicies>) {
    return this.simulations.explain(ctx, input);
  }

  @Answers(contract.simulatePolicies)
  simulate(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.simulatePolicies>) {
    return this.simulations.simulate(ctx, input);
  }

  @Answers(contract.policySetConflicts)
  conflicts(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.policySetConflicts>) {
    return this.simulations.conflicts(ctx, input);
  }
}
