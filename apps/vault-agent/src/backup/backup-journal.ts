/** The rows of runs: what is asked for, what goes on, what came of it. */
import { hostname } from 'node:os';
import type {
  BackupRun,
  BackupRunKind,
  BackupRunState,
} from '@keystead/contracts/agent-api/backup';
import { backupApiLimits } from '@keystead/contracts/agent-api/backup-limits';
import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import { KeyProviderError } from '@keystead/envelope/key-provider';
import { Corrupt, WrongKey } from '@keystead/envelope/sealed';
import { isDuplicate, type Queries, type SqlStore } from '@keystead/vault-store/sql/sql-store';
import type { Selectable } from 'kysely';
import { type Lease, LeaseLost } from '../leases/leases.ts';
import { backupLimits } from './backup-limits.ts';
import { clockDifferenceMs } from './backup-schedule.ts';
import type { BackupRunTable, BackupSchema } from './backup-tables.ts';
import { DestinationError } from './destination.ts';
import { isAlive } from './stored-backups.ts';

export type RunRow = Selectable<BackupRunTable>;
export type RunResult = NonNullable<BackupRun['result']>;

/** What a backup was asked to hold and where to go. */
export interface Asked {
  contents?: string[] | undefined;
  destinations?: string[] | undefined;
  /** Who carries it out, where that is not whoever holds the lease of backups. */
  by?: Performer | undefined;
}

/** A process, as others can tell whether it lives. */
export interface Performer {
  host: string;
  process: number;
  /** Another one for each process, because numbers come again. */
  run: string;
}

export const thisRun: Performer = { host: hostname(), process: process.pid, run: newUuid() };

export class BackupJournal {
  readonly #store: SqlStore<BackupSchema>;
  readonly #now: () => number;

  constructor(store: SqlStore<BackupSchema>, now: () => number) {
    this.#store = store;
    this.#now = now;
  }

  /** A run that waits for its turn, or one that begins at once. */
  async add(run: {
    kind: BackupRunKind;
    state: 'waiting' | 'running';
    requestedBy: string;
    asked: Asked;
    backupId?: string;
    scheduledForMs?: number;
  }): Promise<RunRow> {
    const nowMs = this.#now();
    const row: RunRow = {
      id: toId('backupRun', newUuid(nowMs)),
      kind: run.kind,
      state: run.state,
      trigger_kind: run.scheduledForMs === undefined ? 'request' : 'schedule',
      scheduled_for_ms: run.scheduledForMs ?? null,
      attempt: 1,
      next_attempt_ms: run.state === 'waiting' ? nowMs : null,
      backup_id: run.backupId ?? null,
      requested_by: run.requestedBy,
      asked: JSON.stringify(run.asked),
      result: null,
      problem_code: null,
      problem_text: null,
      started_at_ms: nowMs,
      ended_at_ms: null,
    };
    await this.#store.write(async (queries) => {
      await queries.insertInto('backup_run').values(row).execute();
      await this.#forgetOld(queries);
    });
    return row;
  }

  /** A run for a time of the schedule, unless there is one already. */
  async addScheduled(scheduledForMs: number): Promise<void> {
    try {
      await this.add({
        kind: 'backup',
        state: 'waiting',
        requestedBy: 'system:backup',
        asked: {},
        scheduledForMs,
      });
    } catch (error) {
      if (!isDuplicate(error)) throw error;
    }
  }

  /** @param mostMs a time beyond it is of a clock that was wrong, and would end the schedule until then */
  async lastScheduledMs(mostMs: number): Promise<number | undefined> {
    const row = await this.#store.db
      .selectFrom('backup_run')
      .select('scheduled_for_ms')
      .where('scheduled_for_ms', '<=', mostMs)
      .orderBy('scheduled_for_ms', 'desc')
      .executeTakeFirst();
    return row?.scheduled_for_ms ?? undefined;
  }

  async find(id: string): Promise<RunRow | undefined> {
    return this.#store.db
      .selectFrom('backup_run')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
  }

  /** The backup that waits longest, if its time has come. */
  async nextWaiting(): Promise<RunRow | undefined> {
    const nowMs = this.#now();
    return (
      this.#store.db
        .selectFrom('backup_run')
        .selectAll()
        .where('kind', '=', 'backup')
        .where('state', '=', 'waiting')
        // One that waits for longer than any waits was put off by a clock that was wrong.
        .where((where) =>
          where.or([
            where('next_attempt_ms', '<=', nowMs),
            where('next_attempt_ms', '>', nowMs + backupLimits.retryMostMs + clockDifferenceMs),
          ]),
        )
        .orderBy('next_attempt_ms')
        .orderBy('id')
        .executeTakeFirst()
    );
  }

  /** Backups that whoever had the lease before began and did not end. */
  async interrupted(): Promise<RunRow[]> {
    return this.#store.db
      .selectFrom('backup_run')
      .selectAll()
      .where('kind', '=', 'backup')
      .where('state', '=', 'running')
      .execute();
  }

  /**
   * What is not a backup runs in the process that was asked, an agent's or a command's; when that has
   * ended, nobody says so.
   * @param startedBeforeMs what began before that lives nowhere any more
   */
  async endAbandoned(startedBeforeMs: number): Promise<void> {
    const rows = await this.#store.db
      .selectFrom('backup_run')
      .select(['id', 'asked', 'started_at_ms'])
      .where('kind', '!=', 'backup')
      .where('state', '=', 'running')
      .execute();
    const ids = rows
      .filter((row) => {
        const { by } = JSON.parse(row.asked) as Asked;
        return row.started_at_ms < startedBeforeMs || (by !== undefined && hasEnded(by));
      })
      .map(({ id }) => id);
    if (ids.length === 0) return;
    await this.#store.write((queries) =>
      queries
        .updateTable('backup_run')
        .set({
          state: 'failed',
          problem_code: 'interrupted',
          problem_text: 'the agent ended meanwhile',
          ended_at_ms: this.#now(),
        })
        .where('id', 'in', ids)
        .where('state', '=', 'running')
        .execute(),
    );
  }

  /** Writes under the lease where there is one. @throws LeaseLost */
  async change(
    id: string,
    values: Partial<Omit<BackupRunTable, 'id' | 'result'>> & { result?: RunResult },
    lease?: Lease,
  ): Promise<void> {
    const { result, ...columns } = values;
    await this.#store.write(async (queries) => {
      await lease?.fence(queries as unknown as Parameters<Lease['fence']>[0]);
      await queries
        .updateTable('backup_run')
        .set({ ...columns, ...(result === undefined ? {} : { result: JSON.stringify(result) }) })
        .where('id', '=', id)
        .execute();
    });
  }

  async list(query: {
    limit: number;
    cursor?: string | undefined;
    kind?: BackupRunKind | undefined;
    state?: BackupRunState | undefined;
  }): Promise<{ items: BackupRun[]; nextCursor: string | null }> {
    let select = this.#store.db.selectFrom('backup_run').selectAll().orderBy('id', 'desc');
    if (query.kind !== undefined) select = select.where('kind', '=', query.kind);
    if (query.state !== undefined) select = select.where('state', '=', query.state);
    if (query.cursor !== undefined) select = select.where('id', '<', query.cursor);
    const rows = await select.limit(query.limit + 1).execute();
    const items = rows.slice(0, query.limit).map(shownRun);
    return { items, nextCursor: rows.length > query.limit ? (items.at(-1)?.id ?? null) : null };
  }

  async #forgetOld(queries: Queries<BackupSchema>): Promise<void> {
    const oldest = await queries
      .selectFrom('backup_run')
      .select('id')
      .orderBy('id', 'desc')
      .offset(backupLimits.runsKept)
      .limit(1)
      .executeTakeFirst();
    if (oldest === undefined) return;
    await queries
      .deleteFrom('backup_run')
      .where('id', '<=', oldest.id)
      .where('state', 'not in', ['waiting', 'running'])
      .execute();
  }
}

/** Of another machine nothing is known but the time. */
function hasEnded({ host, process: number, run }: Performer): boolean {
  if (host !== thisRun.host || run === thisRun.run) return false;
  return number === process.pid || !isAlive(number);
}

export function shownRun(row: RunRow): BackupRun {
  const instant = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
  return {
    id: row.id,
    kind: row.kind,
    state: row.state,
    trigger: row.trigger_kind,
    attempt: row.attempt,
    backupId: row.backup_id,
    requestedBy: row.requested_by,
    startedAt: new Date(row.started_at_ms).toISOString(),
    endedAt: instant(row.ended_at_ms),
    nextAttemptAt: row.state === 'waiting' ? instant(row.next_attempt_ms) : null,
    problem:
      row.problem_code === null
        ? null
        : { code: row.problem_code, message: row.problem_text ?? '' },
    result: row.result === null ? null : JSON.parse(row.result),
  };
}

/** Why it failed, in a word and a sentence: no value, no stack. */
export function problemOf(error: unknown): { code: string; text: string } {
  const text = (message: string) => message.slice(0, backupApiLimits.problemMaxLength);
  if (error instanceof ServiceError) {
    return { code: error.code, text: text(error.detail ?? error.code) };
  }
  if (error instanceof DestinationError || error instanceof KeyProviderError) {
    return { code: error.reason, text: text(error.message) };
  }
  if (error instanceof Corrupt) return { code: 'corrupt', text: text(error.message) };
  if (error instanceof WrongKey) return { code: 'wrong_key', text: text(error.message) };
  if (error instanceof LeaseLost) return { code: 'lease_lost', text: error.message };
  const { code, name } = (error ?? {}) as NodeJS.ErrnoException;
  if (name === 'AbortError' || name === 'TimeoutError') {
    return { code: 'stopped', text: 'it was stopped, or took too long' };
  }
  return { code: 'internal', text: code ?? 'something went wrong: the log says what' };
}
