import { deliverPolicies, readPolicySet } from '@keystead/contracts/agent-link';
import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { getAgentPolicy } from '@keystead/contracts/policy';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import type { z } from 'zod';
import { AgentPolicies } from './agent-policies.ts';
import { Deliveries } from './deliveries.ts';

@Controller()
export class DeliveriesBus {
  constructor(
    @Inject(Deliveries) private readonly deliveries: Deliveries,
    @Inject(AgentPolicies) private readonly agents: AgentPolicies,
  ) {}

  @Answers(deliverPolicies)
  deliver(@Given() input: z.output<typeof deliverPolicies.input>) {
    return this.deliveries.deliver(input.agents);
  }

  @Answers(readPolicySet)
  part(@Given() input: z.output<typeof readPolicySet.input>) {
    return this.deliveries.part(input);
  }

  @Answers(getAgentPolicy)
  agent(@Caller() ctx: TenantCtx, @Given() input: Input<typeof getAgentPolicy>) {
    return this.agents.get(ctx, input);
  }
}
