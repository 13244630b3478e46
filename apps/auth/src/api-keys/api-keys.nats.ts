import { createApiKey, listApiKeys, revokeApiKey } from '@keystead/contracts/auth';
import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { ApiKeys } from './api-keys.ts';

@Controller()
export class ApiKeysBus {
  constructor(@Inject(ApiKeys) private readonly apiKeys: ApiKeys) {}

  @Answers(listApiKeys)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof listApiKeys>) {
    return this.apiKeys.list(ctx, input);
  }

  @Answers(createApiKey)
  create(@Caller() ctx: TenantCtx, @Given() input: Input<typeof createApiKey>) {
    return this.apiKeys.create(ctx, input);
  }

  @Answers(revokeApiKey)
  revoke(@Caller() ctx: TenantCtx, @Given() input: Input<typeof revokeApiKey>) {
    return this.apiKeys.revoke(ctx, input);
  }
}
