import 'reflect-metadata';
import { readOrExit } from '@keystead/service-runtime/boot-service';
import { createLog } from '@keystead/service-runtime/log';
import { readConfig } from './config.ts';
import { startGateway } from './gateway.ts';

const config = readOrExit('gateway', readConfig);
await startGateway(config, createLog('gateway', config.KEYSTEAD_LOG_LEVEL));
