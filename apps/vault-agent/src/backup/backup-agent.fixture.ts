/** An agent as far as backups need it: a vault, its door, its leases, destinations. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BackupRun, RestoreOrder } from '@keystead/contracts/agent-api/backup';
import { restoreBackup } from '@keystead/contracts/agent-api/backup';
import { openFileKey } from '@keystead/envelope/providers/file';
import type { StreamRecipient } from '@keystead/envelope/sealed-stream';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import { accessMigrations } from '../access/access-tables.ts';
import type { Caller } from '../access/caller.ts';
import type { Errand } from '../access/door.ts';
import { clockMigrations } from '../clock/clock-tables.ts';
import type { TrustedClock } from '../clock/trusted-clock.ts';
import { leaseMigrations } from '../leases/lease-tables.ts';
import { Leases } from '../leases/leases.ts';
import { restartRotations } from '../rotation/rotation-restart.ts';
import { type RotationSchema, rotationMigrations } from '../rotation/rotation-tables.ts';
import { plainNamespace, plainSecret, type TestPlace, testCaller } from '../store/vault.fixture.ts';
import { Vault } from '../store/vault.ts';
import type { BackupReport } from '../upward/upward.ts';
import { BackupJournal } from './backup-journal.ts';
import type { RestoreStep } from './backup-restore.ts';
import { BackupRunner, type BackupSettings, type BackupStep } from './backup-runner.ts';
import { type BackupSchema, backupMigrations } from './backup-tables.ts';
import { Backups } from './backups.ts';
import type { BackupDestination } from './destination.ts';
import { DirectoryDestination } from './directory-destination.ts';

export interface TestAgentOptions {
  destinations?: BackupDestination[];
  settings?: Partial<BackupSettings>;
  recipients?: StreamRecipient[];
  now?: () => number;
  clock?: Pick<TrustedClock, 'nowMs' | 'doubt'>;
  authors?: string[];
  holder?: string;
  onStep?: (step: BackupStep | RestoreStep) => void | Promise<void>;
}

export const caller = testCaller();

export async function openBackupAgent(
  place: TestPlace,
  folder: string,
  options: TestAgentOptions = {},
) {
  mkdirSync(folder, { recursive: true });
  const now = options.now ?? Date.now;
  const provider = await openFileKey({ path: place.keyFile, create: true });
  const vault = await Vault.open({
    sql: place.sql,
    provider,
    migrations: [
      ...clockMigrations,
      ...accessMigrations,
      ...leaseMigrations,
      ...rotationMigrations,
      ...backupMigrations,
    ],
    folder: join(folder, 'imports'),
    now,
  });
  vault.transfer.onReplaced = (queries, secretIds) =>
    restartRotations(
      queries as unknown as Queries<RotationSchema>,
      vault.store.kind,
      now(),
      secretIds,
    );
  const store = vault.store.as<BackupSchema>();
  const journal = new BackupJournal(store, now);
  const leases = new Leases({
    store: vault.store.as(),
    holder: options.holder ?? `agent-${process.pid}`,
  });
  const destinations = options.destinations ?? [
    new DirectoryDestination(join(folder, 'destination')),
  ];
  const reports: BackupReport[] = [];
  const errors: unknown[] = [];
  const audited: string[] = [];
  const door = {
    perform: async <T>(who: Caller, errand: Errand, work: (decision: never) => Promise<T> | T) => {
      audited.push(`${who.identity.id} ${errand.action} ${errand.resource.other}`);
      for (const { action } of errand.also ?? []) audited.push(`${who.identity.id} ${action}`);
      return work(undefined as never);
    },
  };
  const files = { configuration: join(folder, 'vault.yaml'), auditLog: join(folder, 'audit.log') };
  writeFileSync(files.configuration, 'server: {}\n');
  writeFileSync(files.auditLog, '{"sequence":1}\n{"sequence":2}\n{"torn');
  const spool = join(folder, 'spool');
  const steps = options.onStep === undefined ? {} : { onStep: options.onStep };
  const runner = new BackupRunner({
    vault,
    provider,
    journal,
    leases,
    door,
    destinations,
    settings: {
      schedule: undefined,
      contents: ['secrets', 'access', 'audit', 'configuration'],
      retention: {},
      recipients: () => options.recipients ?? [],
      ...options.settings,
    },
    files,
    folder: spool,
    agentVersion: '0.0.0-test',
    ...(options.clock === undefined ? {} : { clock: options.clock }),
    report: (report) => reports.push(report),
    onError: (error) => errors.push(error),
    now,
    random: () => 0.5,
    leaseTtlMs: 1_000,
    ...steps,
  });
  const forced: Caller[] = [];
  const backups = new Backups({
    vault,
    provider,
    journal,
    runner,
    leases,
    door,
    destinations,
    folder: spool,
    report: (report) => reports.push(report),
    onForced: (who) => forced.push(who),
    authors: options.authors ?? [],
    onError: (error) => errors.push(error),
    now,
    leaseTtlMs: 1_000,
    ...steps,
  });
  await backups.start();
  return {
    vault,
    provider,
    journal,
    leases,
    runner,
    backups,
    destinations,
    reports,
    errors,
    audited,
    forced,
    spool,
    folder,
    close: async () => {
      await runner.stop();
      await backups.stop();
      await vault.close();
      await provider.close();
    },
  };
}

export type TestAgent = Awaited<ReturnType<typeof openBackupAgent>>;

export async function put(agent: TestAgent, namespace: string, name: string, value: string) {
  const { namespaces, secrets } = agent.vault;
  await namespaces.create(caller, { ...plainNamespace, name: namespace }).catch(() => undefined);
  await secrets
    .create(caller, namespace, { ...plainSecret, name, value, tags: ['tag'] })
    .catch(() => secrets.update(caller, namespace, name, { value }));
}

export async function value(agent: TestAgent, namespace: string, name: string): Promise<string> {
  try {
    return (await agent.vault.secrets.readValue(caller, namespace, name)).value;
  } catch (error) {
    return (error as { code: string }).code;
  }
}

/** Makes one and answers its id. */
export async function makeBackup(agent: TestAgent): Promise<string> {
  const asked = await agent.backups.request(caller, {});
  await agent.runner.runWaiting();
  const run = await agent.backups.run(asked.id);
  if (run.state !== 'succeeded') throw new Error(JSON.stringify(run.problem));
  return run.backupId as string;
}

export function restoreFrom(
  agent: TestAgent,
  id: string,
  order: Partial<RestoreOrder> = {},
): Promise<BackupRun> {
  const parsed = restoreBackup.body.parse({ waitSeconds: 15, ...order });
  return agent.backups.restore(caller, id, parsed);
}
