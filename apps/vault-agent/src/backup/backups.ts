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
import { setTimeout as pause } from 'node:timers/promises';
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
import { migrateVault, type VaultSchema } from '@keystead/vault-store/schema';
import { accessMigrations } from '../access/access-tables.ts';
import type { Caller } from '../access/caller.ts';
import type { AlsoNeeded, Door } from '../access/door.ts';
import { leaseMigrations } from '../leases/lease-tables.ts';
import { decodeRows } from '../namespaces/archive-rows.ts';
import { identityText } from '../namespaces/namespace-change.ts';
import { rotationMigrations } from '../rotation/rotation-tables.ts';
import { storeLimits } from '../store/store-limits.ts';
import { Vault } from '../store/vault.ts';
import type { BackupReport } from '../upward/upward.ts';
import { readAccess } from './backup-access.ts';
import { type BackupHeader, BackupReader, type BackupSummary } from './backup-archive.ts';
import { authorOf, BackupAuthor } from './backup-author.ts';
import {
  type BackupJournal,
  problemOf,
  type RunResult,
  type RunRow,
  shownRun,
  thisRun,
} from './backup-journal.ts';
import { backupLimits as limits } from './backup-limits.ts';
import { type BackupManifest, backupOf } from './backup-manifest.ts';
import { readRecords } from './backup-records.ts';
import { type RestoreStep, restore } from './backup-restore.ts';
import { readRotations } from './backup-rotations.ts';
import { type BackupRunner, backupKeyContext, destinationKind } from './backup-runner.ts';
import { BackupSections } from './backup-sections.ts';
import { type BackupDestination, DestinationError } from './destination.ts';
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
  /** Whose backups are taken besides this vault's own: `keystead-author-…`. */
  authors?: readonly string[];
  /** Something newer than a backup was overwritten by it, or something of an unknown author was taken. */
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

type KnownAuthor = NonNullable<RunResult['author']>;

type Work = (
  reader: BackupReader,
  identities: readonly StreamIdentity[],
  signal: AbortSignal,
  author: KnownAuthor,
) => Promise<Omit<RunResult, 'bytes' | 'durationMs' | 'author'>>;

/** Whoever restores roles and keys says who may do what. */
export function neededToRestore(contents: readonly string[]): AlsoNeeded[] {
  return contents.includes('access') ? [{ action: 'access.manage', resource: {} }] : [];
}

/** What a drill can put back; files are read and no more. */
const drilled: ReadonlySet<BackupContent> = new Set(['secrets', 'records', 'access']);
const scratchMigrations = [...accessMigrations, ...leaseMigrations, ...rotationMigrations];
const restoreLease = 'backup-restore';

export class Backups {
  readonly #options: BackupsOptions;
  readonly #stored: StoredBackups;
  readonly #stopping = new AbortController();
  /** Of this agent, by run. */
  readonly #underWay = new Map<string, Promise<void>>();
  #begun = 0;
  #abandoned: NodeJS.Timeout | undefined;

  constructor(options: BackupsOptions) {
    this.#options = options;
    this.#stored = new StoredBackups(options.destinations, options.folder);
  }

  /** Ends and removes what an agent that is gone left. A command beside a running agent does not. */
  async start(): Promise<void> {
    await mkdir(this.#options.folder, { recursive: true, mode: 0o700 });
    await this.#stored.removeLeftOvers();
    const { journal, now } = this.#options;
    const endAbandoned = () => journal.endAbandoned(now() - 2 * limits.transferTimeoutMs);
    await endAbandoned();
    clearInterval(this.#abandoned);
    this.#abandoned = setInterval(
      () => void endAbandoned().catch((error) => this.#options.onError?.(error)),
      limits.abandonedEveryMs,
    );
    this.#abandoned.unref();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    clearInterval(this.#abandoned);
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
      // Named, because whoever makes it may have read another vault.yaml: it fails there, and is not put elsewhere.
      asked: {
        ...asked,
        destinations: asked.destinations ?? destinations.map(({ label }) => label),
      },
    });
    runner.poke();
    return this.#waitFor(row.id, waitSeconds);
  }

  async list(query: {
    limit: number;
    cursor?: string | undefined;
  }): Promise<{ items: Backup[]; nextCursor: string | null }> {
    const { limit, cursor } = query;
    const found = await this.#stored.page({ limit, before: cursor }, this.#deadline()).catch(away);
    const items = found.items.map(shownBackup);
    return { items, nextCursor: found.isMore ? (items.at(-1)?.id ?? null) : null };
  }

  /** @throws ServiceError `not_found` */
  async get(id: string): Promise<Backup> {
    return shownBackup(await this.#stored.find(id, this.#deadline()).catch(away));
  }

  /** @throws ServiceError `not_found` */
  async delete(id: string): Promise<void> {
    const signal = this.#deadline();
    const found = await this.#stored.find(id, signal).catch(away);
    await this.#stored.remove(found, signal).catch(away);
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
    return this.#begin(caller, 'verify', id, choice, async (reader, identities, signal) => {
      const counts = { namespaces: 0, secrets: 0, versions: 0, rotations: 0, records: 0 };
      for await (const { name, content } of reader.checkedSections(identities)) {
        signal.throwIfAborted();
        if (name === 'secrets') {
          for await (const { kind } of decodeRows(content)) counts[`${kind}s`] += 1;
        }
        if (name === 'rotations') {
          for await (const _ of readRotations(content)) counts.rotations += 1;
        }
        if (name === 'records') for await (const _ of readRecords(content)) counts.records += 1;
        if (name === 'access') await readAccess(content);
      }
      const { summary } = reader;
      const names = ['namespaces', 'secrets', 'versions', 'rotations', 'records'] as const;
      for (const name of names) {
        const said = summary[name];
        if (said === undefined || said === counts[name]) continue;
        throw new Corrupt('content', `the backup holds ${counts[name]} ${name} and says ${said}`);
      }
      return { ...counts, ...rootOf(summary.contentRoot) };
    });
  }

  /**
   * All or nothing. @throws ServiceError `not_found`; what else is wrong is in the run
   */
  restore(caller: Caller, id: string, order: RestoreOrder): Promise<BackupRun> {
    const { vault, leases, folder, now, onForced, onStep } = this.#options;
    const ttlMs = this.#options.leaseTtlMs ?? limits.leaseTtlMs;
    return this.#begin(
      caller,
      'restore',
      id,
      order,
      async (reader, identities, _signal, author) => {
        const isUnknown = author.knownBy === null;
        if (isUnknown && !order.acceptUnknownAuthor) throw unknownAuthor(author);
        const held = await leases.hold(restoreLease, ttlMs, () =>
          restore({
            vault,
            reader,
            identities,
            isAuthorKnown: !isUnknown,
            caller,
            choices: order,
            folder,
            now,
            ...(onStep === undefined ? {} : { onStep }),
          }),
        );
        if (held === undefined) {
          throw new ServiceError('conflict', { detail: 'Another restore is under way' });
        }
        const { counts, summary, files, records, rotations, removedNamespaces, wasForced } =
          held.result;
        if (wasForced || (isUnknown && !order.dryRun)) onForced?.(caller);
        return {
          namespaces: counts.namespaces,
          secrets: counts.created + counts.replaced,
          versions: counts.versions,
          created: counts.created,
          replaced: counts.replaced,
          skipped: counts.skipped,
          removedNamespaces,
          records,
          rotations,
          dryRun: order.dryRun,
          files,
          ...rootOf(summary.contentRoot),
        };
      },
    );
  }

  /** Restores into a vault that is made for it and dropped again. @throws ServiceError `not_found` */
  drill(caller: Caller, id: string, choice: Choice): Promise<BackupRun> {
    return this.#begin(caller, 'drill', id, choice, async (reader, identities, signal) => {
      const { folder, now } = this.#options;
      const contents = reader.header.contents.filter((name) => drilled.has(name));
      if (contents.length === 0) {
        throw new ServiceError('unprocessable', {
          detail: 'The backup holds nothing of the store',
        });
      }
      const scratch = workPath(folder, 'drill');
      await mkdir(scratch, { mode: 0o700 });
      using key = generateKey();
      const provider = openEnvironmentKey({ name: 'drill', value: key.bytes.toString('hex') });
      let vault: Vault | undefined;
      try {
        vault = await Vault.open({
          sql: { kind: 'sqlite', file: join(scratch, 'vault.db') },
          provider,
          migrations: scratchMigrations,
        });
        await migrateVault(vault.store.as<VaultSchema>(), now());
        const { summary, rotations, records } = await restore({
          vault,
          reader,
          identities,
          // Nothing of it outlives the drill, and nothing rotates in it.
          isAuthorKnown: true,
          caller,
          choices: { contents, mode: 'full', existing: 'fail', force: false, dryRun: false },
          folder: scratch,
          now,
        });
        signal.throwIfAborted();
        const found = await contentRootOf(vault, contents, summary.rooted);
        if (found.contentRoot !== summary.contentRoot) {
          throw new Corrupt('content', 'what was restored is not what was backed up');
        }
        return {
          namespaces: found.namespaces,
          secrets: found.secrets,
          versions: found.versions,
          rotations,
          records,
          ...rootOf(summary.contentRoot),
          ...(found.contentRoot === null ? {} : { foundRoot: found.contentRoot }),
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
    choice: Choice & Partial<RestoreOrder>,
    work: Work,
  ): Promise<BackupRun> {
    const { journal, onError } = this.#options;
    if (choice.destination !== undefined) this.#requireLabel(choice.destination);
    const stored = await this.#stored.find(id, this.#deadline()).catch(away);
    const chosen = this.#from(stored, choice.destination);
    if (this.#begun >= limits.runsAtOnce) {
      throw new ServiceError('rate_limited', {
        detail: `${limits.runsAtOnce} restores, drills and verifications are under way`,
        retryAfterSeconds: 10,
      });
    }
    this.#begun += 1;
    const added = journal.add({
      kind,
      state: 'running',
      requestedBy: identityText(caller.identity),
      asked: { by: thisRun },
      backupId: id,
    });
    const row = await added.catch((error: unknown) => {
      this.#begun -= 1;
      throw error;
    });
    const going = this.#carryOut(caller, row, chosen, choice, work).catch((error) =>
      onError?.(error),
    );
    this.#underWay.set(row.id, going);
    void going.finally(() => {
      this.#begun -= 1;
      this.#underWay.delete(row.id);
    });
    return this.#waitFor(row.id, choice.waitSeconds, going);
  }

  async #carryOut(
    caller: Caller,
    row: RunRow,
    stored: StoredBackup,
    choice: Choice & Partial<RestoreOrder>,
    work: Work,
  ): Promise<void> {
    const { door, now, report, onError } = this.#options;
    const { openedBy, contents = [], mode, force, acceptUnknownAuthor } = choice;
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
      ...(mode === undefined
        ? {}
        : {
            context: {
              mode,
              contents: contents.join(','),
              force: force === true,
              acceptUnknownAuthor: acceptUnknownAuthor === true,
            },
          }),
      // Policies were asked where the request came in.
      also: neededToRestore(contents).map((needed) => ({ ...needed, by: 'roles' as const })),
    };
    const told = {
      kind,
      destination: destinationKind(stored.destinations[0]?.label),
      attempt: 1,
      bytes,
    };
    let result: Awaited<ReturnType<Work>> & { author: KnownAuthor };
    try {
      result = await door.perform(caller, errand, () =>
        this.#stored.withFile(stored, signal, async (file) => {
          const reader = await BackupReader.open(file);
          const { header } = reader;
          if (header.id !== stored.manifest.id) {
            throw new Corrupt('header', 'the backup is another than its manifest says');
          }
          const identities = await this.#identities(header, openedBy);
          const author = this.#authorOf(stored.manifest, header, openedBy);
          return { ...(await work(reader, identities, signal, author)), author };
        }),
      );
    } catch (error) {
      onError?.(error);
      const { code, text } = problemOf(error);
      report({ ...told, outcome: 'gave-up', secrets: 0, durationMs: now() - startedAtMs });
      await this.#noted(row.id, {
        state: 'failed',
        ended_at_ms: now(),
        problem_code: code,
        problem_text: text,
      });
      return;
    }
    const durationMs = now() - startedAtMs;
    report({ ...told, outcome: 'succeeded', secrets: result.secrets, durationMs });
    await this.#noted(row.id, {
      state: 'succeeded',
      ended_at_ms: now(),
      result: { bytes, ...result, durationMs },
    });
  }

  /** What is done is done, also where the store cannot be told of it at that moment. */
  async #noted(id: string, values: Parameters<BackupJournal['change']>[1]): Promise<void> {
    const { journal, onError } = this.#options;
    const { signal } = this.#stopping;
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await journal.change(id, values);
      } catch (error) {
        if (attempt >= limits.noteAttempts || signal.aborted) throw error;
        onError?.(error);
        await pause(limits.notePauseMs * attempt, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  /**
   * Whose signature the manifest has, and why it is believed: the file was compared with the manifest
   * before. Backups of before have none; where the key provider opens one, it was sealed by it.
   * @throws Corrupt where it is not what was signed
   */
  #authorOf(manifest: BackupManifest, header: BackupHeader, openedBy: OpenedBy): KnownAuthor {
    const key = authorOf(manifest) ?? null;
    if (manifest.author !== undefined && key === null) {
      throw new Corrupt('header', 'the manifest of the backup is not what its author signed');
    }
    const isOpenedByProvider = openedBy === undefined;
    if (key !== null && key === this.authorKey) return { key, knownBy: 'vault' };
    if (key !== null && this.#options.authors?.includes(key)) {
      return { key, knownBy: 'configuration' };
    }
    if (isOpenedByProvider && (header.author ?? null) === key) {
      return { key, knownBy: 'key-provider' };
    }
    return { key, knownBy: null };
  }

  /** Signs the backups of this vault. */
  get authorKey(): string {
    return BackupAuthor.of(this.#options.vault.keys).publicKey;
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
      backupKeyContext(header.vaultId, header.id, header.author),
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

function unknownAuthor({ key }: KnownAuthor): ServiceError {
  const who = key === null ? 'says not who made it' : `was made by ${key}, who is not known here`;
  return new ServiceError('unprocessable', {
    detail: `The backup ${who}: whoever knows a recipient could have made it up. Name its author under backup.authors, or accept an unknown one`,
  });
}

/** What a destination that does not answer is to whoever asked. */
function away(error: unknown): never {
  if (!(error instanceof DestinationError)) throw error;
  throw new ServiceError('unavailable', {
    detail: `No destination of backups answers: ${error.reason}`,
    internal: error.message,
    cause: error,
    ...(error.isRetryable ? { retryAfterSeconds: 30 } : {}),
  });
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

/** What a backup would say now. */
export async function contentRootOf(
  vault: Vault,
  contents: readonly BackupContent[] = ['secrets'],
  rooted?: BackupSummary['rooted'],
): Promise<BackupSummary> {
  return vault.store.snapshot(async (queries) => {
    const parts = new BackupSections(
      queries as unknown as ConstructorParameters<typeof BackupSections>[0],
      vault.keys,
      {},
      contents,
    );
    for await (const { content } of parts.sections()) for await (const _ of content);
    return { ...parts.summary, contentRoot: parts.root.of(rooted) };
  });
}
