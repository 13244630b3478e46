/**
 * The metrics of requests, under the names of the original plan: how long each route takes, what was
 * done with secrets and how it ended, how many connections are open. Counted in plain numbers, because
 * it is done for every request, and written out when somebody asks.
 */
import type { AgentAction } from '@keystead/contracts/agent-api/actions';
import { Counter, Gauge, type Metric, type Registry } from 'prom-client';
import type { Settled } from '../access/door.ts';
import type { AuditResult } from '../audit/audit-entry.ts';

const bounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const boundsMs = bounds.map((seconds) => seconds * 1_000);
const name = 'vault_request_duration_seconds';

interface Route {
  labels: { method: string; endpoint: string };
  /** One more than bounds: what is beyond the last. */
  counts: Float64Array;
  sumMs: number;
}

export class RequestMetrics {
  readonly #routes: Route[] = [];
  readonly #operations = new Map<AgentAction, Map<AuditResult, number>>();

  constructor(registry: Registry, connections: () => Promise<number> | number) {
    registry.registerMetric({
      name,
      get: async () => this.#histogram(),
      reset: () => undefined,
    } as unknown as Metric);
    const operations = this.#operations;
    new Counter({
      name: 'vault_secret_operations_total',
      help: 'Total number of secret operations',
      labelNames: ['operation', 'status'],
      registers: [registry],
      collect() {
        this.reset();
        for (const [operation, results] of operations) {
          for (const [result, count] of results) {
            this.inc({ operation, status: result === 'done' ? 'success' : result }, count);
          }
        }
      },
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

  /** Made once for each route. */
  route(method: string, endpoint: string): (startedMs: number) => void {
    const route: Route = {
      labels: { method, endpoint },
      counts: new Float64Array(bounds.length + 1),
      sumMs: 0,
    };
    this.#routes.push(route);
    return (startedMs) => {
      const tookMs = performance.now() - startedMs;
      let index = 0;
      while (index < boundsMs.length && tookMs > (boundsMs[index] as number)) index += 1;
      route.counts[index] = (route.counts[index] as number) + 1;
      route.sumMs += tookMs;
    };
  }

  /** For {@link Door.onSettled}. */
  readonly settled: Settled = ({ action }, result) => {
    let results = this.#operations.get(action);
    if (results === undefined) {
      results = new Map();
      this.#operations.set(action, results);
    }
    results.set(result, (results.get(result) ?? 0) + 1);
  };

  /** As prom-client hands it to a registry. */
  #histogram() {
    const values = this.#routes.flatMap(({ labels, counts, sumMs }) => {
      let count = 0;
      const buckets = [...counts].map((inBucket, index) => {
        count += inBucket;
        const le = bounds[index] ?? '+Inf';
        return { labels: { le, ...labels }, value: count, metricName: `${name}_bucket` };
      });
      if (count === 0) return [];
      return [
        ...buckets,
        { labels, value: sumMs / 1_000, metricName: `${name}_sum` },
        { labels, value: count, metricName: `${name}_count` },
      ];
    });
    return {
      name,
      help: 'Request duration in seconds',
      type: 'histogram',
      aggregator: 'sum',
      values,
    };
  }
}
