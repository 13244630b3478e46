import { getVaultUsage } from '@keystead/contracts/analytics';
import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Usage } from './usage.ts';

@Controller()
export class UsageBus {
  constructor(@Inject(Usage) private readonly usage: Usage) {}

  @Answers(getVaultUsage)
  ofVault(@Caller() ctx: TenantCtx, @Given() input: Input<typeof getVaultUsage>) {
    return this.usage.ofVault(ctx, input);
  }
}
