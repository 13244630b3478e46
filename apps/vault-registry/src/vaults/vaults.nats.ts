import type { TenantCtx } from '@keystead/contracts/context';
import type { Input } from '@keystead/contracts/operation';
import {
  createVault,
  deleteVault,
  getVault,
  listVaults,
  updateVault,
} from '@keystead/contracts/registry';
import { Answers, Caller, Given } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Vaults } from './vaults.ts';

@Controller()
export class VaultsBus {
  constructor(@Inject(Vaults) private readonly vaults: Vaults) {}

  @Answers(listVaults)
  list(@Caller() ctx: TenantCtx, @Given() input: Input<typeof listVaults>) {
    return this.vaults.list(ctx, input);
  }

  @Answers(getVault)
  get(@Caller() ctx: TenantCtx, @Given() input: Input<typeof getVault>) {
    return this.vaults.get(ctx, input);
  }

  @Answers(createVault)
  create(@Caller() ctx: TenantCtx, @Given() input: Input<typeof createVault>) {
    return this.vaults.create(ctx, input);
  }

  @Answers(updateVault)
  update(@Caller() ctx: TenantCtx, @Given() input: Input<typeof updateVault>) {
    return this.vaults.update(ctx, input);
  }

  @Answers(deleteVault)
  delete(@Caller() ctx: TenantCtx, @Given() input: Input<typeof deleteVault>) {
    return this.vaults.delete(ctx, input);
  }
}
