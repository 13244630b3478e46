/**
 * What an agent does unasked: rotates what is due, replaces the master key in time, forgets old
 * idempotency keys. Of several agents one does what is to be done once, under a lease.
 */
import { randomInt } from 'node:crypto';
import type { Logger } from 'pino';
import { systemCaller } from './access/caller.ts';
import { durationMs, type LoadedConfiguration } from './configuration.ts';
import type { GuardedVault } from './guarded-vault.ts';
import { newRequestId } from './http/http-server.ts';
import type { LeaseTables } from './leases/lease-tables.ts';
import { Leases } from './leases/leases.ts';
import { RotationRunner } from './rotation/rotation-runner.ts';
import type { RotationSchema } from './rotation/rotation-tables.ts';
import type { Upward } from './upward/upward.ts';

export interface AgentDutiesOptions {
  loaded: LoadedConfiguration;
  guarded: GuardedVault;
  upward: Upward;
  /** Unique among the agents of the store and among the runs of one. */
  holder: string;
  log: Logger;
}

/** How often is looked whether the master key is due, and old rows are removed. */
const lookEveryMs = 3_600_000;
const leaseTtlMs = 60_000;

export class AgentDuties {
  readonly #options: AgentDutiesOptions;
  readonly #leases: Leases;
  readonly #runner: RotationRunner;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> = Promise.resolve();

  constructor(options: AgentDutiesOptions) {
    this.#options = options;
    const { guarded, holder, log, upward } = options;
    const { vault } = guarded;
    this.#leases = new Leases({ store: vault.store.as<LeaseTables>(), holder });
    this.#runner = new RotationRunner({
      store: vault.store.as<RotationSchema>(),
      secrets: vault.secrets,
      leases: this.#leases,
      door: guarded.door,
      allowed: () => guarded.rotators,
      report: upward.rotation,
      onError: (error) => log.warn({ err: error }, 'a rotation could not go on'),
      random: () => randomInt(2 ** 31) / 2 ** 31,
    });
    guarded.onRotationDue = () => this.#runner.poke();
  }

  start(): void {
    this.#runner.start();
    const look = () => {
      this.#looking = this.#look();
    };
    this.#timer = setInterval(look, lookEveryMs);
    this.#timer.unref();
    look();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all([this.#runner.stop(), this.#looking]);
  }

  async #look(): Promise<void> {
    const { guarded, log } = this.#options;
    try {
      await guarded.idempotency.sweep();
      await this.#replaceMasterKeyInTime();
    } catch (error) {
      log.warn({ err: error }, 'what is done each hour was not done');
    }
  }

  async #replaceMasterKeyInTime(): Promise<void> {
    const { guarded, loaded, log, upward } = this.#options;
    const { keys } = guarded.vault;
    const intervalMs = durationMs(loaded.configuration.encryption.rotation_interval);
    const isDue = () => Date.now() - keys.masterCreatedAtMs >= intervalMs;
    if (!isDue()) return;
    await this.#leases.hold('master-key', leaseTtlMs, async () => {
      await keys.refresh();
      if (!isDue()) return;
      const caller = systemCaller('master-key', newRequestId(), Date.now());
      const errand = {
        action: 'key.rotate' as const,
        operation: 'keys.rotate-master',
        resource: { other: 'master-key' },
        effect: 'write' as const,
      };
      const { masterVersion } = await guarded.door.perform(caller, errand, () =>
        keys.rotateMaster(),
      );
      log.info({ masterVersion }, 'the master key was replaced');
      upward.notice('MASTER_KEY_ROTATED');
    });
  }
}
