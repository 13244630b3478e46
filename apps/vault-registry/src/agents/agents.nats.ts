import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { deleteAgent, getAgent, listAgents, revokeAgent } from '@keystead/contracts/registry';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Agents } from './agents.ts';

@Controller()
export class AgentsBus {
  constructor(@Inject(Agents) private readonly agents: Agents) {}

  @Answers(listAgents)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof listAgents>) {
    return this.agents.list(ctx, input);
  }

  @Answers(getAgent)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof getAgent>) {
    return this.agents.get(ctx, input);
  }

  @Answers(revokeAgent)
  revoke(@Caller() ctx: TenantCtx, @Given() input: Input<typeof revokeAgent>) {
    return this.agents.revoke(ctx, input);
  }

  @Answers(deleteAgent)
  delete(@Caller() ctx: TenantCtx, @Given() input: Input<typeof deleteAgent>) {
    return this.agents.delete(ctx, input);
  }
}
