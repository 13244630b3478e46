import { Counter, Histogram, type Registry } from 'prom-client';

export const MONITORING_METRICS = Symbol('MONITORING_METRICS');

export interface MonitoringMetrics {
  beats: Counter;
  outagesOpened: Counter;
  sweepLateness: Histogram;
}

export function createMetrics(registry: Registry): MonitoringMetrics {
  const registers = [registry];
  return {
    beats: new Counter({
      name: 'keystead_heartbeats_total',
      help: 'Heartbeats recorded',
      registers,
    }),
    outagesOpened: new Counter({
      name: 'keystead_outages_opened_total',
      help: 'Outages opened',
      registers,
    }),
    sweepLateness: new Histogram({
      name: 'keystead_sweep_lateness_seconds',
      help: 'From the moment an agent was due to the moment it was judged offline',
      buckets: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
      registers,
    }),
  };
}
