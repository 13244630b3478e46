/**
 * What the store says of rotations, and how it is changed. Everything that a runner writes is written
 * under its lease: the check of the token is the first thing in each transaction, so that a runner which
 * was replaced changes nothing any more.
 */
import {
  type RotationPhase,
  type RotationPolicy,
  type RotationTrigger,
  type RotatorSettings,
  rotationPolicy,
  rotatorSettings,
} from '@keystead/contracts/agent-api/rotation';
import { rotationLimits } from '@keystead/contracts/agent-api/rotation-limits';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { Queries, SqlStore } from '@keystead/vault-store/sql/sql-store';
import { type Selectable, sql } from 'kysely';
import type { Lease } from '../leases/leases.ts';
import { rotatorLimits } from './rotation-limits.ts';
import { afterFailure, mendedTimes, nextDue, wakeAtMs } from './rotation-schedule.ts';
import type {
  RotationRetirementTable,
  RotationRunTable,
  RotationSchema,
  RotationTable,
} from './rotation-tables.ts';
import type { RotationFailure } from './rotator.ts';

export type RotationRow = Selectable<RotationTable>;
export type RunRow = Selectable<RotationRunTable>;
export type RetirementRow = Selectable<RotationRetirementTable>;
type RotationQueries = Queries<RotationSchema>;

/** A deleted secret is looked at after an hour, and clocks differ. */
const lookAgainMostMs = 2 * 3_600_000;

/** Failed retirements are put off by a day at most. */
const retirementSlackMs = 2 * 86_400_000;

/** The secret that a rotation is about, as it stands. */
export interface RotatedSecret {
  id: string;
  namespace: string;
  name: string;
  isDeleted: boolean;
  currentVersion: number;
  accessCount: number;
}

export interface Problem {
  step: string;
  failure: RotationFailure;
}

export function policyOf(row: Pick<RotationRow, 'policy'>): RotationPolicy {
  return rotationPolicy.parse(JSON.parse(row.policy));
}

export function settingsOf(run: Pick<RunRow, 'settings'>): RotatorSettings {
  return rotatorSettings.parse(JSON.parse(run.settings));
}

/** Everything of the row that decides when it is looked at; writes it together with that. */
export async function writeRotation(
  queries: RotationQueries,
  row: RotationRow,
  values: Partial<Omit<RotationRow, 'secret_id' | 'wake_at_ms'>>,
): Promise<RotationRow> {
  const changed = { ...row, ...values };
  const wake =
    changed.open_run_id === null
      ? wakeAtMs({
          isPaused: changed.is_paused === 1,
          requestedAtMs: changed.requested_at_ms,
          retryAtMs: changed.retry_at_ms,
          nextDueMs: changed.next_due_ms,
          noticeSeconds: policyOf(changed).noticeSeconds,
          noticedDueMs: changed.noticed_due_ms,
        })
      : // Whoever finds one under way that is not its own resumes it, at once or when it is to be retried.
        (changed.retry_at_ms ?? 0);
  await queries
    .updateTable('rotation')
    .set({ ...values, wake_at_ms: wake })
    .where('secret_id', '=', row.secret_id)
    .execute();
  return { ...changed, wake_at_ms: wake };
}

/** The row, locked where the database has locks. */
export async function lockRotation(
  store: Pick<SqlStore<RotationSchema>, 'kind'>,
  queries: RotationQueries,
  secretId: string,
): Promise<RotationRow | undefined> {
  let query = queries.selectFrom('rotation').selectAll().where('secret_id', '=', secretId);
  if (store.kind !== 'sqlite') query = query.forUpdate();
  return query.executeTakeFirst();
}

export async function findRotatedSecret(
  queries: RotationQueries,
  secretId: string,
): Promise<RotatedSecret | undefined> {
  const row = await queries
    .selectFrom('secret')
    .innerJoin('namespace', 'namespace.id', 'secret.namespace_id')
    .leftJoin('secret_access', 'secret_access.secret_id', 'secret.id')
    .select([
      'secret.id',
      'secret.name',
      'secret.is_deleted',
      'secret.current_version',
      'namespace.name as namespace',
      'secret_access.access_count',
    ])
    .where('secret.id', '=', secretId)
    .executeTakeFirst();
  if (row === undefined) return undefined;
  return {
    id: row.id,
    namespace: row.namespace,
    name: row.name,
    isDeleted: row.is_deleted === 1,
    currentVersion: row.current_version,
    accessCount: row.access_count ?? 0,
  };
}

export class RotationJournal {
  readonly #store: SqlStore<RotationSchema>;
  readonly #lease: Lease;
  readonly #now: () => number;
  readonly #random: () => number;

  constructor(options: {
    store: SqlStore<RotationSchema>;
    lease: Lease;
    now: () => number;
    /** From 0 to 1. */
    random: () => number;
  }) {
    this.#store = options.store;
    this.#lease = options.lease;
    this.#now = options.now;
    this.#random = options.random;
  }

  /** The rows to be looked at now, the longest waiting first. */
  due(): Promise<RotationRow[]> {
    return this.#store.db
      .selectFrom('rotation')
      .selectAll()
      .where('wake_at_ms', '<=', this.#now())
      .orderBy('wake_at_ms')
      .limit(rotatorLimits.dueBatch)
      .execute();
  }

  /** Rows whose secret was read as often as their policy allows. */
  used(): Promise<RotationRow[]> {
    return this.#store.db
      .selectFrom('rotation')
      .innerJoin('secret_access', 'secret_access.secret_id', 'rotation.secret_id')
      .selectAll('rotation')
      .where('uses_max', 'is not', null)
      .where('is_paused', '=', 0)
      .where('open_run_id', 'is', null)
      .where('requested_at_ms', 'is', null)
      .where('retry_at_ms', 'is', null)
      .where(sql<boolean>`secret_access.access_count >= rotation.uses_base + rotation.uses_max`)
      .limit(rotatorLimits.dueBatch)
      .execute();
  }

  retirementsDue(): Promise<RetirementRow[]> {
    return this.#store.db
      .selectFrom('rotation_retirement')
      .selectAll()
      .where('due_at_ms', '<=', this.#now())
      .orderBy('due_at_ms')
      .limit(rotatorLimits.dueBatch)
      .execute();
  }

  /**
   * Looks at some rotations whether a clock that was wrong has put them off, and whether their secret is
   * still there, the next ones each time.
   * @returns after which to go on: empty at the end
   */
  async mend(after: string): Promise<string> {
    const nowMs = this.#now();
    const rows = await this.#store.db
      .selectFrom('rotation')
      .leftJoin('secret', 'secret.id', 'rotation.secret_id')
      .selectAll('rotation')
      .select('secret.id as found')
      .where('rotation.secret_id', '>', after)
      .orderBy('rotation.secret_id')
      .limit(rotatorLimits.dueBatch)
      .execute();
    for (const { found, ...row } of rows) {
      // Without a time of its own nothing else would wake it.
      if (found === null) await this.forget(row.secret_id);
      if (timesMended(row, nowMs) === undefined) continue;
      await this.write(async (queries) => {
        const locked = await lockRotation(this.#store, queries, row.secret_id);
        const values = locked && timesMended(locked, nowMs);
        if (locked !== undefined && values !== undefined) {
          await writeRotation(queries, locked, values);
        }
      });
    }
    const mostMs = nowMs + rotationLimits.overlapMaxSeconds * 1_000 + retirementSlackMs;
    for (const row of await this.#store.db
      .selectFrom('rotation_retirement')
      .selectAll()
      .where('due_at_ms', '>', mostMs)
      .limit(rotatorLimits.dueBatch)
      .execute()) {
      await this.postponeRetirement(row, nowMs, false);
    }
    return rows.length < rotatorLimits.dueBatch ? '' : (rows.at(-1)?.secret_id ?? '');
  }

  /** Ended runs that nobody was told of, perhaps because the runner ended in between. */
  unreported(): Promise<RunRow[]> {
    return this.#store.db
      .selectFrom('rotation_run')
      .selectAll()
      .where('is_reported', '=', 0)
      .where('ended_at_ms', 'is not', null)
      .orderBy('id')
      .limit(rotatorLimits.dueBatch)
      .execute();
  }

  find(secretId: string): Promise<RotationRow | undefined> {
    return this.#store.db
      .selectFrom('rotation')
      .selectAll()
      .where('secret_id', '=', secretId)
      .executeTakeFirst();
  }

  run(id: string): Promise<RunRow | undefined> {
    return this.#store.db
      .selectFrom('rotation_run')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
  }

  secret(secretId: string): Promise<RotatedSecret | undefined> {
    return findRotatedSecret(this.#store.db, secretId);
  }

  /** A transaction under the lease. @throws LeaseLost */
  write<T>(work: (queries: RotationQueries) => Promise<T>): Promise<T> {
    return this.#store.write(async (queries) => {
      await this.#lease.fence(queries);
      return work(queries);
    });
  }

  /** For a transaction that somebody else began. @throws LeaseLost */
  async fence(queries: RotationQueries): Promise<void> {
    await this.#lease.fence(queries);
  }

  /** Begins a run, unless one is under way or the rotation is gone. */
  begin(
    secret: RotatedSecret,
    trigger: RotationTrigger,
    attempt: number,
  ): Promise<RunRow | undefined> {
    const nowMs = this.#now();
    const id = toId('rotation', newUuid(nowMs));
    return this.write(async (queries) => {
      const row = await lockRotation(this.#store, queries, secret.id);
      if (row === undefined || row.open_run_id !== null) return undefined;
      const run: RunRow = {
        id,
        secret_id: secret.id,
        settings: JSON.stringify(policyOf(row).rotator),
        trigger_kind: trigger,
        attempt,
        phase: 'creating',
        outcome: null,
        old_version: secret.currentVersion,
        new_version: null,
        problem_step: null,
        problem_code: null,
        problem_text: null,
        rollbacks: 0,
        requested_by: trigger === 'request' ? row.requested_by : null,
        has_given_up: 0,
        is_reported: 0,
        started_at_ms: nowMs,
        ended_at_ms: null,
      };
      await queries.insertInto('rotation_run').values(run).execute();
      await writeRotation(queries, row, {
        open_run_id: id,
        requested_at_ms: null,
        requested_by: null,
        retry_at_ms: null,
      });
      return run;
    });
  }

  enter(run: RunRow, phase: RotationPhase, problem?: Problem): Promise<RunRow> {
    return this.write((queries) => this.enterIn(queries, run, { phase, ...problemOf(problem) }));
  }

  async enterIn(queries: RotationQueries, run: RunRow, values: Partial<RunRow>): Promise<RunRow> {
    await queries.updateTable('rotation_run').set(values).where('id', '=', run.id).execute();
    return { ...run, ...values };
  }

  /** The end of a run that succeeded: the next one is planned, the version before is to be retired. */
  async succeedIn(queries: RotationQueries, run: RunRow, secret: RotatedSecret): Promise<RunRow> {
    const nowMs = this.#now();
    const row = await lockRotation(this.#store, queries, run.secret_id);
    const ended = await this.#endIn(queries, run, { outcome: 'succeeded' });
    if (row === undefined) return ended;
    const policy = policyOf(row);
    await writeRotation(queries, row, {
      open_run_id: null,
      failures: 0,
      has_given_up: 0,
      retry_at_ms: null,
      retry_trigger: null,
      last_rotated_ms: nowMs,
      next_due_ms: nextDue(policy, nowMs)?.atMs ?? null,
      noticed_due_ms: null,
      uses_base: secret.accessCount,
    });
    // Also what somebody wrote meanwhile, where it did not work.
    for (const version of new Set([run.old_version, secret.currentVersion])) {
      if (version === run.new_version) continue;
      await queries
        .deleteFrom('rotation_retirement')
        .where('secret_id', '=', run.secret_id)
        .where('version', '=', version)
        .execute();
      await queries
        .insertInto('rotation_retirement')
        .values({
          secret_id: run.secret_id,
          version,
          due_at_ms: nowMs + policy.overlapSeconds * 1_000,
          failures: 0,
        })
        .execute();
    }
    await this.#retireTooMany(queries, run.secret_id);
    return ended;
  }

  /** Who rotates often and keeps the versions before for long has some of them retired sooner. */
  async #retireTooMany(queries: RotationQueries, secretId: string): Promise<void> {
    const waiting = await queries
      .selectFrom('rotation_retirement')
      .select('version')
      .where('secret_id', '=', secretId)
      .where('due_at_ms', '>', this.#now())
      .orderBy('version', 'desc')
      .execute();
    const tooMany = waiting.slice(rotatorLimits.retiringPerSecret).map(({ version }) => version);
    if (tooMany.length === 0) return;
    await queries
      .updateTable('rotation_retirement')
      .set({ due_at_ms: this.#now() })
      .where('secret_id', '=', secretId)
      .where('version', 'in', tooMany)
      .execute();
  }

  /** The end of a run without a new value in force: another attempt is planned, or none. */
  async failIn(
    queries: RotationQueries,
    run: RunRow,
    secret: RotatedSecret | undefined,
    outcome: 'failed' | 'overtaken',
  ): Promise<RunRow> {
    const nowMs = this.#now();
    const row = await lockRotation(this.#store, queries, run.secret_id);
    if (row === undefined) return this.#endIn(queries, run, { outcome });
    const policy = policyOf(row);
    // Somebody's own value is as good as a rotated one.
    const next =
      outcome === 'overtaken'
        ? { isDone: true as const }
        : afterFailure(policy.retry, run.attempt, nowMs, this.#random());
    const willRetry = 'retryAtMs' in next;
    const hasGivenUp = 'gaveUp' in next;
    await writeRotation(queries, row, {
      open_run_id: null,
      failures: willRetry ? run.attempt : 0,
      has_given_up: hasGivenUp ? 1 : 0,
      retry_at_ms: willRetry ? next.retryAtMs : null,
      retry_trigger: willRetry ? run.trigger_kind : null,
      ...(willRetry
        ? {}
        : {
            next_due_ms: nextDue(policy, nowMs)?.atMs ?? null,
            noticed_due_ms: null,
            uses_base: secret?.accessCount ?? row.uses_base,
          }),
      ...(outcome === 'overtaken' ? { last_rotated_ms: nowMs } : {}),
    });
    return this.#endIn(queries, run, { outcome, has_given_up: hasGivenUp ? 1 : 0 });
  }

  /** Rolling back failed: both values are kept until it is known which one works. */
  async postponeRollback(run: RunRow, delayMs: number, problem: Problem): Promise<RunRow> {
    return this.write(async (queries) => {
      const row = await lockRotation(this.#store, queries, run.secret_id);
      const changed = await this.enterIn(queries, run, {
        rollbacks: run.rollbacks + 1,
        ...problemOf(problem),
      });
      if (row !== undefined) {
        await writeRotation(queries, row, { retry_at_ms: this.#now() + delayMs });
      }
      return changed;
    });
  }

  async #endIn(queries: RotationQueries, run: RunRow, values: Partial<RunRow>): Promise<RunRow> {
    const ended = await this.enterIn(queries, run, {
      ...values,
      phase: null,
      ended_at_ms: this.#now(),
    });
    const oldest = await queries
      .selectFrom('rotation_run')
      .select('id')
      .where('secret_id', '=', run.secret_id)
      .orderBy('id', 'desc')
      .offset(rotatorLimits.historyPerSecret)
      .limit(1)
      .executeTakeFirst();
    if (oldest !== undefined) {
      await queries
        .deleteFrom('rotation_run')
        .where('secret_id', '=', run.secret_id)
        .where('id', '<=', oldest.id)
        .execute();
    }
    return ended;
  }

  async reported(run: RunRow): Promise<void> {
    await this.write((queries) => this.enterIn(queries, run, { is_reported: 1 }));
  }

  async noticed(row: RotationRow): Promise<void> {
    await this.write(async (queries) => {
      const locked = await lockRotation(this.#store, queries, row.secret_id);
      if (locked === undefined) return;
      await writeRotation(queries, locked, { noticed_due_ms: row.next_due_ms });
    });
  }

  /** The secret cannot be rotated at the moment: looked at again later. */
  async lookAgain(row: RotationRow, atMs: number): Promise<void> {
    await this.write((queries) =>
      queries
        .updateTable('rotation')
        .set({ wake_at_ms: atMs })
        .where('secret_id', '=', row.secret_id)
        .execute(),
    );
  }

  /** The secret is gone for good, and its rotation with it. */
  async forget(secretId: string): Promise<void> {
    await this.write((queries) => forgetIn(queries, secretId));
  }

  async retiredIn(queries: RotationQueries, row: RetirementRow): Promise<void> {
    await queries
      .deleteFrom('rotation_retirement')
      .where('secret_id', '=', row.secret_id)
      .where('version', '=', row.version)
      .execute();
  }

  async postponeRetirement(row: RetirementRow, atMs: number, hasFailed: boolean): Promise<void> {
    await this.write((queries) =>
      queries
        .updateTable('rotation_retirement')
        .set({ due_at_ms: atMs, failures: row.failures + (hasFailed ? 1 : 0) })
        .where('secret_id', '=', row.secret_id)
        .where('version', '=', row.version)
        .execute(),
    );
  }
}

export async function forgetIn(queries: RotationQueries, secretId: string): Promise<void> {
  for (const table of ['rotation', 'rotation_run', 'rotation_retirement'] as const) {
    await queries.deleteFrom(table).where('secret_id', '=', secretId).execute();
  }
}

function timesMended(row: RotationRow, nowMs: number) {
  const mended = mendedTimes(
    {
      requestedAtMs: row.requested_at_ms,
      retryAtMs: row.retry_at_ms,
      nextDueMs: row.next_due_ms,
      lastRotatedMs: row.last_rotated_ms,
    },
    policyOf(row),
    nowMs,
  );
  if (mended !== undefined) {
    return {
      requested_at_ms: mended.requestedAtMs,
      retry_at_ms: mended.retryAtMs,
      next_due_ms: mended.nextDueMs,
      last_rotated_ms: mended.lastRotatedMs,
      noticed_due_ms: null,
    };
  }
  // What was to be looked at again in a moment is not looked at in ten years.
  const latestMs = Math.max(nowMs + lookAgainMostMs, row.next_due_ms ?? 0, row.retry_at_ms ?? 0);
  return (row.wake_at_ms ?? 0) > latestMs ? {} : undefined;
}

function problemOf(problem: Problem | undefined): Partial<RunRow> {
  if (problem === undefined) return {};
  return {
    problem_step: problem.step,
    problem_code: problem.failure.code,
    problem_text: problem.failure.message,
  };
}
