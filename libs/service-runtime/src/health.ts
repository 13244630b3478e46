/** `/healthz` (the process lives), `/readyz` (it can do its work), `/metrics` (Prometheus). */
import { ServiceError } from '@keystead/contracts/errors';
import Fastify, { type FastifyInstance } from 'fastify';
import type { Registry } from 'prom-client';

export interface Check {
  name: string;
  /** Throws, or takes longer than two seconds, when the part is not there. */
  run: () => Promise<void>;
}

const checkTimeoutMs = 2_000;

export async function runChecks(
  checks: readonly Check[],
): Promise<{ ready: boolean; parts: Record<string, 'up' | 'down'> }> {
  const results = await Promise.all(
    checks.map(async ({ name, run }) => {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new ServiceError('unavailable')), checkTimeoutMs);
      });
      try {
        await Promise.race([run(), late]);
        return [name, 'up'] as const;
      } catch {
        return [name, 'down'] as const;
      } finally {
        clearTimeout(timer);
      }
    }),
  );
  return {
    ready: results.every(([, state]) => state === 'up'),
    parts: Object.fromEntries(results),
  };
}

/** Adds the three routes. */
export function serveHealth(
  server: Pick<FastifyInstance, 'get'>,
  checks: readonly Check[],
  registry: Registry,
): void {
  server.get('/healthz', async (_request, reply) => {
    reply.header('cache-control', 'no-store');
    return { status: 'up' };
  });
  server.get('/readyz', async (_request, reply) => {
    const { ready, parts } = await runChecks(checks);
    reply.header('cache-control', 'no-store').code(ready ? 200 : 503);
    return { status: ready ? 'ready' : 'not ready', parts };
  });
  server.get('/metrics', async (_request, reply) => {
    reply.header('content-type', registry.contentType);
    return registry.metrics();
  });
}

export async function listenForHealth(
  address: { host: string; port: number },
  checks: readonly Check[],
  registry: Registry,
): Promise<{ port: number; close: () => Promise<void> }> {
  const server = Fastify({ bodyLimit: 1_024 });
  serveHealth(server, checks, registry);
  await server.listen({ host: address.host, port: address.port });
  const bound = server.server.address();
  return {
    port: typeof bound === 'object' && bound ? bound.port : address.port,
    close: () => server.close(),
  };
}
