/**
 * The agents' half of a gateway, put together: a server certificate from the registry, the link on
 * its port, its counters, and an end that says goodbye to the agents first. The private key lives
 * in this process alone; a restart asks for a new certificate.
 */
import { X509Certificate } from 'node:crypto';
import { system } from '@keystead/access/authenticator';
import {
  createCertificateRequest,
  generateAgentKey,
} from '@keystead/agent-protocol/certificate-request';
import type { ServerTrust } from '@keystead/agent-protocol/link-server';
import { issueGatewayCertificate } from '@keystead/contracts/agent-link';
import { newUuid } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';
import type { Database } from '@keystead/database/database';
import type { Bus } from '@keystead/messaging/bus';
import type { Logger } from '@keystead/service-runtime/log';
import { Counter, Gauge, type Registry } from 'prom-client';
import { NatsAgentBackend } from './agents/agent-backend.nats.ts';
import { AgentLink } from './agents/agent-link.ts';

export interface AgentHalfOptions {
  bus: Bus;
  database: Database;
  log: Logger;
  metrics: Registry;
  host: string;
  port: number;
  /** Names and addresses that the server certificate covers. */
  hosts: readonly string[];
}

const retryMs = 1_000;
const renewalCheckMs = 60_000;
const drainWithinMs = 2_500;
const drainedTimeoutMs = 1_000;

interface Certified {
  trust: ServerTrust;
  trustDomain: string;
  renewAtMs: number;
}

export class AgentHalf {
  readonly #options: AgentHalfOptions;
  readonly #backend: NatsAgentBackend;
  #link: AgentLink | undefined;
  #port: number | undefined;
  #renewAtMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(options: AgentHalfOptions) {
    this.#options = options;
    this.#backend = new NatsAgentBackend(options.bus, options.database, newUuid());
    this.#measure(options.metrics);
  }

  /** The port in use, once it listens. */
  get port(): number | undefined {
    return this.#port;
  }

  /** Asks the registry until it answers, then listens. Rejects when the port is not to be had. */
  async start(): Promise<void> {
    const { log, host, port } = this.#options;
    const certified = await this.#untilCertified();
    if (certified === undefined) return;
    const link = new AgentLink({
      backend: this.#backend,
      trust: certified.trust,
      trustDomain: certified.trustDomain,
      warn: (message, details) => log.warn(details, message),
    });
    this.#link = link;
    this.#renewAtMs = certified.renewAtMs;
    this.#port = await link.start(port, host);
    this.#timer = setInterval(() => void this.#renewWhenDue(), renewalCheckMs).unref();
    log.info({ agentPort: this.#port }, 'agents may come');
  }

  /** @throws unless agents are heard and what they say is recorded */
  async check(): Promise<void> {
    if (!this.#link?.isReady) throw new Error('the agent link is not ready');
  }

  async pollRevocations(): Promise<void> {
    await this.#link?.pollRevocations();
  }

  lookAtPolicies(organizationId: string): void {
    this.#link?.lookAtPolicies(organizationId);
  }

  lookAtAgent(organizationId: string, agentId: string): void {
    this.#link?.lookAtAgent(organizationId, agentId);
  }

  /** Tells monitoring that the silence to come is ours, sends the agents away, and closes. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    const link = this.#link;
    if (!link) return;
    const { log } = this.#options;
    await link.drain(drainWithinMs);
    await link.close();
    await this.#backend
      .drained(drainedTimeoutMs)
      .catch((error: unknown) => log.warn({ err: error }, 'monitoring does not know of our end'));
  }

  async #untilCertified(): Promise<Certified | undefined> {
    const { log } = this.#options;
    for (let attempt = 0; !this.#stopped; attempt += 1) {
      try {
        return await this.#certify();
      } catch (error) {
        if (attempt % 30 === 0) log.info({ err: error }, 'waiting for a server certificate');
        await new Promise((resolve) => setTimeout(resolve, retryMs));
      }
    }
    return undefined;
  }

  async #certify(): Promise<Certified> {
    const key = await generateAgentKey();
    const issued = await this.#options.bus.call(issueGatewayCertificate, system('agent-link'), {
      csr: createCertificateRequest(key).toString('base64'),
      hosts: [...this.#options.hosts],
    });
    const [leaf = '', ...intermediates] = issued.certificateChain;
    const { validFromDate, validToDate } = new X509Certificate(leaf);
    const now = Date.now();
    const validUntilMs = validToDate.getTime();
    return {
      trust: {
        certificateChain: [leaf, ...intermediates, issued.root].join('\n'),
        privateKey: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
        authorities: [issued.root, ...intermediates],
      },
      trustDomain: issued.trustDomain,
      renewAtMs: now + (validUntilMs - Math.max(now, validFromDate.getTime())) / 2,
    };
  }

  async #renewWhenDue(): Promise<void> {
    if (Date.now() < this.#renewAtMs) return;
    const { log } = this.#options;
    try {
      const { trust, renewAtMs } = await this.#certify();
      this.#link?.replaceTrust(trust);
      this.#renewAtMs = renewAtMs;
      log.info('the server certificate was renewed');
    } catch (error) {
      log.warn({ err: error }, 'the server certificate could not be renewed; trying again');
    }
  }

  #measure(registry: Registry): void {
    const link = () => this.#link;
    new Gauge({
      name: 'keystead_agent_sessions',
      help: `Agents that are heard now, at most ${limits.agentSessionsPerGateway}`,
      registers: [registry],
      collect() {
        this.set(link()?.openSessions ?? 0);
      },
    });
    new Counter({
      name: 'keystead_agent_link_total',
      help: 'What happened on the agent link since the start, by kind',
      labelNames: ['kind'],
      registers: [registry],
      collect() {
        this.reset();
        for (const [kind, count] of Object.entries(link()?.counters ?? {})) {
          this.inc({ kind }, count);
        }
      },
    });
  }
}
