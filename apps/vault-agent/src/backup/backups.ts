/**
 * What is done with backups: made on demand, listed, deleted, verified, restored, drilled. Each is a run
 * that is answered at once and goes on by itself; what came of it is read from the run.
 *
 * Making is left to whoever is the runner. The rest is done by the agent that is asked, because a folder
 * of backups may be its own; one restore at a time on a store.
 */
import { rmSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type {
  Backup,
  BackupContent,
  BackupRun,
  BackupRunKind,
  BackupRunState,
  RestoreOrder,
} from '@keystead/contracts/agent-api/backup';
import { ServiceError } from '@keystead/contracts/errors';
import type { KeyProvider, KeyProviderKind } from '@keystead/envelope/key-provider';
import { generateKey } from '@keystead/envelope/keys';
import { DerivedKeys } from '@keystead/envelope/password';
import { openEnvironmentKey } from '@keystead/envelope/providers/environment';
import { Corrupt } from '@keystead/envelope/sealed';
import { parseIdentity, type StreamIdentity } from '@keystead/envelope/sealed-stream';
import type { Caller } from '../access/caller.ts';
import type { Door } from '../access/door.ts';
import { identityText } from '../namespaces/namespace-change.ts';
import { storeLimits } from '../store/store-limits.ts';
import { Vault } from '../store/vault.ts';
import type { BackupReport } from '../upward/upward.ts';
import { type BackupHeader, BackupReader } from './backup-archive.ts';
import {
  type Asked,
  type BackupJournal,
  problemOf,
  type RunResult,
  type RunRow,
  shownRun,
} from './backup-journal.ts';
import { backupLimits as limits } from './backup-limits.ts';
import { backupOf } from './backup-manifest.ts';
import { type RestoreStep, restore, rowsOf } from './backup-restore.ts';
import { type BackupRunner, backupKeyContext, destinationKind } from './backup-runner.ts';
import { BackupSections } from './backup-sections.ts';
import type { BackupDestination } from './destination.ts';
import { type StoredBackup, StoredBackups, workPath } from './stored-backups.ts';

export interface BackupsOptions {
  vault: Vault;
  provider: KeyProvider;
  journal: BackupJournal;
  runner: BackupRunner;
  leases: { hold: BackupsLeases };
  door: Pick<Door, 'perform'>;
  destinations: readonly BackupDestination[];
  /** Where sealed files lie while they are read, and what is restored beside the agent's own files. */
  folder: string;
  report: (report: BackupReport) => void;
  /** Something newer than a backup was overwritten by it. */
  onForced?: (caller: Caller) => void;
  onError?: (error: unknown) => void;
  now: () => number;
  leaseTtlMs?: number;
  onStep?: (step: RestoreStep) => void | Promise<void>;
}

type BackupsLeases = <T>(
  name: string,
  ttlMs: number,
  work: (lease: { signal: AbortSignal }) => Promise<T>,
) => Promise<{ result: T } | undefined>;

/** What opens a backup, as a request says it. */
export type OpenedBy = { passphrase: string } | { identity: string } | undefined;

interface Choice {
  destination?: string | undefined;
  openedBy?: OpenedBy;
  waitSeconds: number;
}

const restoreLease = 'backup-restore';

export class Backups {
  readonly #options: BackupsOptions;
  readonly #stored: StoredBackups;
  readonly #stopping = new AbortController();
  /** Of this agent, by run. Bounded by what one may ask for at a time. */
  readonly #underWay = new Map<string, Promise<void>>();

  constructor(options: BackupsOptions) {
    this.#options = options;
    this.#stored = new StoredBackups(options.destinations, options.folder);
  }

  /** Ends what an agent that is gone left open. */
  async start(): Promise<void> {
    await mkdir(this.#options.folder, { recursive: true, mode: 0o700 });
    await this.#stored.removeLeftOvers();
    const isAlone = this.#options.vault.store.kind === 'sqlite';
    const nowMs = this.#options.now();
    await this.#options.journal.endAbandoned(
      isAlone ? nowMs : nowMs - 2 * limits.transferTimeoutMs,
    );
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.allSettled(this.#underWay.values());
    await Promise.allSettled(this.#options.destinations.map((each) => each.close()));
  }

  /** @throws ServiceError `unprocessable` where there is nowhere to put it */
  async request(
    caller: Caller,
    asked: { contents?: BackupContent[] | undefined; destinations?: string[] | undefined },
    waitSeconds = 0,
  ): Promise<BackupRun> {
    const { destinations, journal, runner } = this.#options;
    if (destinations.length === 0) {
      throw new ServiceError('unprocessable', { detail: 'No destination is configured' });
    }
    for (const label of asked.destinations ?? []) this.#requireLabel(label);
    const row = await journal.add({
      kind: 'backup',
      state: 'waiting',
      requestedBy: identityText(caller.identity),
      asked: asked as Asked,
    });
    runner.poke();
    return this.#waitFor(row.id, waitSeconds);
  }

  async list(query: {
    limit: number;
    cursor?: string | undefined;
  }): Promise<{ items: Backup[]; nextCursor: string | null }> {
    const all = await this.#stored.list(this.#deadline());
    const after = all.filter(
      ({ manifest }) => query.cursor === undefined || manifest.id < query.cursor,
    );
    const items = after.slice(0, query.limit).map(shownBackup);
    return {
      items,
      nextCursor: after.length > query.limit ? (items.at(-1)?.id ?? null) : null,
    };
  }

  /** @throws ServiceError `not_found` */
  async get(id: string): Promise<Backup> {
    return shownBackup(await this.#stored.find(id, this.#deadline()));
  }

  /** @throws ServiceError `not_found` */
  async delete(id: string): Promise<void> {
    const signal = this.#deadline();
    await this.#stored.remove(await this.#stored.find(id, signal), signal);
  }

  runs(query: {
    limit: number;
    cursor?: string | undefined;
    kind?: BackupRunKind | undefined;
    state?: BackupRunState | undefined;
  }) {
    return this.#options.journal.list(query);
  }

  /** @throws ServiceError `not_found` */
  async run(id: string): Promise<BackupRun> {
    const row = await this.#options.journal.find(id);
    if (row === undefined) throw new ServiceError('not_found', { detail: `There is no run ${id}` });
    return shownRun(row);
  }

  /** Reads it to its end. @throws ServiceError `not_found` */
  verify(caller: Caller, id: string, choice: Choice): Promise<BackupRun> {
    return this.#begin(caller, 'verify', id, choice, async (file, identities, signal) => {
      const reader = await BackupReader.open(file);
      const counts = { namespaces: 0, secrets: 0, versions: 0 };
      for await (const row of rowsOf(reader, identities, { mode: 'full' })) {
        signal.throwIfAborted();
        if (row.kind === 'namespace') counts.namespaces += 1;
        if (row.kind === 'secret') counts.secrets += 1;
        if (row.kind === 'version') counts.versions += 1;
      }
      const { summary } = reader;
      if (
        counts.namespaces !== summary.namespaces ||
        counts.secrets !== summary.secrets ||
        counts.versions !== summary.versions
      ) {
        throw new Corrupt('content', 'the backup holds another number of secrets than it says');
      }
      return { ...counts, ...rootOf(summary.contentRoot) };
    });
  }

  /**
   * All or nothing. @throws ServiceError `not_found`; what else is wrong is in the run
   */
  restore(caller: Caller, id: string, order: RestoreOrder): Promise<BackupRun> {
    const { vault, leases, folder, onForced, onStep } = this.#options;
    const ttlMs = this.#options.leaseTtlMs ?? limits.leaseTtlMs;
    return this.#begin(caller, 'restore', id, order, async (file, identities) => {
      const held = await leases.hold(restoreLease, ttlMs, () =>
        restore({
          vault,
          file,
          identities,
          caller,
          choices: order,
          folder,
          ...(onStep === undefined ? {} : { onStep }),
        }),
      );
      if (held === undefined) {
        throw new ServiceError('conflict', { detail: 'Another restore is under way' });
      }
      const { counts, summary, files, records, removedNamespaces, wasForced } = held.result;
      if (wasForced) onForced?.(caller);
      return {
        namespaces: counts.namespaces,
        secrets: counts.created + counts.replaced,
        versions: counts.versions,
        created: counts.created,
        replaced: counts.replaced,
        skipped: counts.skipped,
        removedNamespaces,
        records,
        dryRun: order.dryRun,
        files,
        ...rootOf(summary.contentRoot),
      };
    });
  }

  /** Restores into a vault that is made for it and dropped again. @throws ServiceError `not_found` */
  drill(caller: Caller, id: string, choice: Choice): Promise<BackupRun> {
    return this.#begin(caller, 'drill', id, choice, async (file, identities, signal) => {
      const { folder } = this.#options;
      const scratch = workPath(folder, 'drill');
      await mkdir(scratch, { mode: 0o700 });
      using key = generateKey();
      const provider = openEnvironmentKey({ name: 'drill', value: key.bytes.toString('hex') });
      let vault: Vault | undefined;
      try {
        vault = await Vault.open({
          sql: { kind: 'sqlite', file: join(scratch, 'vault.db') },
          provider,
        });
        const reader = await BackupReader.open(file);
        await vault.transfer.importRows(
          caller,
          () => rowsOf(reader, identities, { mode: 'full' }),
          {
            existing: 'fail',
            createNamespaces: true,
            dryRun: false,
          },
        );
        signal.throwIfAborted();
        const { summary } = reader;
        if (summary.contentRoot === null) {
          throw new ServiceError('unprocessable', { detail: 'The backup holds no secrets' });
        }
        const found = await contentRootOf(vault);
        if (found.contentRoot !== summary.contentRoot) {
          throw new Corrupt('content', 'what was restored is not what was backed up');
        }
        return {
          namespaces: found.namespaces,
          secrets: found.secrets,
          versions: found.versions,
          contentRoot: summary.contentRoot,
          foundRoot: found.contentRoot,
        };
      } finally {
        await vault?.close();
        await provider.close();
        rmSync(scratch, { recursive: true, force: true });
      }
    });
  }

  async #begin(
    caller: Caller,
    kind: 'verify' | 'restore' | 'drill',
    id: string,
    choice: Choice,
    work: (
      file: string,
      identities: readonly StreamIdentity[],
      signal: AbortSignal,
    ) => Promise<Omit<RunResult, 'bytes' | 'durationMs'>>,
  ): Promise<BackupRun> {
    const { journal, onError } = this.#options;
    if (choice.destination !== undefined) this.#requireLabel(choice.destination);
    const stored = await this.#stored.find(id, this.#deadline());
    const chosen = this.#from(stored, choice.destination);
    const row = await journal.add({
      kind,
      state: 'running',
      requestedBy: identityText(caller.identity),
      asked: {},
      backupId: id,
    });
    const going = this.#carryOut(caller, row, chosen, choice.openedBy, work).catch((error) =>
      onError?.(error),
    );
    this.#underWay.set(row.id, going);
    void going.finally(() => this.#underWay.delete(row.id));
    return this.#waitFor(row.id, choice.waitSeconds, going);
  }

  async #carryOut(
    caller: Caller,
    row: RunRow,
    stored: StoredBackup,
    openedBy: OpenedBy,
    work: (
      file: string,
      identities: readonly StreamIdentity[],
      signal: AbortSignal,
    ) => Promise<Omit<RunResult, 'bytes' | 'durationMs'>>,
  ): Promise<void> {
    const { journal, door, now, report, onError } = this.#options;
    const kind = row.kind as 'verify' | 'restore' | 'drill';
    const startedAtMs = now();
    const { bytes } = stored.manifest;
    const signal = AbortSignal.any([
      this.#stopping.signal,
      AbortSignal.timeout(limits.transferTimeoutMs + storeLimits.bulkTimeoutMs),
    ]);
    const errand = {
      action: `backup.${kind}` as const,
      operation: `backup.${kind}`,
      resource: { other: `backup:${stored.manifest.id}` },
      effect: 'write' as const,
    };
    const told = {
      kind,
      destination: destinationKind(stored.destinations[0]?.label),
      attempt: 1,
      bytes,
    };
    try {
      const result = await door.perform(caller, errand, () =>
        this.#stored.withFile(stored, signal, async (file) => {
          const { header } = await BackupReader.open(file);
          if (header.id !== stored.manifest.id) {
            throw new Corrupt('header', 'the backup is another than its manifest says');
          }
          return work(file, await this.#identities(header, openedBy), signal);
        }),
      );
      const durationMs = now() - startedAtMs;
      await journal.change(row.id, {
        state: 'succeeded',
        ended_at_ms: now(),
        result: { bytes, ...result, durationMs },
      });
      report({ ...told, outcome: 'succeeded', secrets: result.secrets, durationMs });
    } catch (error) {
      onError?.(error);
      const { code, text } = problemOf(error);
      await journal.change(row.id, {
        state: 'failed',
        ended_at_ms: now(),
        problem_code: code,
        problem_text: text,
      });
      report({ ...told, outcome: 'gave-up', secrets: 0, durationMs: now() - startedAtMs });
    }
  }

  /** @throws KeyProviderError where the provider does not open it and nothing else was given */
  async #identities(header: BackupHeader, openedBy: OpenedBy): Promise<StreamIdentity[]> {
    if (openedBy !== undefined) {
      if ('passphrase' in openedBy) {
        // Read twice, the second time inside a transaction, which waits for no Argon2id.
        const derived = new DerivedKeys();
        return [{ kind: 'passphrase', passphrase: openedBy.passphrase, derived }];
      }
      try {
        return [{ kind: 'x25519', privateKey: parseIdentity(openedBy.identity) }];
      } catch (error) {
        throw new ServiceError('invalid_request', { detail: (error as Error).message });
      }
    }
    if (header.wrappedKey === null) {
      throw new ServiceError('unprocessable', {
        detail: 'The backup opens with a passphrase or an identity alone',
      });
    }
    const { provider, keyId, version, bytes } = header.wrappedKey;
    const key = await this.#options.provider.unwrap(
      {
        provider: provider as KeyProviderKind,
        keyId,
        version,
        bytes: Buffer.from(bytes, 'base64'),
      },
      backupKeyContext(header.vaultId, header.id),
    );
    return [{ kind: 'key', key }];
  }

  #from(stored: StoredBackup, label: string | undefined): StoredBackup {
    if (label === undefined) return stored;
    const destinations = stored.destinations.filter((each) => each.label === label);
    if (destinations.length > 0) return { ...stored, destinations };
    throw new ServiceError('not_found', { detail: `${label} does not have the backup` });
  }

  #requireLabel(label: string): void {
    const labels = this.#options.destinations.map((each) => each.label);
    if (labels.includes(label)) return;
    throw new ServiceError('unprocessable', {
      detail: `${label} is no destination; configured are ${labels.join(', ') || 'none'}`,
    });
  }

  /** The run as it is when it has ended, or after so long. */
  async #waitFor(id: string, seconds: number, going?: Promise<void>): Promise<BackupRun> {
    const deadlineMs = performance.now() + seconds * 1_000;
    for (;;) {
      const run = await this.run(id);
      const leftMs = deadlineMs - performance.now();
      const hasEnded = run.state !== 'running' && run.state !== 'waiting';
      const isRetried = run.state === 'waiting' && run.attempt > 1;
      if (hasEnded || isRetried || leftMs <= 0) return run;
      await Promise.race([
        going ?? new Promise<void>((resolve) => setTimeout(resolve, 50)),
        new Promise<void>((resolve) => setTimeout(resolve, leftMs)),
      ]);
    }
  }

  #deadline(): AbortSignal {
    return AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(limits.idleTimeoutMs)]);
  }
}

function shownBackup({ manifest, destinations }: StoredBackup): Backup {
  return backupOf(
    manifest,
    destinations.map(({ label }) => label),
  );
}

function rootOf(contentRoot: string | null): { contentRoot?: string } {
  return contentRoot === null ? {} : { contentRoot };
}

/** What a backup of the secrets would say now. */
export async function contentRootOf(vault: Vault) {
  return vault.store.snapshot(async (queries) => {
    const parts = new BackupSections(
      queries as unknown as ConstructorParameters<typeof BackupSections>[0],
      vault.keys,
      {},
      ['secrets'],
    );
    for await (const { content } of parts.sections()) for await (const _ of content);
    return parts.summary;
  });
}
