import { bootService } from '@keystead/service-runtime/boot-service';
import { readConfig } from './config.ts';
import { checks, VaultRegistryModule } from './vault-registry.module.ts';

await bootService({
  service: 'vault-registry',
  environment: readConfig,
  module: VaultRegistryModule.with,
  checks,
});
