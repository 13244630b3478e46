/**
 * What an agent does unasked: rotates what is due, keeps the schedule of backups, replaces the master key
 * in time, forgets old idempotency keys. Of several agents one does what is to be done once, under a lease.
 */
import { randomInt } from 'node:crypto';
import type { Logger } from 'pino';
import { systemCaller } from './access/caller.ts';
import { durationMs, type LoadedConfiguration } from './configuration.ts';
import type { GuardedVault } from './guarded-vault.ts';
import { newRequestId } from './http/http-server.ts';
import { type ReadVariable, readSecret } from './key-management.ts';
import type { LeaseTables } from './leases/lease-tables.ts';
import { Leases } from './leases/leases.ts';
import { RotationRunner } from './rotation/rotation-runner.ts';
import type { RotationSchema } from './rotation/rotation-tables.ts';
import { RotationWebhook } from './rotation/rotation-webhook.ts';
import type { Upward } from './upward/upward.ts';

export interface AgentDutiesOptions {
  loaded: LoadedConfiguration;
  readVariable: ReadVariable;
  guarded: GuardedVault;
  upward: Upward;
  /** Unique among the agents of the store and among the runs of one. */
  holder: string;
  log: Logger;
}

/** How often is looked whether the master key is due, and old rows are removed. */
const lookEveryMs = 3_600_000;
const leaseTtlMs = 60_000;
const tellDecisionsEveryMs = 60_000;

export class AgentDuties {
  readonly #options: AgentDutiesOptions;
  readonly #leases: Leases;
  readonly #runner: RotationRunner;
  readonly #webhook: RotationWebhook | undefined;
  #timer: NodeJS.Timeout | undefined;
  #countsTimer: NodeJS.Timeout | undefined;
  #countedFromMs = Date.now();
  #looking: Promise<void> = Promise.resolve();

  /** @throws ConfigurationError where a secret that is named is not there */
  constructor(options: AgentDutiesOptions) {
    this.#options = options;
    const { guarded, holder, loaded, log, upward } = options;
    const { vault } = guarded;
    this.#leases = new Leases({ store: vault.store.as<LeaseTables>(), holder });
    const { webhook } = loaded.configuration.rotation;
    this.#webhook =
      webhook &&
      new RotationWebhook({
        url: webhook.url,
        secret: webhook.secret && readSecret(webhook.secret, loaded.locate, options.readVariable),
        events: webhook.events,
        onError: (error) => log.warn({ err: error }, 'a webhook could not be delivered'),
      });
    this.#runner = new RotationRunner({
      store: vault.store.as<RotationSchema>(),
      secrets: vault.secrets,
      leases: this.#leases,
      door: guarded.door,
      allowed: () => guarded.rotators,
      report: (report) => {
        upward.rotation(report);
        this.#webhook?.report(report);
      },
      onError: (error) => log.warn({ err: error }, 'a rotation could not go on'),
      now: guarded.clock.nowMs,
      random: () => randomInt(2 ** 31) / 2 ** 31,
    });
    guarded.onRotationDue = () => this.#runner.poke();
    guarded.backup.onReport = upward.backup;
    guarded.backup.onForced = ({ identity }) => upward.notice('RESTORE_FORCED', { identity });
  }

  start(): void {
    this.#options.guarded.clock.start();
    this.#runner.start();
    this.#options.guarded.policies.start();
    this.#options.guarded.backup.start();
    this.#countsTimer = setInterval(() => this.#tellDecisions(), tellDecisionsEveryMs);
    this.#countsTimer.unref();
    const look = () => {
      this.#looking = this.#look();
    };
    this.#timer = setInterval(look, lookEveryMs);
    this.#timer.unref();
    look();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    clearInterval(this.#countsTimer);
    this.#tellDecisions(true);
    await Promise.all([
      this.#runner.stop(),
      this.#options.guarded.policies.stop(),
      this.#options.guarded.backup.stop(),
      this.#webhook?.stop(),
      this.#looking,
    ]);
  }

  /** What was decided under the policy set that is held, and what the one before would have said. */
  #tellDecisions(isLast = false): void {
    // While nobody receipts, an hour of them is one.
    const sinceMs = Date.now() - this.#countedFromMs;
    if (!isLast && this.#options.upward.isBehind && sinceMs < 3_600_000) return;
    const counts = this.#options.guarded.policies.decider.takeCounts();
    const periodStartUnixMs = this.#countedFromMs;
    this.#countedFromMs = Date.now();
    // A set that is damaged has no digest to be named by.
    if (counts === undefined || counts.digest === '') return;
    const { number, digest, ...numbers } = counts;
    this.#options.upward.tell({
      $case: 'policyDecisionCounts',
      value: {
        policySet: { version: number, digest },
        periodStartUnixMs,
        periodEndUnixMs: this.#countedFromMs,
        ...numbers,
      },
    });
  }

  async #look(): Promise<void> {
    const { guarded, log } = this.#options;
    try {
      await guarded.idempotency.sweep();
      await guarded.policies.approvals.sweep();
      await this.#sweepTokens();
      await this.#replaceMasterKeyInTime();
    } catch (error) {
      log.warn({ err: error }, 'what is done each hour was not done');
    }
  }

  async #sweepTokens(): Promise<void> {
    const { guarded, log } = this.#options;
    await this.#leases.hold('sweep-tokens', leaseTtlMs, async () => {
      const caller = systemCaller('sweep-tokens', newRequestId(), Date.now());
      const errand = {
        action: 'token.delete' as const,
        operation: 'tokens.sweep',
        resource: { other: 'tokens' },
        effect: 'write' as const,
      };
      const swept = await guarded.door.perform(caller, errand, () => guarded.tokens.sweepInTime());
      if (swept === undefined) log.warn('no expired token was swept: the clock is doubted');
      else if (swept > 0) log.info({ swept }, 'expired tokens were swept');
    });
  }

  async #replaceMasterKeyInTime(): Promise<void> {
    const { guarded, loaded, log } = this.#options;
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
    });
  }
}
