import { bootService } from '@keystead/service-runtime/boot-service';
import { AnalyticsModule, checks } from './analytics.module.ts';
import { readConfig } from './config.ts';

await bootService({
  service: 'analytics',
  environment: readConfig,
  module: AnalyticsModule.with,
  checks,
});
