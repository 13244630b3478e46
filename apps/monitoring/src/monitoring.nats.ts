import {
  agentSignals,
  gatewayDrained,
  readLiveEvents,
  recordAgentEvents,
  recordBeats,
} from '@keystead/contracts/agent-link';
import type { Ctx, TenantCtx } from '@keystead/contracts/context';
import * as contract from '@keystead/contracts/monitoring';
import type { Input } from '@keystead/contracts/operation';
import { Answers, authorize, Caller, Given, OnNudge } from '@keystead/messaging/bus-handlers';
import { Controller, Inject } from '@nestjs/common';
import { Payload } from '@nestjs/microservices';
import type { z } from 'zod';
import { AgentEvents } from './agent-events/agent-events.ts';
import { AlertRules } from './alerts/alert-rules.ts';
import { Alerts } from './alerts/alerts.ts';
import { AuditHeads } from './audit-heads/audit-heads.ts';
import { Duties } from './duties.job.ts';
import { LiveEvents } from './live-events/live-events.ts';
import { AgentSignals } from './liveness/agent-signals.ts';
import { BeatRecorder } from './liveness/beat-recorder.ts';
import { GatewayTicks } from './liveness/gateway-ticks.ts';
import { Outages } from './outages/outages.ts';
import { ThresholdKeeper } from './thresholds/threshold-keeper.ts';
import { ThresholdRules } from './thresholds/threshold-rules.ts';

type Asked<C extends { input: z.ZodType }> = z.output<C['input']>;

/** What gateways say on behalf of agents. */
@Controller()
export class AgentLinkBus {
  constructor(
    @Inject(BeatRecorder) private readonly recorder: BeatRecorder,
    @Inject(AgentSignals) private readonly signals: AgentSignals,
    @Inject(AgentEvents) private readonly events: AgentEvents,
    @Inject(GatewayTicks) private readonly ticks: GatewayTicks,
    @Inject(LiveEvents) private readonly live: LiveEvents,
    @Inject(ThresholdKeeper) private readonly thresholds: ThresholdKeeper,
    @Inject(Duties) private readonly duties: Duties,
  ) {}

  @Answers(recordBeats)
  beats(@Given() batch: Asked<typeof recordBeats>) {
    return this.recorder.record(batch);
  }

  @Answers(agentSignals)
  signal(@Given() signals: Asked<typeof agentSignals>) {
    return this.signals.record(signals);
  }

  @Answers(recordAgentEvents)
  agentEvents(@Given() input: Asked<typeof recordAgentEvents>) {
    return this.events.record(input.events);
  }

  @Answers(gatewayDrained)
  async drained(@Given() input: Asked<typeof gatewayDrained>) {
    await this.ticks.drained(input.gatewayId);
    return {};
  }

  @Answers(readLiveEvents)
  liveEvents(@Caller() ctx: Ctx, @Given() input: Asked<typeof readLiveEvents>) {
    authorize(ctx, 'events.read');
    return this.live.read(ctx, input.after, input.limit);
  }

  @OnNudge('thresholds')
  align(@Payload() hint: unknown) {
    return this.thresholds.reconcile(hint);
  }

  @OnNudge('vaultReports')
  reported() {
    this.duties.takeReports();
  }
}

@Controller()
export class MonitoringBus {
  constructor(
    @Inject(Outages) private readonly outages: Outages,
    @Inject(Alerts) private readonly alerts: Alerts,
    @Inject(AlertRules) private readonly alertRules: AlertRules,
    @Inject(ThresholdRules) private readonly thresholdRules: ThresholdRules,
    @Inject(AgentEvents) private readonly events: AgentEvents,
    @Inject(AuditHeads) private readonly heads: AuditHeads,
  ) {}

  @Answers(contract.listOutages)
  listOutages(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listOutages>) {
    return this.outages.list(ctx, input);
  }

  @Answers(contract.getOutage)
  getOutage(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getOutage>) {
    return this.outages.get(ctx, input);
  }

  @Answers(contract.listAlerts)
  listAlerts(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listAlerts>) {
    return this.alerts.list(ctx, input);
  }

  @Answers(contract.getAlert)
  getAlert(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getAlert>) {
    return this.alerts.get(ctx, input);
  }

  @Answers(contract.acknowledgeAlert)
  acknowledge(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.acknowledgeAlert>) {
    return this.alerts.acknowledge(ctx, input);
  }

  @Answers(contract.muteAlert)
  mute(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.muteAlert>) {
    return this.alerts.mute(ctx, input);
  }

  @Answers(contract.listAlertRules)
  listRules(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listAlertRules>) {
    return this.alertRules.list(ctx, input);
  }

  @Answers(contract.getAlertRule)
  getRule(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getAlertRule>) {
    return this.alertRules.get(ctx, input);
  }

  @Answers(contract.createAlertRule)
  createRule(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.createAlertRule>) {
    return this.alertRules.create(ctx, input);
  }

  @Answers(contract.updateAlertRule)
  updateRule(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.updateAlertRule>) {
    return this.alertRules.update(ctx, input);
  }

  @Answers(contract.deleteAlertRule)
  deleteRule(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.deleteAlertRule>) {
    return this.alertRules.remove(ctx, input);
  }

  @Answers(contract.listThresholdRules)
  listThresholds(
    @Caller() ctx: TenantCtx,
    @Given() input: Input<typeof contract.listThresholdRules>,
  ) {
    return this.thresholdRules.list(ctx, input);
  }

  @Answers(contract.getThresholdRule)
  getThreshold(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.getThresholdRule>) {
    return this.thresholdRules.get(ctx, input);
  }

  @Answers(contract.createThresholdRule)
  createThreshold(
    @Caller() ctx: TenantCtx,
    @Given() input: Input<typeof contract.createThresholdRule>,
  ) {
    return this.thresholdRules.create(ctx, input);
  }

  @Answers(contract.updateThresholdRule)
  updateThreshold(
    @Caller() ctx: TenantCtx,
    @Given() input: Input<typeof contract.updateThresholdRule>,
  ) {
    return this.thresholdRules.update(ctx, input);
  }

  @Answers(contract.deleteThresholdRule)
  deleteThreshold(
    @Caller() ctx: TenantCtx,
    @Given() input: Input<typeof contract.deleteThresholdRule>,
  ) {
    return this.thresholdRules.remove(ctx, input);
  }

  @Answers(contract.listAgentEvents)
  listEvents(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listAgentEvents>) {
    return this.events.list(ctx, input);
  }

  @Answers(contract.listAuditHeads)
  listAuditHeads(@Caller() ctx: TenantCtx, @Given() input: Input<typeof contract.listAuditHeads>) {
    return this.heads.list(ctx, input);
  }
}
