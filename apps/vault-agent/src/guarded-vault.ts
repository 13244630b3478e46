/**
 * A vault with its door: store, keys, audit, and who may do what. What a running agent serves over HTTP
 * and what its commands do on the spot is this, so that neither comes past the door or the audit.
 */
import { newUuid } from '@keystead/contracts/ids';
import { type KeyProvider, KeyProviderError } from '@keystead/envelope/key-provider';
import type { KeyProviderConfiguration } from '@keystead/envelope/key-provider-configuration';
import { openKeyProvider } from '@keystead/envelope/open-key-provider';
import { FileKeyProvider } from '@keystead/envelope/providers/file';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import type { Logger } from 'pino';
import { accessHandlers } from './access/access.http.ts';
import { AccessBook } from './access/access-book.ts';
import { type AccessTables, accessMigrations } from './access/access-tables.ts';
import { ApiKeys } from './access/api-keys.ts';
import { Door } from './access/door.ts';
import { Roles } from './access/roles.ts';
import { auditHandlers } from './audit/audit.http.ts';
import { AuditReader } from './audit/audit-reader.ts';
import { AuditTrail } from './audit/audit-trail.ts';
import { AgentBackups } from './backup/agent-backups.ts';
import { backupMigrations } from './backup/backup-tables.ts';
import { backupHandlers } from './backup/backups.http.ts';
import { type ClockTables, clockMigrations } from './clock/clock-tables.ts';
import { doubtText, TrustedClock } from './clock/trusted-clock.ts';
import { durationMs, type LoadedConfiguration, sizeBytes } from './configuration.ts';
import type { AgentHandler } from './http/handler.ts';
import { Idempotency } from './http/idempotency.ts';
import { type IdempotencyTables, idempotencyMigrations } from './http/idempotency-tables.ts';
import { keyProviderOf, type ReadVariable, sqlOptionsOf } from './key-management.ts';
import { keyHandlers } from './keys/keys.http.ts';
import { leaseMigrations } from './leases/lease-tables.ts';
import { namespaceHandlers } from './namespaces/namespaces.http.ts';
import { policyMigrations } from './policies/policy-tables.ts';
import { VaultPolicies } from './policies/vault-policies.ts';
import { rotationHandlers } from './rotation/rotation.http.ts';
import { restartRotations } from './rotation/rotation-restart.ts';
import { type RotationSchema, rotationMigrations } from './rotation/rotation-tables.ts';
import { Rotations } from './rotation/rotations.ts';
import type { RotatorPermissions } from './rotation/rotators/rotators.ts';
import { secretHandlers } from './secrets/secrets.http.ts';
import type { Migration } from './store/migrations.ts';
import { Vault } from './store/vault.ts';
import { rekeyRunMigrations } from './tokens/rekey-run-tables.ts';
import { TokenVault } from './tokens/token-vault.ts';
import { tokenHandlers } from './tokens/tokens.http.ts';

/** Steps of every domain that keeps something in the store. */
const migrations: readonly Migration[] = [
  ...accessMigrations,
  ...idempotencyMigrations,
  ...leaseMigrations,
  ...rotationMigrations,
  ...policyMigrations,
  ...backupMigrations,
  ...clockMigrations,
  ...rekeyRunMigrations,
];

export interface GuardedVaultOptions {
  loaded: LoadedConfiguration;
  readVariable: ReadVariable;
  log: Logger;
  /** Another log for the audit than the configured one: of commands beside a running agent. */
  auditFile?: string;
  /** A command that does nothing with backups needs none of what they need. */
  backups?: 'agent' | 'command' | 'none';
  /** Another one than vault.yaml names. */
  keyProvider?: KeyProviderConfiguration;
  /** Of that log, where it is begun: 16 bytes. */
  auditChain?: Buffer | undefined;
}

export class GuardedVault {
  readonly vault: Vault;
  /** What is done because it is time, and what cannot be undone, goes by it. */
  readonly clock: TrustedClock;
  readonly trail: AuditTrail;
  readonly audit: AuditReader;
  readonly book: AccessBook;
  readonly door: Door;
  readonly apiKeys: ApiKeys;
  readonly roles: Roles;
  readonly idempotency: Idempotency;
  readonly rotations: Rotations;
  readonly policies: VaultPolicies;
  readonly tokens: TokenVault;
  /** What vault.yaml lets rotations start. */
  rotators: RotatorPermissions;
  /** Somebody asked for a rotation: wakes whoever carries them out. */
  onRotationDue: () => void = () => undefined;
  readonly #provider: KeyProvider;
  #backup: AgentBackups | undefined;

  private constructor(
    parts: {
      vault: Vault;
      clock: TrustedClock;
      tokens: TokenVault;
      trail: AuditTrail;
      provider: KeyProvider;
    },
    { loaded, log }: GuardedVaultOptions,
  ) {
    const { vault, clock, tokens, trail, provider } = parts;
    this.vault = vault;
    this.clock = clock;
    this.tokens = tokens;
    this.trail = trail;
    this.rotators = rotatorsOf(loaded);
    this.audit = new AuditReader(trail);
    this.#provider = provider;
    const now = Date.now;
    const store = vault.store.as<AccessTables>();
    this.book = new AccessBook({
      store,
      now,
      onStoreReachable: (isReachable, error) => {
        if (isReachable) log.info('the store answers again');
        else log.warn({ err: error }, 'the store does not answer: what was verified holds a while');
      },
    });
    this.door = new Door(this.book, trail);
    this.apiKeys = new ApiKeys(store, this.book, now);
    this.roles = new Roles(store, this.book, now);
    this.idempotency = new Idempotency(
      vault.store.as<IdempotencyTables>(),
      vault.keys.derive('idempotency'),
      now,
    );
    this.policies = new VaultPolicies({ vault, door: this.door, trail, log });
    vault.transfer.onReplaced = (queries, secretIds) =>
      restartRotations(
        queries as unknown as Queries<RotationSchema>,
        store.kind,
        clock.nowMs(),
        secretIds,
      );
    this.rotations = new Rotations({
      store: vault.store,
      directory: vault.directory,
      allowed: () => this.rotators,
      poke: () => this.onRotationDue(),
      now: clock.nowMs,
    });
  }

  /** @throws with one line that says what is wrong: keys, store or audit */
  static async open(options: GuardedVaultOptions): Promise<GuardedVault> {
    const { log, readVariable } = options;
    const { configuration, locate } = options.loaded;
    const { audit, encryption, storage } = configuration;
    const provider = await openKeyProvider(
      options.keyProvider ?? keyProviderOf(encryption, locate),
      readVariable,
    );
    let vault: Vault | undefined;
    let trail: AuditTrail | undefined;
    try {
      vault = await Vault.open({
        sql: sqlOptionsOf(storage, locate, readVariable),
        provider,
        migrations,
        cache: {
          maxEntries: storage.cache.max_entries,
          maxBytes: sizeBytes(storage.cache.max_size),
          plaintextTtlMs: durationMs(storage.cache.plaintext_ttl),
        },
        answerFromCacheMs: durationMs(storage.cache.answer_while_away),
        onError: (error) => log.warn({ err: error }, 'work in the background failed'),
      });
      const logFile = options.auditFile ?? locate(audit.log_file);
      trail = await AuditTrail.open({
        logFile,
        keyFile: `${logFile}.key`,
        chainId: options.auditChain,
        rotationBytes: sizeBytes(audit.rotation_size),
        retentionDays: audit.retention_days,
        log,
      });
      const clock = await TrustedClock.open({
        store: vault.store.as<ClockTables>(),
        writer: newUuid(),
        onDoubt: (doubt) => {
          if (doubt === undefined) log.info('the clock of this machine is believed again');
          else log.error(doubt, `${doubtText(doubt)}: what cannot be undone waits`);
        },
        onError: (error) => log.warn({ err: error }, 'the time was not noted in the store'),
      });
      const tokens = await TokenVault.open(
        vault.store,
        (error) => log.warn({ err: error }, 'a rekey stopped before its end'),
        { clock },
      );
      const guarded = new GuardedVault({ vault, clock, tokens, trail, provider }, options);
      await guarded.book.open();
      const { door } = guarded;
      const { backups = 'agent' } = options;
      if (backups !== 'none') {
        guarded.#backup = await AgentBackups.open({
          ...options,
          vault,
          clock,
          provider,
          door,
          auditLog: logFile,
          isCommand: backups === 'command',
        });
      }
      return guarded;
    } catch (error) {
      await trail?.stop().catch(() => undefined);
      await vault?.close().catch(() => undefined);
      await provider.close().catch(() => undefined);
      throw keyFileIsMissing(provider, error) ?? error;
    }
  }

  get backup(): AgentBackups {
    if (this.#backup === undefined) throw new Error('the vault was opened without its backups');
    return this.#backup;
  }

  /** Everything that can be asked of it over HTTP. */
  handlers(): AgentHandler[] {
    const { book, apiKeys, roles } = this;
    const { keys, namespaces, secrets, transfer } = this.vault;
    return [
      ...namespaceHandlers(namespaces, transfer),
      ...secretHandlers(secrets),
      ...rotationHandlers(this.rotations),
      ...keyHandlers(keys),
      ...accessHandlers({ book, apiKeys, roles }),
      ...auditHandlers(this.audit),
      ...this.policies.handlers(),
      ...tokenHandlers(this.tokens),
      ...backupHandlers(this.backup.backups),
    ];
  }

  /** Nothing is lost by calling it twice, or after something failed. */
  async close(): Promise<void> {
    this.clock.stop();
    await this.#backup?.stop().catch(() => undefined);
    await this.book.close().catch(() => undefined);
    await this.trail.stop().catch(() => undefined);
    await this.tokens.close().catch(() => undefined);
    await this.vault.close().catch(() => undefined);
    await this.#provider.close().catch(() => undefined);
  }
}

export function rotatorsOf({ configuration, locate }: LoadedConfiguration): RotatorPermissions {
  const { scripts, rotators, http_hosts: httpHosts } = configuration.rotation;
  return {
    scripts: Object.fromEntries(
      Object.entries(scripts).map(([name, { argv, timeout, environment }]) => [
        name,
        {
          argv: [locate(argv[0] ?? ''), ...argv.slice(1)],
          timeoutMs: durationMs(timeout),
          environment,
        },
      ]),
    ),
    modules: Object.fromEntries(
      Object.entries(rotators).map(([name, { module, timeout }]) => [
        name,
        { path: locate(module), timeoutMs: durationMs(timeout) },
      ]),
    ),
    httpHosts,
  };
}

/**
 * A key file that was just made opens no store that has keys already: it was lost, or its disk is not there.
 * Nothing is left in its place.
 */
function keyFileIsMissing(provider: KeyProvider, error: unknown): KeyProviderError | undefined {
  if (!(provider instanceof FileKeyProvider) || !provider.isNew) return undefined;
  if (!(error instanceof KeyProviderError) || error.reason !== 'wrong_key') return undefined;
  provider.takeBack();
  return new KeyProviderError(
    'file',
    'key_not_found',
    `${provider.describe().location} is missing, and the store has keys already: ${error.message.replace(/, and this one is .*$/, '')}`,
    { cause: error },
  );
}
