/**
 * Makes the backups that wait, one after the other. Of several agents on one store the holder of the lease
 * does it, and it alone decides that the schedule is due.
 *
 * An attempt makes a file on this machine's disk, sealed, from one state of the store; puts it and then its
 * manifest to every destination; and removes there what need not be kept. Each attempt has an id of its
 * own, so whoever was believed dead and was not overwrites nothing. What a killed one left is removed by
 * whoever comes next: a file without a manifest is no backup.
 */
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BackupContent } from '@keystead/contracts/agent-api/backup';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { KeyProvider } from '@keystead/envelope/key-provider';
import { generateKey } from '@keystead/envelope/keys';
import type { StreamRecipient } from '@keystead/envelope/sealed-stream';
import { systemCaller } from '../access/caller.ts';
import type { Door } from '../access/door.ts';
import type { TrustedClock } from '../clock/trusted-clock.ts';
import { type Lease, LeaseLost, type Leases } from '../leases/leases.ts';
import type { Vault } from '../store/vault.ts';
import type { BackupReport } from '../upward/upward.ts';
import { writeBackup } from './backup-archive.ts';
import { BackupAuthor } from './backup-author.ts';
import { type Asked, type BackupJournal, problemOf, type RunRow } from './backup-journal.ts';
import { backupLimits as limits } from './backup-limits.ts';
import {
  type BackupManifest,
  backupFileName,
  manifestFileName,
  manifestIdOf,
  parseManifest,
} from './backup-manifest.ts';
import {
  clockDifferenceMs,
  dueScheduled,
  expiredBackups,
  plausibleGapMs,
  type Retention,
  retryPauseMs,
} from './backup-schedule.ts';
import { type BackedUpFiles, BackupSections } from './backup-sections.ts';
import { type BackupDestination, DestinationError } from './destination.ts';
import { openSession } from './destination-session.ts';
import { inParallel } from './stored-backups.ts';

export interface BackupSettings {
  /** Cron, UTC; undefined where backups are made on demand alone. */
  schedule: string | undefined;
  contents: readonly BackupContent[];
  retention: Retention;
  /** Who opens backups besides the vault's own key provider. */
  recipients: () => readonly StreamRecipient[];
}

export interface BackupRunnerOptions {
  vault: Vault;
  provider: KeyProvider;
  journal: BackupJournal;
  leases: Leases;
  door: Pick<Door, 'perform'>;
  destinations: readonly BackupDestination[];
  settings: BackupSettings;
  files: BackedUpFiles;
  /** Where sealed files lie while they are on their way. */
  folder: string;
  agentVersion: string;
  report: (report: BackupReport) => void;
  /** Told of what went wrong in the background. */
  onError?: (error: unknown) => void;
  now: () => number;
  /** The schedule goes by it, and nothing is removed while it is doubted; by default `now` is believed. */
  clock?: Pick<TrustedClock, 'nowMs' | 'doubt'>;
  /** From 0 to 1, for jitter. */
  random: () => number;
  leaseTtlMs?: number;
  /** Called between the steps; tests end the process there. */
  onStep?: (step: BackupStep) => void | Promise<void>;
}

export const backupSteps = ['begun', 'made', 'put', 'told', 'pruned', 'ended'] as const;
export type BackupStep = (typeof backupSteps)[number];

const leaseName = 'backup';
const oneOfOurs = /^backup-bkp_[0-9a-z]{26}\.(?:ksbackup|json)(?:\.part)?$/;

/** A backup on this machine's disk, on its way. */
interface Made {
  manifest: BackupManifest;
  file: string;
  manifestFile: string;
}

/** It failed for some destinations; the others have it. */
class SomeFailed extends Error {
  readonly failures: Map<string, unknown>;
  constructor(failures: Map<string, unknown>) {
    super('not every destination has the backup');
    this.failures = failures;
  }
}

export class BackupRunner {
  readonly #options: BackupRunnerOptions;
  readonly #stopping = new AbortController();
  #loop: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #scheduleSinceMs: number;

  constructor(options: BackupRunnerOptions) {
    this.#options = options;
    this.#scheduleSinceMs = this.#believedMs();
  }

  #believedMs(): number {
    const { clock, now } = this.#options;
    return (clock?.nowMs ?? now)();
  }

  get #ttlMs(): number {
    return this.#options.leaseTtlMs ?? limits.leaseTtlMs;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** Something may be waiting: looks at once where this agent is the runner. */
  poke(): void {
    this.#wake?.();
  }

  /** What is under way is broken off; whoever runs next begins it anew. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#wake?.();
    await this.#loop;
  }

  /**
   * Makes what waits now, without a schedule: for a command beside a running agent.
   * @returns false where another agent is the runner and does it
   */
  async runWaiting(): Promise<boolean> {
    const held = await this.#options.leases.hold(leaseName, this.#ttlMs, async (lease) => {
      await this.#begin(lease);
      for (;;) {
        const row = await this.#options.journal.nextWaiting();
        if (row === undefined || lease.signal.aborted) return;
        await this.#attempt(row, lease);
      }
    });
    return held !== undefined;
  }

  async #run(): Promise<void> {
    const { leases, onError } = this.#options;
    while (!this.#stopping.signal.aborted) {
      try {
        await leases.hold(leaseName, this.#ttlMs, async (lease) => {
          await this.#begin(lease);
          while (!lease.signal.aborted && !this.#stopping.signal.aborted) {
            await this.#turn(lease);
            await this.#pause(limits.pollMs, lease.signal);
          }
        });
      } catch (error) {
        if (!(error instanceof LeaseLost)) onError?.(error);
      }
      await this.#pause(limits.standbyMs, this.#stopping.signal);
    }
  }

  /** Takes over from whoever had the lease before. */
  async #begin(lease: Lease): Promise<void> {
    const { journal, folder } = this.#options;
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const name of await readdir(folder)) {
      if (oneOfOurs.test(name)) await rm(join(folder, name), { force: true });
    }
    for (const row of await journal.interrupted()) {
      const problem = { code: 'interrupted', text: 'the agent ended meanwhile' };
      await this.#failed(row, lease, problem, JSON.parse(row.asked), { pauseFactor: 0 });
    }
  }

  async #turn(lease: Lease): Promise<void> {
    const { journal, settings } = this.#options;
    if (settings.schedule !== undefined) {
      const nowMs = this.#believedMs();
      // Also the clock that it began by may have been wrong.
      this.#scheduleSinceMs = Math.min(this.#scheduleSinceMs, nowMs);
      const lastMs =
        (await journal.lastScheduledMs(nowMs + clockDifferenceMs)) ?? this.#scheduleSinceMs;
      const dueMs = dueScheduled(settings.schedule, lastMs, nowMs);
      if (dueMs !== undefined) await journal.addScheduled(dueMs);
    }
    const row = await journal.nextWaiting();
    if (row !== undefined) await this.#attempt(row, lease);
  }

  async #attempt(row: RunRow, lease: Lease): Promise<void> {
    const { journal, door, now, report, onError } = this.#options;
    const startedAtMs = now();
    const backupId = toId('backup', newUuid(startedAtMs));
    const asked = JSON.parse(row.asked) as Asked;
    const step = this.#options.onStep ?? (() => undefined);
    const signal = AbortSignal.any([
      lease.signal,
      this.#stopping.signal,
      AbortSignal.timeout(limits.transferTimeoutMs),
    ]);
    await journal.change(
      row.id,
      { state: 'running', backup_id: backupId, problem_code: null, problem_text: null },
      lease,
    );
    let bytes = 0;
    try {
      await step('begun');
      const errand = {
        action: 'backup.create' as const,
        operation: 'backup.make',
        resource: { other: `backup:${backupId}` },
        effect: 'write' as const,
      };
      const caller = systemCaller('backup', row.id, now());
      const made = await door.perform(caller, errand, async () => {
        this.#requireSomewhere(asked);
        const backup = await this.#make(backupId, contentsOf(asked, this.#options), signal);
        bytes = backup.manifest.bytes;
        await step('made');
        await this.#putEverywhere(backup, asked, signal, step);
        return backup;
      });
      const { manifest } = made;
      await this.#removeMade(backupId);
      await journal.change(
        row.id,
        {
          state: 'succeeded',
          ended_at_ms: now(),
          next_attempt_ms: null,
          result: {
            bytes,
            namespaces: manifest.namespaces,
            secrets: manifest.secrets,
            versions: manifest.versions,
            destinations: this.#chosen(asked).map(({ label }) => label),
            durationMs: now() - startedAtMs,
          },
        },
        lease,
      );
      report({
        ...this.#facts(row, asked),
        outcome: 'succeeded',
        bytes,
        secrets: manifest.secrets,
        durationMs: now() - startedAtMs,
      });
      await step('ended');
    } catch (error) {
      await this.#removeMade(backupId);
      // Whoever has the lease now sees what was left, and whoever stops leaves it to the next start.
      if (lease.signal.aborted || this.#stopping.signal.aborted) throw error;
      onError?.(error);
      if (error instanceof SomeFailed) {
        const [first] = error.failures.values();
        const left = { ...asked, destinations: [...error.failures.keys()] };
        await this.#failed(row, lease, problemOf(first), left, {
          durationMs: now() - startedAtMs,
          bytes,
        });
      } else {
        await this.#failed(row, lease, problemOf(error), asked, {
          durationMs: now() - startedAtMs,
          bytes,
        });
      }
    }
  }

  async #failed(
    row: RunRow,
    lease: Lease,
    problem: { code: string; text: string },
    asked: Asked,
    facts: { durationMs?: number; bytes?: number /** 0: at once. */; pauseFactor?: number },
  ): Promise<void> {
    const { journal, now, random, report } = this.#options;
    const { durationMs = 0, bytes = 0, pauseFactor = 1 } = facts;
    const pauseMs = retryPauseMs(row.attempt, random());
    await journal.change(
      row.id,
      {
        state: pauseMs === undefined ? 'gave-up' : 'waiting',
        attempt: pauseMs === undefined ? row.attempt : row.attempt + 1,
        next_attempt_ms: pauseMs === undefined ? null : now() + pauseMs * pauseFactor,
        ended_at_ms: pauseMs === undefined ? now() : null,
        problem_code: problem.code,
        problem_text: problem.text,
        asked: JSON.stringify(asked),
      },
      lease,
    );
    report({
      ...this.#facts(row, asked),
      outcome: pauseMs === undefined ? 'gave-up' : 'failed',
      bytes,
      secrets: 0,
      durationMs,
    });
  }

  async #make(
    backupId: string,
    contents: readonly BackupContent[],
    signal: AbortSignal,
  ): Promise<Made> {
    const { vault, provider, settings, files, folder, agentVersion, now } = this.#options;
    const { vaultId } = vault.store;
    using key = generateKey();
    const author = BackupAuthor.of(vault.keys);
    const context = backupKeyContext(vaultId, backupId, author.publicKey);
    const wrapped = await provider.wrap(key, context);
    const header = {
      id: backupId,
      vaultId,
      createdAtMs: now(),
      agentVersion,
      contents: [...contents],
      author: author.publicKey,
      wrappedKey: {
        provider: wrapped.provider,
        keyId: wrapped.keyId,
        version: wrapped.version,
        bytes: Buffer.from(wrapped.bytes).toString('base64'),
      },
    };
    const file = join(folder, `backup-${backupId}.ksbackup`);
    const { written, summary } = await vault.store.snapshot(async (queries) => {
      const parts = new BackupSections(
        queries as unknown as ConstructorParameters<typeof BackupSections>[0],
        vault.keys,
        files,
        contents,
      );
      const recipients = [{ kind: 'key' as const, key }, ...settings.recipients()];
      const whole = await writeBackup(
        file,
        header,
        recipients,
        parts.sections(),
        () => parts.summary,
        signal,
      );
      return { written: whole, summary: parts.summary };
    });
    const manifest = author.sign({
      format: 1,
      id: backupId,
      vaultId,
      createdAt: new Date(header.createdAtMs).toISOString(),
      agentVersion,
      contents: header.contents,
      namespaces: summary.namespaces,
      secrets: summary.secrets,
      versions: summary.versions,
      ...written,
    });
    const manifestFile = join(folder, `backup-${backupId}.json`);
    await writeFile(manifestFile, `${JSON.stringify(manifest, null, 2)}\n`, { mode: 0o600 });
    return { manifest, file, manifestFile };
  }

  async #putEverywhere(
    { manifest, file, manifestFile }: Made,
    asked: Asked,
    signal: AbortSignal,
    step: (step: BackupStep) => void | Promise<void>,
  ): Promise<void> {
    const failures = this.#notConfigured(asked);
    for (const destination of this.#chosen(asked)) {
      try {
        await destination.removeUnfinished(`keystead-${manifest.vaultId}-`, signal);
        await destination.put(backupFileName(manifest), file, signal);
        await step('put');
        await destination.put(manifestFileName(manifest), manifestFile, signal);
        await step('told');
        await this.#prune(destination, manifest, signal);
        await step('pruned');
      } catch (error) {
        if (signal.aborted) throw error;
        failures.set(destination.label, error);
      }
    }
    if (failures.size > 0) throw new SomeFailed(failures);
  }

  /** What lies nowhere is no backup, and is not made. @throws SomeFailed, DestinationError */
  #requireSomewhere(asked: Asked): void {
    if (this.#chosen(asked).length > 0) return;
    const failures = this.#notConfigured(asked);
    if (failures.size > 0) throw new SomeFailed(failures);
    throw new DestinationError('backup', 'misconfigured', 'no destination is configured');
  }

  #notConfigured({ destinations = [] }: Asked): Map<string, unknown> {
    const known = new Set(this.#options.destinations.map(({ label }) => label));
    const why =
      'is not configured at the agent that makes the backup: start it anew when vault.yaml has changed';
    return new Map(
      destinations
        .filter((label) => !known.has(label))
        .map((label) => [label, new DestinationError(label, 'misconfigured', why)]),
    );
  }

  /** Removes what need not be kept, the manifest first, and files that never got one. */
  async #prune(
    destination: BackupDestination,
    current: BackupManifest,
    signal: AbortSignal,
  ): Promise<void> {
    const { settings, now, clock } = this.#options;
    const { names, manifests } = await this.#kept(destination, current.vaultId, signal);
    const nowMs = now();
    const gaps = { current: current.id, gapMs: plausibleGapMs(settings.schedule, nowMs) };
    const expiredOnes =
      clock?.doubt === undefined ? expiredBackups(manifests, settings.retention, nowMs, gaps) : [];
    for (const expired of expiredOnes) {
      await destination.remove(manifestFileName(expired), signal);
      names.delete(manifestFileName(expired));
    }
    const start = `keystead-${current.vaultId}-`;
    for (const name of names) {
      if (!name.startsWith(start) || !name.endsWith('.ksbackup')) continue;
      if (names.has(name.replace(/\.ksbackup$/, '.json'))) continue;
      await destination.remove(name, signal);
    }
  }

  /** The files of a destination, and what the manifests of this vault among them say. */
  async #kept(destination: BackupDestination, vaultId: string, signal: AbortSignal) {
    const session = await openSession(destination, signal);
    try {
      const names = new Set((await session.list()).map(({ name }) => name));
      const ours = [...names].filter((name) => manifestIdOf(name)?.vaultId === vaultId);
      const read = await inParallel(ours, async (name) =>
        parseManifest(await session.readText(name, limits.manifestMaxBytes), name),
      );
      return { names, manifests: read.filter((manifest) => manifest !== undefined) };
    } finally {
      session.close();
    }
  }

  #chosen(asked: Asked): readonly BackupDestination[] {
    const { destinations } = this.#options;
    if (asked.destinations === undefined) return destinations;
    return destinations.filter(({ label }) => asked.destinations?.includes(label));
  }

  #facts(row: RunRow, asked: Asked) {
    const [first] = this.#chosen(asked);
    return {
      kind: 'backup' as const,
      destination: destinationKind(first?.label),
      attempt: row.attempt,
    };
  }

  async #removeMade(backupId: string): Promise<void> {
    for (const ending of ['ksbackup', 'json', 'ksbackup.part']) {
      await rm(join(this.#options.folder, `backup-${backupId}.${ending}`), { force: true });
    }
  }

  #pause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted || this.#stopping.signal.aborted) return resolve();
      const end = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', end);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(end, ms);
      timer.unref();
      signal.addEventListener('abort', end, { once: true });
      this.#wake = end;
    });
  }
}

/** @param author undefined for backups that were made before they had one */
export function backupKeyContext(
  vaultId: string,
  backupId: string,
  author: string | undefined,
): Record<string, string> {
  const context = { vault: vaultId, purpose: 'backup', backup: backupId };
  return author === undefined ? context : { ...context, author };
}

export function destinationKind(label: string | undefined): BackupReport['destination'] {
  if (label?.startsWith('local:')) return 'directory';
  if (label?.startsWith('s3:')) return 's3';
  return label?.startsWith('sftp:') ? 'sftp' : 'other';
}

function contentsOf(asked: Asked, { settings }: BackupRunnerOptions): readonly BackupContent[] {
  return (asked.contents as BackupContent[] | undefined) ?? settings.contents;
}
