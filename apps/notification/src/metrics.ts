import { Counter, Histogram, type Registry } from 'prom-client';

export const NOTIFICATION_METRICS = Symbol('NOTIFICATION_METRICS');

export interface NotificationMetrics {
  attempts: Counter<'channel' | 'outcome'>;
  attemptSeconds: Histogram<'channel'>;
  handOverSeconds: Histogram<'channel'>;
}

export function createMetrics(registry: Registry): NotificationMetrics {
  const registers = [registry];
  return {
    attempts: new Counter({
      name: 'keystead_delivery_attempts_total',
      help: 'Attempts to deliver, by kind of channel and outcome',
      labelNames: ['channel', 'outcome'],
      registers,
    }),
    attemptSeconds: new Histogram({
      name: 'keystead_delivery_attempt_seconds',
      help: 'How long receivers took',
      labelNames: ['channel'],
      buckets: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30],
      registers,
    }),
    handOverSeconds: new Histogram({
      name: 'keystead_alert_hand_over_seconds',
      help: 'From the opening of an alert to its hand-over to a receiver',
      labelNames: ['channel'],
      buckets: [1, 2.5, 5, 10, 11, 12, 15, 20, 30, 60, 120, 300, 3_600],
      registers,
    }),
  };
}
