/**
 * The metrics of requests, under the names of the original plan: how long each route takes, what was
 * done with secrets and how it ended, how many connections are open.
 */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { Settled } from '../access/door.ts';

const buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export class RequestMetrics {
  readonly #durations: Histogram<'method' | 'endpoint'>;
  readonly #operations: Counter<'operation' | 'status'>;
  readonly #ready = new Map<string, { inc: () => void }>();

  constructor(registry: Registry, connections: () => Promise<number> | number) {
    this.#durations = new Histogram({
      name: 'vault_request_duration_seconds',
      help: 'Request duration in seconds',
      labelNames: ['method', 'endpoint'],
      buckets,
      registers: [registry],
    });
    this.#operations = new Counter({
      name: 'vault_secret_operations_total',
      help: 'Total number of secret operations',
      labelNames: ['operation', 'status'],
      registers: [registry],
    });
    new Gauge({
      name: 'vault_active_connections',
      help: 'Number of active connections',
      registers: [registry],
      async collect() {
        this.set(await connections());
      },
    });
  }

  /** Made once for each route, so that a request looks nothing up. */
  route(method: string, endpoint: string): (startedMs: number) => void {
    const durations = this.#durations.labels(method, endpoint);
    return (startedMs) => durations.observe((performance.now() - startedMs) / 1_000);
  }

  /** For {@link Door.onSettled}. */
  readonly settled: Settled = ({ action }, result) => {
    const status = result === 'done' ? 'success' : result;
    const name = `${action} ${status}`;
    let counter = this.#ready.get(name);
    if (counter === undefined) {
      counter = this.#operations.labels(action, status);
      this.#ready.set(name, counter);
    }
    counter.inc();
  };
}
