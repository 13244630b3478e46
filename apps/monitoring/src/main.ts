import { bootService } from '@keystead/service-runtime/boot-service';
import { readConfig } from './config.ts';
import { checks, MonitoringModule } from './monitoring.module.ts';

await bootService({
  service: 'monitoring',
  environment: readConfig,
  module: MonitoringModule.with,
  checks,
});
