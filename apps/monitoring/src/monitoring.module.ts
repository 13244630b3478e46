import { AccessModule } from '@keystead/access/access.module';
import { Database } from '@keystead/database/database';
import type { Logger } from '@keystead/service-runtime/log';
import { MessagingModule } from '@keystead/service-runtime/messaging.module';
import { type DynamicModule, type INestMicroservice, Module } from '@nestjs/common';
import type { Registry } from 'prom-client';
import { AgentEvents } from './agent-events/agent-events.ts';
import { AlertDesk } from './alerts/alert-desk.ts';
import { AlertRules } from './alerts/alert-rules.ts';
import { Alerts } from './alerts/alerts.ts';
import { VaultReports } from './alerts/vault-reports.ts';
import { AuditHeads } from './audit-heads/audit-heads.ts';
import type { Config } from './config.ts';
import { Duties } from './duties.job.ts';
import { LiveEvents } from './live-events/live-events.ts';
import { AgentSignals } from './liveness/agent-signals.ts';
import { BeatRecorder } from './liveness/beat-recorder.ts';
import { CloneWatch } from './liveness/clone-watch.ts';
import { GatewayTicks } from './liveness/gateway-ticks.ts';
import { LivenessSweep } from './liveness/liveness-sweep.ts';
import { createMetrics, MONITORING_METRICS } from './metrics.ts';
import { AgentLinkBus, MonitoringBus } from './monitoring.nats.ts';
import { Outages } from './outages/outages.ts';
import { ThresholdKeeper } from './thresholds/threshold-keeper.ts';
import { ThresholdRules } from './thresholds/threshold-rules.ts';
import { CONFIG } from './tokens.ts';

@Module({})
export class MonitoringModule {
  static with(config: Config, log: Logger, metrics: Registry): DynamicModule {
    return {
      module: MonitoringModule,
      imports: [
        AccessModule.forRoot({
          serviceUrl: config.KEYSTEAD_SERVICE_DATABASE_URL,
          acrossUrl: config.KEYSTEAD_ACROSS_DATABASE_URL,
          installationKeyFile: config.KEYSTEAD_INSTALLATION_KEY_FILE,
          poolSize: config.KEYSTEAD_POOL_SIZE,
        }),
        MessagingModule.forRoot({ service: 'monitoring', environment: config }, log),
      ],
      controllers: [AgentLinkBus, MonitoringBus],
      providers: [
        { provide: CONFIG, useValue: config },
        { provide: MONITORING_METRICS, useValue: createMetrics(metrics) },
        AgentEvents,
        AgentSignals,
        AlertDesk,
        AlertRules,
        Alerts,
        AuditHeads,
        BeatRecorder,
        CloneWatch,
        Duties,
        GatewayTicks,
        LiveEvents,
        LivenessSweep,
        Outages,
        ThresholdKeeper,
        ThresholdRules,
        VaultReports,
      ],
    };
  }
}

export const checks = (app: INestMicroservice) => [
  { name: 'postgresql', run: () => app.get(Database, { strict: false }).ping() },
];
