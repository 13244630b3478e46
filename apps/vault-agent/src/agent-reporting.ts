/**
 * What the agent tells others of what it does: the control plane through the queue, receivers of the
 * audit, the metrics. None of them holds up an operation.
 */
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import { CommandsLog } from './audit/commands-log.ts';
import { AuditForwarding } from './audit/forwarding/audit-forwarding.ts';
import { destinationsOf } from './audit/forwarding/named-destinations.ts';
import type { BackupSchema } from './backup/backup-tables.ts';
import type { LoadedConfiguration } from './configuration.ts';
import type { DurableQueue } from './durable-queue.ts';
import type { GuardedVault } from './guarded-vault.ts';
import type { IdentityStore } from './identity-store.ts';
import type { ReadVariable } from './key-management.ts';
import { addDutyMetrics } from './observe/duty-metrics.ts';
import { Lockouts } from './observe/lockouts.ts';
import { addReportingMetrics } from './observe/reporting-metrics.ts';
import { SuspicionGuard } from './observe/suspicion-guard.ts';
import type { EffectiveConfiguration } from './policies/rolled-out-configuration.ts';
import { effectiveSuspicion, suspicionRulesOf } from './policies/rolled-out-suspicion.ts';
import type { RotationSchema } from './rotation/rotation-tables.ts';
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
  readonly #commands: CommandsLog;
  readonly forwarding: AuditForwarding;
  readonly #lockouts: Lockouts;
  readonly #suspicions: SuspicionGuard;

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
    this.#commands = new CommandsLog({ logFile: trail.logFile, onHead: this.upward.head, log });
    door.onSettled(this.upward.settled);
    trail.onFact(this.upward.recorded);
    this.forwarding = new AuditForwarding(destinationsOf(loaded, options.readVariable), log, {
      through: () => trail.sequence,
    });
    const suspicion = effectiveSuspicion(loaded);
    this.#lockouts = new Lockouts(lockoutsFileOf(loaded), log);
    this.#suspicions = new SuspicionGuard({
      rules: suspicionRulesOf(suspicion),
      lockMs: suspicion.lockSeconds.value * 1_000,
      lockouts: this.#lockouts,
      learnedFile: `${trail.logFile}.learned.json`,
      notice: (kind, about) => this.upward.notice(kind, about),
      log,
    });
    door.lockout = (identity) => this.#lockouts.of(identity);
    trail.onFact(this.#suspicions.recorded);
    addReportingMetrics(registry, {
      clock: guarded.clock,
      trail,
      queue,
      forwarding: this.forwarding,
      lockouts: this.#lockouts,
      suspicions: this.#suspicions,
    });
    const { backup } = loaded.configuration;
    addDutyMetrics(registry, {
      store: vault.store.as<BackupSchema & RotationSchema>(),
      schedule: backup.enabled ? backup.schedule : undefined,
      now: guarded.clock.nowMs,
    });
  }

  start(): void {
    this.upward.start();
    this.#commands.start();
    this.#lockouts.start();
    this.#suspicions.start();
    this.forwarding.start();
  }

  /** What holds from now on of what a policy set may say. */
  configure({ suspicion, forwarding, unknownDestinations }: EffectiveConfiguration): void {
    this.#suspicions.configure(suspicionRulesOf(suspicion), suspicion.lockSeconds.value * 1_000);
    const on = Object.entries(forwarding).filter(([, { value }]) => value);
    this.forwarding.turnOn(
      on.map(([name]) => name),
      unknownDestinations,
    );
  }

  /** The last entries, head and counts. Nothing is asked of the vault any more. */
  async stop(): Promise<void> {
    await this.#guarded.trail.stop();
    this.#lockouts.stop();
    this.#suspicions.stop();
    await this.#commands.stop();
    await this.upward.stop();
    await this.forwarding.stop();
  }
}

export function lockoutsFileOf({ configuration, locate }: LoadedConfiguration): string {
  return `${locate(configuration.audit.log_file)}.lockouts.json`;
}
