/**
 * What the agent tells others of what it does: the control plane through the queue, receivers of the
 * audit, the metrics. None of them holds up an operation.
 */
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import type { AuditForwarder } from './audit/forwarding/audit-forwarder.ts';
import { openForwarders } from './audit/forwarding/open-forwarders.ts';
import type { LoadedConfiguration } from './configuration.ts';
import type { DurableQueue } from './durable-queue.ts';
import type { GuardedVault } from './guarded-vault.ts';
import type { IdentityStore } from './identity-store.ts';
import type { ReadVariable } from './key-management.ts';
import { addReportingMetrics } from './observe/reporting-metrics.ts';
import { NameReferences } from './upward/name-references.ts';
import { storeSizes } from './upward/store-sizes.ts';
import { Upward } from './upward/upward.ts';

export interface AgentReportingOptions {
  loaded: LoadedConfiguration;
  readVariable: ReadVariable;
  guarded: GuardedVault;
  queue: DurableQueue;
  identities: IdentityStore;
  registry: Registry;
  log: Logger;
  /** Called when something waits to be sent. */
  onQueued: () => void;
}

export class AgentReporting {
  readonly upward: Upward;
  readonly #guarded: GuardedVault;
  readonly #forwarders: AuditForwarder[];

  /** @throws ConfigurationError where a file or secret of a receiver is not there */
  constructor(options: AgentReportingOptions) {
    const { guarded, identities, loaded, log, queue, registry } = options;
    const { vault, trail, door } = guarded;
    this.#guarded = guarded;
    const names = vault.keys.derive('name-references');
    const isTold = loaded.configuration.control_plane.enabled;
    this.upward = new Upward({
      queue: isTold ? queue : undefined,
      names: new NameReferences(names.bytes),
      sizes: () => storeSizes(vault.store),
      identityKey: () => (isTold ? identities.current.privateKey : undefined),
      log,
      onQueued: options.onQueued,
    });
    names.wipe();
    this.upward.follow(trail);
    door.onSettled(this.upward.settled);
    trail.onFact(this.upward.recorded);
    this.#forwarders = openForwarders(loaded, options.readVariable, log);
    addReportingMetrics(registry, { trail, queue, forwarders: this.#forwarders });
  }

  start(): void {
    this.upward.start();
    for (const forwarder of this.#forwarders) forwarder.start();
  }

  /** The last entries, head and counts. Nothing is asked of the vault any more. */
  async stop(): Promise<void> {
    await this.#guarded.trail.stop();
    await this.upward.stop();
    await Promise.all(this.#forwarders.map((forwarder) => forwarder.stop()));
  }
}
