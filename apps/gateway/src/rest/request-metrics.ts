import { Histogram, type Registry } from 'prom-client';
import { publicOperations, routePattern, streamEvents } from './public-operations.ts';

// A stream's length says nothing about how fast we answer.
const ids = new Map(
  publicOperations
    .filter((operation) => operation !== streamEvents)
    .map(({ method, path, id }) => [`${method} ${routePattern(path)}`, id]),
);

/** How long requests take, by operation and status. Paths that are no operation share one label. */
export class RequestMetrics {
  readonly #durations: Histogram<'operation' | 'status'>;

  constructor(registry: Registry) {
    this.#durations = new Histogram({
      name: 'keystead_http_request_duration_seconds',
      help: 'Duration of HTTP requests by operation and status',
      labelNames: ['operation', 'status'],
      buckets: [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers: [registry],
    });
  }

  /** @param pattern the route that matched, as the router writes it */
  observe(method: string, pattern: string | undefined, status: number, durationMs: number): void {
    if (pattern === streamEvents.path) return;
    const known = method === 'HEAD' ? 'GET' : method;
    const operation = ids.get(`${known} ${pattern}`) ?? 'other';
    this.#durations.observe({ operation, status: String(status) }, durationMs / 1_000);
  }
}
