import { bootService } from '@keystead/service-runtime/boot-service';
import { readConfig } from './config.ts';
import { checks, NotificationModule } from './notification.module.ts';

await bootService({
  service: 'notification',
  environment: readConfig,
  module: NotificationModule.with,
  checks,
});
