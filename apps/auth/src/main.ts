import { bootService } from '@keystead/service-runtime/boot-service';
import { AuthModule, checks } from './auth.module.ts';
import { readConfig } from './config.ts';

await bootService({
  service: 'auth',
  environment: () => readConfig(),
  module: AuthModule.with,
  checks,
});
