/** The agent's own HTTP: health and metrics. Answers whether or not there is a control plane. */
import Fastify, { type FastifyInstance } from 'fastify';
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { VaultAgent } from './vault-agent.ts';

export class PortTaken extends Error {
  constructor(host: string, port: number) {
    super(`port ${port} on ${host} is taken: set another server.port in vault.yaml`);
    this.name = 'PortTaken';
  }
}

export class LocalServer {
  readonly #app: FastifyInstance;

  constructor(agent: VaultAgent, metricsPath: string | undefined) {
    this.#app = Fastify({ logger: false, bodyLimit: 1_024, forceCloseConnections: true });
    this.#app.get('/healthz', () => agent.health());
    this.#app.get('/readyz', (_request, reply) =>
      reply.code(agent.isReady ? 200 : 503).send({ ready: agent.isReady }),
    );
    if (metricsPath !== undefined) {
      const registry = metricsOf(agent);
      this.#app.get(metricsPath, async (_request, reply) =>
        reply.type(registry.contentType).send(await registry.metrics()),
      );
    }
  }

  /** Answers the port in use. @throws PortTaken */
  async listen(host: string, port: number): Promise<number> {
    try {
      await this.#app.listen({ host, port });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') throw new PortTaken(host, port);
      throw error;
    }
    const address = this.#app.server.address();
    return typeof address === 'object' && address !== null ? address.port : port;
  }

  async close(): Promise<void> {
    await this.#app.close();
  }
}

function metricsOf(agent: VaultAgent): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(read());
      },
    });
  gauge('keystead_agent_connected', '1 while a session with the control plane is open', () =>
    agent.health().controlPlane.state === 'connected' ? 1 : 0,
  );
  gauge(
    'keystead_agent_queue_events',
    'Events that wait for a receipt',
    () => agent.health().queue.waiting,
  );
  gauge(
    'keystead_agent_certificate_expires_timestamp_seconds',
    'When the certificate expires',
    () => Date.parse(agent.health().controlPlane.certificate?.expiresAt ?? '') / 1_000 || 0,
  );
  for (const name of Object.keys(agent.counters)) {
    new Counter({
      name: `keystead_agent_${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}_total`,
      help: name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`),
      registers: [registry],
      collect() {
        this.reset();
        this.inc(agent.counters[name as keyof typeof agent.counters]);
      },
    });
  }
  return registry;
}
