/** What the link to the control plane and the process count, for the metrics. */
import { Counter, collectDefaultMetrics, Gauge, type Registry } from 'prom-client';
import type { VaultAgent } from './vault-agent.ts';

const circuitNumbers = { closed: 0, 'half-open': 1, open: 2 };

export function addLinkMetrics(registry: Registry, agent: VaultAgent): void {
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
  new Gauge({
    name: 'vault_circuit_state',
    help: 'Circuit breakers: 0 closed, 1 half-open while one attempt is made, 2 open',
    labelNames: ['circuit'],
    registers: [registry],
    collect() {
      for (const [circuit, state] of Object.entries(agent.circuits)) {
        this.set({ circuit }, circuitNumbers[state]);
      }
    },
  });
  gauge('vault_cache_hit_rate', 'Cache hit rate percentage', () => agent.cacheHitPercent);
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
}
