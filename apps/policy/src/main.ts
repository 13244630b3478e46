import { bootService } from '@keystead/service-runtime/boot-service';
import { readConfig } from './config.ts';
import { checks, PolicyModule } from './policy.module.ts';

await bootService({
  service: 'policy',
  environment: readConfig,
  module: PolicyModule.with,
  checks,
});
