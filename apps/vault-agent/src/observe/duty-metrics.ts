/**
 * How the duties of the vault stand, for the metrics (R10.4): backups and rotations, from the store that all
 * its agents share. Each of them tells the same. Names no secret.
 */
import type { BackupRun } from '@keystead/contracts/agent-api/backup';
import type { SqlStore } from '@keystead/vault-store/sql/sql-store';
import { sql } from 'kysely';
import { Gauge, type Registry } from 'prom-client';
import { clockDifferenceMs, nextScheduled } from '../backup/backup-schedule.ts';
import type { BackupSchema } from '../backup/backup-tables.ts';
import type { RotationSchema } from '../rotation/rotation-tables.ts';
import { metricsLimits as limits } from './metrics-limits.ts';

export interface DutySources {
  store: SqlStore<BackupSchema & RotationSchema>;
  /** Cron; undefined where backups are made on demand alone. */
  schedule: string | undefined;
  now: () => number;
}

/** Times in ms; 0 for never. */
interface Duties {
  backupSucceededMs: number;
  backupFailedMs: number;
  backupFailedAttempts: number;
  backupBytes: number;
  backupDueMs: number;
  running: Map<string, number>;
  rotations: number;
  rotationsDue: number;
  rotationsOverdue: number;
  rotationsFailed: number;
  rotationsRunning: number;
}

const nothing: Duties = {
  backupSucceededMs: 0,
  backupFailedMs: 0,
  backupFailedAttempts: 0,
  backupBytes: 0,
  backupDueMs: 0,
  running: new Map(),
  rotations: 0,
  rotationsDue: 0,
  rotationsOverdue: 0,
  rotationsFailed: 0,
  rotationsRunning: 0,
};

const runKinds = ['backup', 'verify', 'restore', 'drill'] as const;

export function addDutyMetrics(registry: Registry, sources: DutySources): void {
  const duties = new KnownDuties(sources);
  const gauge = (name: string, help: string, read: (known: Duties) => number) => {
    new Gauge({
      name,
      help,
      registers: [registry],
      async collect() {
        this.set(read(await duties.known()));
      },
    });
  };
  gauge(
    'vault_backup_last_success_timestamp_seconds',
    'When the last backup was made; 0: never',
    ({ backupSucceededMs }) => backupSucceededMs / 1_000,
  );
  gauge(
    'vault_backup_last_failure_timestamp_seconds',
    'When a backup was last given up; 0: never',
    ({ backupFailedMs }) => backupFailedMs / 1_000,
  );
  gauge(
    'vault_backup_failed_attempts',
    'Attempts that failed of a backup that is tried again',
    ({ backupFailedAttempts }) => backupFailedAttempts,
  );
  gauge('vault_backup_last_bytes', 'Size of the last backup', ({ backupBytes }) => backupBytes);
  gauge(
    'vault_backup_next_due_timestamp_seconds',
    'When the schedule wants the next backup, in the past where it is late; 0: no schedule',
    ({ backupDueMs }) => backupDueMs / 1_000,
  );
  new Gauge({
    name: 'vault_backup_running',
    help: 'Backups, verifications, restores and drills under way',
    labelNames: ['kind'],
    registers: [registry],
    async collect() {
      const { running } = await duties.known();
      for (const kind of runKinds) this.set({ kind }, running.get(kind) ?? 0);
    },
  });
  gauge('vault_rotations', 'Secrets that are rotated', ({ rotations }) => rotations);
  gauge('vault_rotations_due', 'Rotations that are due', ({ rotationsDue }) => rotationsDue);
  gauge(
    'vault_rotations_overdue',
    'Rotations that are due for more than 15 minutes',
    ({ rotationsOverdue }) => rotationsOverdue,
  );
  gauge(
    'vault_rotations_failed',
    'Rotations whose last attempt failed, tried again or given up',
    ({ rotationsFailed }) => rotationsFailed,
  );
  gauge(
    'vault_rotations_running',
    'Rotations under way',
    ({ rotationsRunning }) => rotationsRunning,
  );
}

/** Read at most so often, by one at a time; a store that does not answer leaves what was known. */
class KnownDuties {
  readonly #sources: DutySources;
  #known = nothing;
  #readAtMs = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  constructor(sources: DutySources) {
    this.#sources = sources;
  }

  async known(): Promise<Duties> {
    if (performance.now() - this.#readAtMs >= limits.dutiesEveryMs) {
      this.#reading ??= this.#read().finally(() => {
        this.#reading = undefined;
      });
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, limits.dutiesWithinMs);
      });
      await Promise.race([this.#reading, late]);
      clearTimeout(timer);
    }
    return this.#known;
  }

  async #read(): Promise<void> {
    try {
      this.#known = await readDuties(this.#sources);
      this.#readAtMs = performance.now();
    } catch {
      // Whether the store answers has metrics and notices of its own.
    }
  }
}

async function readDuties({ store, schedule, now }: DutySources): Promise<Duties> {
  const nowMs = now();
  const ofBackups = () => store.db.selectFrom('backup_run').where('kind', '=', 'backup');
  const succeeded = await ofBackups()
    .where('state', '=', 'succeeded')
    .select(['ended_at_ms', 'result'])
    .orderBy('id', 'desc')
    .executeTakeFirst();
  const gaveUp = await ofBackups()
    .where('state', '=', 'gave-up')
    .select((row) => row.fn.max('ended_at_ms').as('atMs'))
    .executeTakeFirst();
  const scheduled = await store.db
    .selectFrom('backup_run')
    .select((row) => row.fn.max('scheduled_for_ms').as('atMs'))
    .where('scheduled_for_ms', '<=', nowMs + clockDifferenceMs)
    .executeTakeFirst();
  const running = await store.db
    .selectFrom('backup_run')
    .select((row) => ['kind', row.fn.countAll<number>().as('count')])
    .where('state', '=', 'running')
    .groupBy('kind')
    .execute();
  const failing = await ofBackups()
    .where('state', '=', 'waiting')
    .where('problem_code', 'is not', null)
    .select((row) => row.fn.max('attempt').as('next'))
    .executeTakeFirst();
  const due = (beforeMs: number) =>
    sql<number>`sum(case when is_paused = 0 and next_due_ms <= ${beforeMs} then 1 else 0 end)`;
  const rotations = await store.db
    .selectFrom('rotation')
    .select((row) => [
      row.fn.countAll<number>().as('all'),
      due(nowMs).as('due'),
      due(nowMs - limits.overdueAfterMs).as('overdue'),
      sql<number>`sum(case when failures > 0 or has_given_up = 1 then 1 else 0 end)`.as('failed'),
      row.fn.count<number>('open_run_id').as('running'),
    ])
    .executeTakeFirst();
  const result = JSON.parse(succeeded?.result ?? '{}') as Partial<NonNullable<BackupRun['result']>>;
  const lastMs = Number(scheduled?.atMs ?? 0);
  return {
    backupSucceededMs: succeeded?.ended_at_ms ?? 0,
    backupFailedMs: Number(gaveUp?.atMs ?? 0),
    backupFailedAttempts: Math.max(0, Number(failing?.next ?? 0) - 1),
    backupBytes: result.bytes ?? 0,
    backupDueMs:
      schedule === undefined ? 0 : (nextScheduled(schedule, lastMs === 0 ? nowMs : lastMs) ?? 0),
    running: new Map(running.map(({ kind, count }) => [kind, Number(count)])),
    rotations: Number(rotations?.all ?? 0),
    rotationsDue: Number(rotations?.due ?? 0),
    rotationsOverdue: Number(rotations?.overdue ?? 0),
    rotationsFailed: Number(rotations?.failed ?? 0),
    rotationsRunning: Number(rotations?.running ?? 0),
  };
}
