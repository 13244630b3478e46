import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import {
  createEnrollmentToken,
  listEnrollmentTokens,
  revokeEnrollmentToken,
} from '@keystead/contracts/registry';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { EnrollmentTokens } from './enrollment-tokens.ts';

@Controller()
export class EnrollmentTokensBus {
  constructor(@Inject(EnrollmentTokens) private readonly tokens: EnrollmentTokens) {}

  @Answers(listEnrollmentTokens)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof listEnrollmentTokens>) {
    return this.tokens.list(ctx, input);
  }

  @Answers(createEnrollmentToken)
  create(@Caller() ctx: TenantCtx, @Given() input: Input<typeof createEnrollmentToken>) {
    return this.tokens.create(ctx, input);
  }

  @Answers(revokeEnrollmentToken)
  revoke(@Caller() ctx: TenantCtx, @Given() input: Input<typeof revokeEnrollmentToken>) {
    return this.tokens.revoke(ctx, input);
  }
}
