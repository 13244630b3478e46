import {
  acceptInvitation,
  deleteMember,
  inviteMember,
  listMembers,
  updateMember,
} from '@keystead/contracts/auth';
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Invitations } from './invitations.ts';
import { Members } from './members.ts';

@Controller()
export class MembersBus {
  constructor(
    @Inject(Members) private readonly members: Members,
    @Inject(Invitations) private readonly invitations: Invitations,
  ) {}

  @Answers(listMembers)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof listMembers>) {
    return this.members.list(ctx, input);
  }

  @Answers(inviteMember)
  invite(@Caller() ctx: TenantCtx, @Given() input: Input<typeof inviteMember>) {
    return this.members.invite(ctx, input);
  }

  @Answers(acceptInvitation)
  accept(@Caller() ctx: Ctx, @Given() input: Input<typeof acceptInvitation>) {
    return this.invitations.accept(ctx, input);
  }

  @Answers(updateMember)
  update(@Caller() ctx: TenantCtx, @Given() input: Input<typeof updateMember>) {
    return this.members.update(ctx, input);
  }

  @Answers(deleteMember)
  delete(@Caller() ctx: TenantCtx, @Given() input: Input<typeof deleteMember>) {
    return this.members.delete(ctx, input);
  }
}
