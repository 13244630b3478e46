/** The backups of an agent, put together from what vault.yaml says. */
import { randomInt } from 'node:crypto';
import { newUuid } from '@keystead/contracts/ids';
import type { KeyProvider } from '@keystead/envelope/key-provider';
import { parseRecipient, type StreamRecipient } from '@keystead/envelope/sealed-stream';
import type { Logger } from 'pino';
import type { Caller } from '../access/caller.ts';
import type { Door } from '../access/door.ts';
import type { TrustedClock } from '../clock/trusted-clock.ts';
import {
  type Configuration,
  ConfigurationError,
  type LoadedConfiguration,
} from '../configuration.ts';
import { type ReadVariable, readSecret } from '../key-management.ts';
import type { LeaseTables } from '../leases/lease-tables.ts';
import { Leases } from '../leases/leases.ts';
import { readNamedFile } from '../named-file.ts';
import type { Vault } from '../store/vault.ts';
import type { BackupReport } from '../upward/upward.ts';
import { agentVersion } from '../version.ts';
import { BackupJournal } from './backup-journal.ts';
import { BackupRunner } from './backup-runner.ts';
import type { BackupSchema } from './backup-tables.ts';
import { Backups } from './backups.ts';
import type { BackupDestination } from './destination.ts';
import { DirectoryDestination } from './directory-destination.ts';
import { S3Destination } from './s3-destination.ts';
import { SftpDestination } from './sftp-destination.ts';

export interface AgentBackupsOptions {
  loaded: LoadedConfiguration;
  readVariable: ReadVariable;
  vault: Vault;
  clock: TrustedClock;
  provider: KeyProvider;
  door: Pick<Door, 'perform'>;
  auditLog: string;
  log: Logger;
  /** A command does what it is told beside an agent, whose runs are not its business. */
  isCommand: boolean;
}

export class AgentBackups {
  readonly backups: Backups;
  readonly runner: BackupRunner;
  /** Told of what came of each attempt. */
  onReport: (report: BackupReport) => void = () => undefined;
  /** Something newer than a backup was overwritten by it. */
  onForced: (caller: Caller) => void = () => undefined;
  #isStopped = false;

  private constructor(options: AgentBackupsOptions, destinations: readonly BackupDestination[]) {
    const { loaded, vault, clock, provider, door, auditLog, log, readVariable } = options;
    const { backup } = loaded.configuration;
    const now = Date.now;
    const journal = new BackupJournal(vault.store.as<BackupSchema>(), now);
    const leases = new Leases({ store: vault.store.as<LeaseTables>(), holder: newUuid() });
    const parts = {
      vault,
      provider,
      journal,
      leases,
      door,
      destinations,
      folder: loaded.locate('backup-work'),
      report: (report: BackupReport) => this.onReport(report),
      onError: (error: unknown) => log.warn({ err: error }, 'a backup could not go on'),
      now,
    };
    // Who lists or restores on another machine need not have what seals new ones.
    const recipients = options.isCommand
      ? () => recipientsOf(backup, loaded, readVariable)
      : always(recipientsOf(backup, loaded, readVariable));
    this.runner = new BackupRunner({
      ...parts,
      clock,
      settings: {
        schedule: backup.enabled ? backup.schedule : undefined,
        contents: backup.contents,
        retention: {
          keepLast: backup.retention.keep_last,
          keepDays: backup.retention.keep_days,
          keepDaily: backup.retention.keep_daily,
          keepWeekly: backup.retention.keep_weekly,
          keepMonthly: backup.retention.keep_monthly,
        },
        recipients,
      },
      files: { configuration: loaded.file, auditLog },
      agentVersion,
      random: () => randomInt(2 ** 31) / 2 ** 31,
    });
    this.backups = new Backups({
      ...parts,
      runner: this.runner,
      authors: backup.authors,
      onForced: (caller) => this.onForced(caller),
    });
  }

  /** @throws ConfigurationError where a file or a variable that is named is not there */
  static async open(options: AgentBackupsOptions): Promise<AgentBackups> {
    const { loaded, readVariable } = options;
    const destinations = loaded.configuration.backup.destinations.map((each) =>
      destinationOf(each, loaded, readVariable),
    );
    const labels = new Set(destinations.map(({ label }) => label));
    if (labels.size < destinations.length) {
      throw new ConfigurationError(['backup.destinations: two are the same place']);
    }
    const made = new AgentBackups(options, destinations);
    if (!options.isCommand) await made.backups.start();
    return made;
  }

  /** From here on the schedule is kept and requests are carried out. */
  start(): void {
    this.runner.start();
  }

  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    await this.runner.stop();
    await this.backups.stop();
  }
}

const always =
  <T>(value: T) =>
  () =>
    value;

type Backup = Configuration['backup'];

function destinationOf(
  destination: Backup['destinations'][number],
  { locate }: LoadedConfiguration,
  readVariable: ReadVariable,
): BackupDestination {
  switch (destination.type) {
    case 'local':
      return new DirectoryDestination(locate(destination.path));
    case 's3':
      return new S3Destination({
        bucket: destination.bucket,
        region: destination.region,
        prefix: destination.prefix,
        endpoint: destination.endpoint,
        pathStyle: destination.path_style,
      });
    case 'sftp':
      return new SftpDestination({
        host: destination.host,
        port: destination.port,
        username: destination.username,
        path: destination.path,
        hostKey: destination.host_key,
        privateKey:
          destination.private_key_file === undefined
            ? undefined
            : readKeyFile(locate(destination.private_key_file)),
        password: destination.password && readSecret(destination.password, locate, readVariable),
      });
  }
}

function readKeyFile(file: string): Buffer {
  try {
    return readNamedFile(file);
  } catch (error) {
    throw new ConfigurationError([`backup.destinations: ${(error as Error).message}`]);
  }
}

function recipientsOf(
  backup: Backup,
  { locate }: LoadedConfiguration,
  readVariable: ReadVariable,
): StreamRecipient[] {
  return [
    ...backup.recipients.map((text) => ({
      kind: 'x25519' as const,
      publicKey: parseRecipient(text),
    })),
    ...(backup.passphrase === undefined
      ? []
      : [
          {
            kind: 'passphrase' as const,
            passphrase: readSecret(backup.passphrase, locate, readVariable),
          },
        ]),
  ];
}
