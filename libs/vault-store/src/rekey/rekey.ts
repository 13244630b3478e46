/**
 * Every record of one password gets another, or the current parameters.
 *
 * Nothing stored says which records those are: each is tried. Pages are read in the order of positions,
 * encrypted anew by worker threads, and written each in one transaction together with the journal. A
 * record is written only if its value is still what was read; what was written by others meanwhile is
 * looked at again at the end. So whenever the process ends, every record opens under exactly one of the
 * two passwords, and the next run of the same passwords goes on where this one stopped.
 */
import { type RandomFill, SecretKey } from '@keystead/envelope/keys';
import { type Encryptor, PasswordEncryptor } from '../encryptor.ts';
import { vaultLimits } from '../limits.ts';
import type { PasswordKeys } from '../password-keys.ts';
import type { VaultSchema } from '../schema.ts';
import type { SqlStore } from '../sql/sql-store.ts';
import { VaultError } from '../vault-error.ts';
import { type ResealedPage, type RowPage, rowState, SpareBytes } from './packed-page.ts';
import { type Findings, nothingFound, RekeyJournal } from './rekey-journal.ts';
import { RekeyRows, type Walk, writeValues } from './rekey-rows.ts';
import { EncryptorResealer, PasswordResealer, type Resealer } from './resealers.ts';
import { ValueChanges } from './value-changes.ts';

export interface RunOptions {
  /** Stops after the page under way; the result says how far it came. */
  signal?: AbortSignal;
  timeoutMs?: number;
  /** After each page. */
  onProgress?: (progress: RekeyProgress) => void;
  /** Counts and estimates; writes nothing. */
  dryRun?: boolean;
  /** Threads; by default as many as there are processors, and none for few records. */
  workers?: number;
  /** Records in one transaction, at most; by default 1,000. */
  batchRecords?: number;
}

export interface RekeyProgress extends Readonly<Findings> {
  /** Looked at so far, by this run and by those it goes on from. */
  examined: number;
  /** There when the run began. */
  total: number;
  recordsPerSecond: number;
  /** Undefined until there is a rate. */
  remainingMs: number | undefined;
}

export interface RekeyResult extends Findings {
  outcome: 'finished' | 'aborted' | 'timed_out';
  examined: number;
  total: number;
  /** Whether it went on from a run that was cut off; the counts are of both. */
  resumed: boolean;
  elapsedMs: number;
  /** Dry run only: how long the real one would take. */
  estimatedMs: number | undefined;
}

/** The database or a thread failed; what was done so far stays, and the next run goes on from there. */
export class RekeyFailed extends VaultError {
  readonly partial: RekeyResult;

  constructor(partial: RekeyResult, cause: unknown) {
    super('rekey_failed', `the rekey stopped after ${partial.examined} records`, { cause });
    this.partial = partial;
  }
}

export interface RekeyPlan {
  store: SqlStore<VaultSchema>;
  encryptor: Encryptor;
  keys: PasswordKeys;
  /** Of the vault: the salt under which a journal is recognized. */
  derivation: Uint8Array;
  now: () => number;
  random: RandomFill | undefined;
  oldPassword: string;
  newPassword: string;
  /** To the current parameters, under the same password. */
  upgrades: boolean;
  options: RunOptions;
}

/** Pages without a change that may pass before it is written down how far the run is. */
const quietPagesMax = 16;

export async function runRekey(plan: RekeyPlan): Promise<RekeyResult> {
  const run = new RekeyRun(plan);
  return run.run();
}

interface PageUnderWay {
  page: RowPage;
  resealed: Promise<ResealedPage>;
}

class RekeyRun {
  readonly #plan: RekeyPlan;
  readonly #startedMs = performance.now();
  /** Of each page under way its rows and its new values. */
  readonly #spare = new SpareBytes(2 * vaultLimits.rekeyPagesInFlight);
  #findings: Findings = { ...nothingFound };
  #examined = 0;
  #examinedBefore = 0;
  #total = 0;
  #quietPages = 0;
  #journal: RekeyJournal | undefined;
  /** How long a record takes to be written, found out by writing some and taking it back. */
  #writeMsPerRecord: number | undefined;

  constructor(plan: RekeyPlan) {
    this.#plan = plan;
  }

  async run(): Promise<RekeyResult> {
    const { store, encryptor, oldPassword, newPassword, upgrades, options } = this.#plan;
    const timeout =
      options.timeoutMs === undefined ? undefined : AbortSignal.timeout(options.timeoutMs);
    const signal = AbortSignal.any([options.signal, timeout].filter((each) => each !== undefined));
    let resealer: Resealer | undefined;
    try {
      signal.throwIfAborted();
      const extent = await new RekeyRows(store, { maxRecords: 1, maxBytes: 1 }).extent();
      this.#total = extent.total;
      const passwords = { oldPassword, newPassword };
      resealer =
        encryptor instanceof PasswordEncryptor
          ? new PasswordResealer({
              encryptor,
              passwords,
              upgrades,
              records: extent.total,
              workers: options.workers,
              spare: this.#spare,
            })
          : new EncryptorResealer(encryptor, passwords, this.#spare);
      if (options.dryRun !== true) await this.#openJournal();
      const since = this.#journal?.state.startedAtMs ?? this.#plan.now();
      const after = this.#journal?.state.afterPosition ?? 0;
      const walk: Walk = { after, upTo: extent.last, updatedSinceMs: undefined };
      await this.#walk(resealer, walk, signal);
      if (options.dryRun !== true) {
        await this.#lookAgain(resealer, since, extent.last, signal);
        await this.#journal?.finish();
      }
      return this.#result('finished');
    } catch (error) {
      if (signal.aborted && error === signal.reason) {
        const isOver = timeout?.aborted === true && signal.reason === timeout.reason;
        const isTimeout = isOver || (signal.reason as Error)?.name === 'TimeoutError';
        return this.#result(isTimeout ? 'timed_out' : 'aborted');
      }
      if (error instanceof VaultError) throw error;
      throw new RekeyFailed(this.#result('aborted'), error);
    } finally {
      await resealer?.close();
    }
  }

  async #openJournal(): Promise<void> {
    const { store, keys, derivation, now, random, oldPassword, newPassword } = this.#plan;
    const copy = async (password: string, of: Uint8Array) =>
      SecretKey.take((await keys.keyFor(password, of)).copy());
    this.#journal = await RekeyJournal.open(
      store,
      {
        name: this.#plan.upgrades ? 'upgrade' : 'rekey',
        derivation,
        keysFor: async (of) => ({
          oldKey: await copy(oldPassword, of),
          newKey: await copy(newPassword, of),
        }),
      },
      now,
      random,
    );
    this.#findings = structuredClone(this.#journal.state.findings);
    const { matched, otherPassword, alreadyCurrent, corrupt, changedMeanwhile } = this.#findings;
    this.#examinedBefore = matched + otherPassword + alreadyCurrent + corrupt + changedMeanwhile;
    this.#examined = this.#examinedBefore;
  }

  /** Reading, encrypting and writing at the same time, each of another page. */
  async #walk(resealer: Resealer, walk: Walk, signal: AbortSignal): Promise<void> {
    const rows = this.#rows(resealer);
    const underWay: PageUnderWay[] = [];
    let writing: Promise<void> = Promise.resolve();
    try {
      for (let after = walk.after; ; ) {
        signal.throwIfAborted();
        const page = await rows.page({ ...walk, after });
        const { last } = page;
        if (last !== undefined) {
          after = last;
          const resealed = resealer.reseal(page, signal);
          // Awaited below; until then a failure is not unhandled.
          resealed.catch(() => undefined);
          underWay.push({ page, resealed });
        }
        while (
          underWay.length >= vaultLimits.rekeyPagesInFlight ||
          (last === undefined && underWay.length > 0)
        ) {
          const next = underWay.shift() as PageUnderWay;
          const resealed = await next.resealed;
          await writing;
          signal.throwIfAborted();
          writing = this.#settle(next.page, resealed, resealer);
          writing.catch(() => undefined);
        }
        if (last === undefined) break;
      }
    } finally {
      await writing;
      await Promise.allSettled(underWay.map(({ resealed }) => resealed));
    }
  }

  /** What was written, by others, since the run began: new records and changed ones. */
  async #lookAgain(
    resealer: Resealer,
    startedAtMs: number,
    upTo: number,
    signal: AbortSignal,
  ): Promise<void> {
    let since = startedAtMs - vaultLimits.rekeyOverlapMs;
    for (let round = 1; round <= vaultLimits.rekeyRounds; round += 1) {
      const roundStartedAtMs = this.#plan.now();
      const matchedBefore = this.#findings.matched;
      const rows = this.#rows(resealer);
      for (let after = 0; ; ) {
        signal.throwIfAborted();
        const page = await rows.page({
          after,
          upTo: Number.MAX_SAFE_INTEGER,
          updatedSinceMs: since,
        });
        if (page.last === undefined) break;
        after = page.last;
        const resealed = await resealer.reseal(page, signal);
        const changes = new ValueChanges(page, resealed);
        await this.#write(changes, resealer, upTo, (findings, changed) => {
          findings.matched += changed;
        });
        this.#giveBack(page, resealed);
      }
      if (this.#findings.matched === matchedBefore) return;
      since = roundStartedAtMs - vaultLimits.rekeyOverlapMs;
    }
  }

  #rows(resealer: Resealer): RekeyRows {
    const { batchRecords = resealer.pageRecords } = this.#plan.options;
    const limits = {
      maxRecords: Math.max(1, Math.min(batchRecords, resealer.pageRecords)),
      maxBytes: vaultLimits.rekeyPageBytes,
    };
    return new RekeyRows(this.#plan.store, limits, this.#spare);
  }

  /** Once nothing reads them. */
  #giveBack(page: RowPage, resealed: ResealedPage): void {
    this.#spare.give(page.bytes.buffer);
    this.#spare.give(resealed.values.buffer);
  }

  /** Counts a page, and writes what is new of it. */
  async #settle(page: RowPage, resealed: ResealedPage, resealer: Resealer): Promise<void> {
    const changes = new ValueChanges(page, resealed);
    const { states } = resealed;
    let [other, current] = [0, 0];
    const corruptIds: string[] = [];
    for (let index = 0; index < page.count; index += 1) {
      const state = states[index];
      if (state === rowState.otherPassword) other += 1;
      else if (state === rowState.alreadyCurrent) current += 1;
      else if (state === rowState.corrupt) corruptIds.push(page.row(index).id);
    }
    await this.#write(changes, resealer, page.last as number, (findings, changed, lost) => {
      findings.matched += changed;
      findings.otherPassword += other;
      findings.alreadyCurrent += current;
      findings.corrupt += corruptIds.length;
      findings.corruptIds = named(findings.corruptIds, corruptIds);
      findings.changedMeanwhile += lost.length;
      findings.changedIds = named(
        findings.changedIds,
        lost.map((position) => page.row(page.positions.indexOf(position)).id),
      );
    });
    this.#giveBack(page, resealed);
    this.#examined += page.count;
    this.#tell();
  }

  async #write(
    changes: ValueChanges,
    resealer: Resealer,
    afterPosition: number,
    count: (findings: Findings, changed: number, lost: readonly number[]) => void,
  ): Promise<void> {
    const { store } = this.#plan;
    const journal = this.#journal;
    if (journal === undefined) {
      count(this.#findings, changes.count, []);
      await this.#sampleWriting(changes, resealer);
      return;
    }
    this.#quietPages = changes.count > 0 ? 0 : this.#quietPages + 1;
    if (changes.count === 0 && this.#quietPages % quietPagesMax !== 0) {
      count(this.#findings, 0, []);
      return;
    }
    this.#findings = await store.write(async (queries) => {
      const lost = await writeValues(queries, store.kind, changes, resealer.fingerprint);
      const findings = structuredClone(this.#findings);
      count(findings, changes.count - lost.length, lost);
      await journal.advance(queries, afterPosition, findings);
      return findings;
    });
  }

  /** A dry run writes once, and takes it back, to know what writing costs. */
  async #sampleWriting(changes: ValueChanges, resealer: Resealer): Promise<void> {
    if (this.#writeMsPerRecord !== undefined || changes.count === 0) return;
    const { store } = this.#plan;
    const takenBack = new Error('taken back');
    const started = performance.now();
    await store
      .write(async (queries) => {
        await writeValues(queries, store.kind, changes, resealer.fingerprint);
        throw takenBack;
      })
      .catch((error: unknown) => {
        if (error !== takenBack) throw error;
      });
    this.#writeMsPerRecord = (performance.now() - started) / changes.count;
  }

  #tell(): void {
    const { onProgress } = this.#plan.options;
    if (onProgress === undefined) return;
    const elapsedSeconds = (performance.now() - this.#startedMs) / 1_000;
    const recordsPerSecond = (this.#examined - this.#examinedBefore) / elapsedSeconds;
    onProgress({
      ...structuredClone(this.#findings),
      examined: this.#examined,
      total: this.#total,
      recordsPerSecond,
      remainingMs:
        recordsPerSecond > 0
          ? (Math.max(0, this.#total - this.#examined) / recordsPerSecond) * 1_000
          : undefined,
    });
  }

  #result(outcome: RekeyResult['outcome']): RekeyResult {
    const elapsedMs = performance.now() - this.#startedMs;
    return {
      ...this.#findings,
      outcome,
      examined: this.#examined,
      total: this.#total,
      resumed: this.#journal?.isResumed ?? false,
      elapsedMs,
      estimatedMs:
        this.#plan.options.dryRun === true
          ? elapsedMs + this.#findings.matched * (this.#writeMsPerRecord ?? 0)
          : undefined,
    };
  }
}

function named(known: readonly string[], more: readonly string[]): string[] {
  return [...known, ...more].slice(0, vaultLimits.maxReportedIds);
}
