import { createSession, deleteSession, me, refreshSession } from '@keystead/contracts/auth';
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Sessions } from './sessions.ts';

@Controller()
export class SessionsBus {
  constructor(@Inject(Sessions) private readonly sessions: Sessions) {}

  @Answers(createSession)
  create(@Caller() ctx: Ctx, @Given() input: Input<typeof createSession>) {
    return this.sessions.create(ctx, input);
  }

  @Answers(refreshSession)
  refresh(@Caller() ctx: Ctx, @Given() input: Input<typeof refreshSession>) {
    return this.sessions.refresh(ctx, input);
  }

  @Answers(deleteSession)
  delete(@Caller() ctx: TenantCtx, @Given() input: Input<typeof deleteSession>) {
    return this.sessions.delete(ctx, input);
  }

  @Answers(me)
  me(@Caller() ctx: TenantCtx) {
    return this.sessions.me(ctx);
  }
}
