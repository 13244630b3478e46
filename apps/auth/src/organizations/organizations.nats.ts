import { createOrganization, getOrganization, updateOrganization } from '@keystead/contracts/auth';
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Organizations } from './organizations.ts';

@Controller()
export class OrganizationsBus {
  constructor(@Inject(Organizations) private readonly organizations: Organizations) {}

  @Answers(createOrganization)
  create(@Caller() ctx: Ctx, @Given() input: Input<typeof createOrganization>) {
    return this.organizations.create(ctx, input);
  }

  @Answers(getOrganization)
  get(@Caller() ctx: TenantCtx) {
    return this.organizations.get(ctx);
  }

  @Answers(updateOrganization)
  update(@Caller() ctx: TenantCtx, @Given() input: Input<typeof updateOrganization>) {
    return this.organizations.update(ctx, input);
  }
}
