/**
 * Rekeys and upgrades in the background of an agent: one at a time. How far each is and what became of it
 * stands in the store, so that any agent of it can be asked, or told to end one, also after a restart.
 * What was done is in the records themselves; a run that ends with its agent goes on when the same
 * passwords are sent again.
 */
import { setTimeout as wait } from 'node:timers/promises';
import type { RekeyRun } from '@keystead/contracts/agent-api/tokens';
import { notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { RekeyProgress, RekeyResult, RunOptions } from '@keystead/vault-store/rekey/rekey';
import type { SqlStore } from '@keystead/vault-store/sql/sql-store';
import { VaultError } from '@keystead/vault-store/vault-error';
import type { Selectable } from 'kysely';
import type { RekeyRunTables } from './rekey-run-tables.ts';
import { tokenVaultLimits as limits } from './token-vault-limits.ts';

export interface RunRequest {
  kind: RekeyRun['kind'];
  dryRun: boolean;
  timeoutSeconds: number | undefined;
  /** For people. */
  requestedBy: string;
  work: (options: RunOptions) => Promise<RekeyResult>;
}

interface OwnRun {
  shown: RekeyRun;
  abort: AbortController;
  ended: Promise<void>;
}

export class RekeyRuns {
  readonly #store: SqlStore<RekeyRunTables>;
  /** Of this agent, for as long as they run. */
  readonly #own = new Map<string, OwnRun>();
  readonly #now: () => number;
  readonly #onError: (error: unknown) => void;

  /** @param onError for the log: what ended a run, without a password or a value */
  constructor(
    store: SqlStore<RekeyRunTables>,
    now: () => number,
    onError: (error: unknown) => void,
  ) {
    this.#store = store;
    this.#now = now;
    this.#onError = onError;
  }

  /** @throws ServiceError `conflict` while another one runs here; what the store says */
  async start(request: RunRequest): Promise<RekeyRun> {
    const [running] = this.#own.keys();
    if (this.#own.size >= limits.runsAtOnce) {
      throw new ServiceError('conflict', {
        detail: `Run ${running} is under way: wait for its end, or abort it`,
      });
    }
    const startedAtMs = this.#now();
    const shown = begun(request, toId('rekey', newUuid(startedAtMs)), startedAtMs);
    const abort = new AbortController();
    const noted = this.#note(shown, startedAtMs);
    const ended = noted
      .then(() => this.#work(request, shown, abort))
      .finally(() => this.#own.delete(shown.id));
    // What becomes of the run is told by its row; what could not even be noted, below.
    ended.catch(() => undefined);
    this.#own.set(shown.id, { shown, abort, ended });
    await noted;
    return { ...shown };
  }

  /** Of all agents of the store, the newest first. */
  async list(): Promise<RekeyRun[]> {
    const rows = await this.#store.db
      .selectFrom('rekey_run')
      .selectAll()
      .orderBy('started_at_ms', 'desc')
      .orderBy('id', 'desc')
      .limit(limits.runsKept)
      .execute();
    return rows.map((row) => this.#shown(row));
  }

  /** @throws ServiceError `not_found` */
  async get(id: string): Promise<RekeyRun> {
    const row = await this.#store.db
      .selectFrom('rekey_run')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
    if (row === undefined) throw notFound();
    return this.#shown(row);
  }

  /**
   * Answers when it has stopped; where another agent runs it, after a while at the latest, and then it may
   * say that it still runs. @throws ServiceError `not_found`
   */
  async abort(id: string): Promise<RekeyRun> {
    const own = this.#own.get(id);
    if (own !== undefined) {
      own.abort.abort();
      await own.ended;
      return { ...own.shown };
    }
    await this.#store.write((queries) =>
      queries
        .updateTable('rekey_run')
        .set({ is_to_stop: 1 })
        .where('id', '=', id)
        .where('is_running', '=', 1)
        .execute(),
    );
    const deadline = performance.now() + limits.abortWaitMs;
    for (;;) {
      const shown = await this.get(id);
      if (shown.state !== 'running' || performance.now() > deadline) return shown;
      await wait(limits.runSeenEveryMs / 4);
    }
  }

  /** Ends what runs here, after the transaction under way. */
  async stop(): Promise<void> {
    const own = [...this.#own.values()];
    for (const { abort } of own) abort.abort();
    await Promise.allSettled(own.map(({ ended }) => ended));
  }

  async #work(request: RunRequest, shown: RekeyRun, abort: AbortController): Promise<void> {
    let beat = Promise.resolve();
    // A store that is away shows in the run itself.
    const look = () => this.#lookAfter(shown, abort).catch(() => undefined);
    const beats = setInterval(() => {
      beat = beat.then(look);
    }, limits.runSeenEveryMs);
    beats.unref();
    try {
      const { timeoutSeconds, dryRun } = request;
      const result = await request.work({
        dryRun,
        signal: abort.signal,
        onProgress: (progress) => showProgress(shown, progress),
        ...(timeoutSeconds === undefined ? {} : { timeoutMs: timeoutSeconds * 1_000 }),
      });
      this.#end(shown, result, result.outcome);
    } catch (error) {
      this.#onError(error);
      shown.problem = error instanceof VaultError ? error.message : 'the run failed';
      this.#end(shown, (error as { partial?: RekeyResult }).partial, 'failed');
    } finally {
      clearInterval(beats);
      await beat;
      await this.#save(shown, 0).catch(this.#onError);
    }
  }

  /** Says how far it is, and ends it where somebody asked for that. */
  async #lookAfter(shown: RekeyRun, abort: AbortController): Promise<void> {
    if (shown.state !== 'running') return;
    await this.#save(shown, 1);
    const row = await this.#store.db
      .selectFrom('rekey_run')
      .select('is_to_stop')
      .where('id', '=', shown.id)
      .executeTakeFirst();
    if (row?.is_to_stop === 1) abort.abort();
  }

  async #note(shown: RekeyRun, nowMs: number): Promise<void> {
    const oldest = await this.#store.db
      .selectFrom('rekey_run')
      .select('started_at_ms')
      .orderBy('started_at_ms', 'desc')
      .limit(1)
      .offset(limits.runsKept - 1)
      .executeTakeFirst();
    await this.#store.write(async (queries) => {
      await queries
        .insertInto('rekey_run')
        .values({
          id: shown.id,
          shown: JSON.stringify(shown),
          started_at_ms: nowMs,
          seen_at_ms: nowMs,
          is_running: 1,
          is_to_stop: 0,
        })
        .execute();
      if (oldest === undefined) return;
      await queries
        .deleteFrom('rekey_run')
        .where('started_at_ms', '<=', oldest.started_at_ms)
        .where('id', '<>', shown.id)
        .execute();
    });
  }

  async #save(shown: RekeyRun, isRunning: 0 | 1): Promise<void> {
    await this.#store.write((queries) =>
      queries
        .updateTable('rekey_run')
        .set({ shown: JSON.stringify(shown), seen_at_ms: this.#now(), is_running: isRunning })
        .where('id', '=', shown.id)
        .execute(),
    );
  }

  #shown(row: Selectable<RekeyRunTables['rekey_run']>): RekeyRun {
    const own = this.#own.get(row.id);
    if (own !== undefined) return { ...own.shown };
    const shown: RekeyRun = JSON.parse(row.shown);
    if (row.is_running === 0 || this.#now() - row.seen_at_ms <= limits.runLostAfterMs) return shown;
    return {
      ...shown,
      state: 'interrupted',
      endedAt: new Date(row.seen_at_ms).toISOString(),
      remainingSeconds: null,
      problem: 'its agent ended in the middle: send the same passwords again, and it goes on',
    };
  }

  #end(shown: RekeyRun, result: RekeyResult | undefined, state: RekeyRun['state']): void {
    shown.state = state;
    shown.endedAt = new Date(this.#now()).toISOString();
    shown.remainingSeconds = null;
    if (result === undefined) return;
    const { outcome: _, elapsedMs, estimatedMs, ...counts } = result;
    Object.assign(shown, counts);
    shown.recordsPerSecond = elapsedMs > 0 ? result.examined / (elapsedMs / 1_000) : 0;
    shown.estimatedSeconds = estimatedMs === undefined ? null : estimatedMs / 1_000;
  }
}

const begun = (request: RunRequest, id: string, startedAtMs: number): RekeyRun => ({
  id,
  kind: request.kind,
  state: 'running',
  dryRun: request.dryRun,
  requestedBy: request.requestedBy,
  startedAt: new Date(startedAtMs).toISOString(),
  endedAt: null,
  resumed: false,
  examined: 0,
  total: 0,
  matched: 0,
  otherPassword: 0,
  alreadyCurrent: 0,
  corrupt: 0,
  corruptIds: [],
  changedMeanwhile: 0,
  changedIds: [],
  recordsPerSecond: 0,
  remainingSeconds: null,
  estimatedSeconds: null,
  problem: null,
});

function showProgress(shown: RekeyRun, progress: RekeyProgress): void {
  const { remainingMs, ...counts } = progress;
  Object.assign(shown, counts);
  shown.remainingSeconds = remainingMs === undefined ? null : remainingMs / 1_000;
}
