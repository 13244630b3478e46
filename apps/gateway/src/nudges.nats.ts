import { OnNudge } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Payload } from '@nestjs/microservices';
import { AgentHalf } from './agent-half.ts';
import { LiveFeeds } from './rest/live-feeds.ts';

/** Nudges that each gateway process hears for itself. */
@Controller()
export class LiveEventNudges {
  constructor(@Inject(LiveFeeds) private readonly feeds: LiveFeeds) {}

  @OnNudge('liveEvents', true)
  look(@Payload() organizationId: unknown) {
    this.feeds.wake(String(organizationId));
  }
}

@Controller()
export class RevocationNudges {
  constructor(@Inject(AgentHalf) private readonly agents: AgentHalf) {}

  @OnNudge('revocations', true)
  look() {
    return this.agents.pollRevocations();
  }
}

@Controller()
export class PolicySetNudges {
  constructor(@Inject(AgentHalf) private readonly agents: AgentHalf) {}

  @OnNudge('policySets', true)
  look(@Payload() organizationId: unknown) {
    this.agents.lookAtPolicies(String(organizationId));
  }

  @OnNudge('agentCommands', true)
  lookAtAgent(@Payload() payload: unknown) {
    const [organizationId = '', agentId = ''] = String(payload).split('/');
    this.agents.lookAtAgent(organizationId, agentId);
  }
}
