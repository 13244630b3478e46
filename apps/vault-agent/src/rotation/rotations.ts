/**
 * When and how secrets are rotated, as the API sees and sets it. The runner does the rotating; a request
 * is a row that it finds.
 */
import type { AgentInput } from '@keystead/contracts/agent-api/operation';
import type {
  listRotationHistory,
  listRotations,
  Rotation,
  RotationPolicy,
  RotationRun,
  RotationState,
} from '@keystead/contracts/agent-api/rotation';
import { ServiceError } from '@keystead/contracts/errors';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import { sql } from 'kysely';
import type { Caller } from '../access/caller.ts';
import { identityText } from '../namespaces/namespace-change.ts';
import type { NamespaceDirectory } from '../namespaces/namespace-directory.ts';
import { listedFactsOf, noSuchSecret, requireEtag } from '../secrets/secret-rows.ts';
import type { AgentStore } from '../store/agent-store.ts';
import type { AgentSchema } from '../store/agent-tables.ts';
import { type Page, type Sees, visiblePage } from '../store/visible-page.ts';
import {
  forgetIn,
  lockRotation,
  policyOf,
  type RotationRow,
  type RunRow,
  writeRotation,
} from './rotation-journal.ts';
import { nextDue, problemOfSchedule } from './rotation-schedule.ts';
import type { RotationSchema } from './rotation-tables.ts';
import { problemOfRotator, type RotatorPermissions } from './rotators/rotators.ts';

export interface RotationsOptions {
  store: AgentStore;
  directory: NamespaceDirectory;
  allowed: () => RotatorPermissions;
  /** Wakes the runner, where it is in this process. */
  poke: () => void;
  now?: () => number;
}

type RotationQueries = Queries<RotationSchema>;
const waitStepMs = 50;

interface Target {
  id: string;
  namespace: string;
  name: string;
  isDeleted: boolean;
  accessCount: number;
}

export class Rotations {
  readonly #options: RotationsOptions;
  readonly #now: () => number;

  /** Of a rotation that is set without a word about when; undefined: then it is done when asked for. */
  intervalDefaultSeconds: number | undefined;

  constructor(options: RotationsOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** @throws ServiceError `not_found` */
  async get(namespace: string, name: string): Promise<Rotation> {
    const target = await this.#target(namespace, name);
    return this.#read(async (queries) => shown(queries, target, await find(queries, target)));
  }

  /** @throws ServiceError `unprocessable` with what is wrong, `gone`, `precondition_failed` */
  async set(
    namespace: string,
    name: string,
    given: RotationPolicy,
    ifMatch: string | null = null,
  ): Promise<Rotation> {
    const hasTime =
      given.everySeconds !== null || given.schedule !== null || given.afterUses !== null;
    const policy = hasTime
      ? given
      : { ...given, everySeconds: this.intervalDefaultSeconds ?? null };
    const problem =
      problemOfSchedule(policy.schedule) ??
      problemOfRotator(policy.rotator, this.#options.allowed());
    if (problem !== undefined) throw new ServiceError('unprocessable', { detail: problem });
    const target = await this.#target(namespace, name);
    if (target.isDeleted) {
      throw new ServiceError('gone', { detail: `The secret ${name} is deleted` });
    }
    const nowMs = this.#now();
    const rotation = await this.#write(async (queries) => {
      const known = await lockRotation(this.#options.store, queries, target.id);
      requireEtag(known === undefined ? '0' : String(known.revision), ifMatch);
      const row = known ?? (await insertRotation(queries, target, policy, nowMs));
      const changed = await writeRotation(queries, row, {
        policy: JSON.stringify(policy),
        is_paused: policy.paused ? 1 : 0,
        next_due_ms: nextDue(policy, row.last_rotated_ms ?? nowMs)?.atMs ?? null,
        noticed_due_ms: null,
        uses_max: policy.afterUses,
        revision: row.revision + 1,
        updated_at_ms: nowMs,
        // Other settings, other luck.
        ...(row.open_run_id === null
          ? { failures: 0, has_given_up: 0, retry_at_ms: null, retry_trigger: null }
          : {}),
      });
      return shown(queries, target, changed);
    });
    this.#options.poke();
    return rotation;
  }

  async pause(
    namespace: string,
    name: string,
    paused: boolean,
    ifMatch: string | null = null,
  ): Promise<Rotation> {
    const target = await this.#target(namespace, name);
    const rotation = await this.#write(async (queries) => {
      const row = await this.#locked(queries, target);
      requireEtag(String(row.revision), ifMatch);
      const changed = await writeRotation(queries, row, {
        policy: JSON.stringify({ ...policyOf(row), paused }),
        is_paused: paused ? 1 : 0,
        revision: row.revision + 1,
        updated_at_ms: this.#now(),
      });
      return shown(queries, target, changed);
    });
    this.#options.poke();
    return rotation;
  }

  /** @throws ServiceError `conflict` while one is under way: its value may be the one in force */
  async remove(namespace: string, name: string, ifMatch: string | null = null): Promise<void> {
    const target = await this.#target(namespace, name);
    await this.#write(async (queries) => {
      const row = await this.#locked(queries, target);
      requireEtag(String(row.revision), ifMatch);
      if (row.open_run_id !== null) {
        throw new ServiceError('conflict', {
          detail: 'A rotation is under way; pause it, and remove it when it has ended',
        });
      }
      await forgetIn(queries, target.id);
    });
  }

  /** Asks for a rotation now, also of a paused one, and waits for the end of its first attempt if told to. */
  async rotateNow(caller: Caller, namespace: string, name: string, waitMs = 0): Promise<Rotation> {
    const target = await this.#target(namespace, name);
    if (target.isDeleted) {
      throw new ServiceError('gone', { detail: `The secret ${name} is deleted` });
    }
    const before = await this.#write(async (queries) => {
      const row = await this.#locked(queries, target);
      const last = await lastRun(queries, target.id);
      // One under way is as good; asking twice is asking once.
      if (row.open_run_id === null && row.requested_at_ms === null) {
        await writeRotation(queries, row, {
          requested_at_ms: this.#now(),
          requested_by: identityText(caller.identity),
        });
      }
      return row.open_run_id === null ? last?.id : undefined;
    });
    this.#options.poke();
    const deadline = performance.now() + waitMs;
    for (;;) {
      const rotation = await this.get(namespace, name);
      const { lastRun: run } = rotation;
      const hasEnded = run !== null && run.id !== before && run.outcome !== null;
      if ((hasEnded && rotation.state !== 'requested') || performance.now() >= deadline) {
        return rotation;
      }
      await new Promise((resolve) => setTimeout(resolve, waitStepMs));
    }
  }

  /** The newest first. The cursor is the last id of the page before. */
  async history(
    namespace: string,
    name: string,
    query: AgentInput<typeof listRotationHistory>['query'],
  ): Promise<{ items: RotationRun[]; nextCursor: string | null }> {
    const target = await this.#target(namespace, name);
    const rows = await this.#read((queries) => {
      let select = queries
        .selectFrom('rotation_run')
        .selectAll()
        .where('secret_id', '=', target.id);
      if (query.cursor !== undefined) select = select.where('id', '<', query.cursor);
      if (query.outcome !== undefined) select = select.where('outcome', '=', query.outcome);
      return select
        .orderBy('id', 'desc')
        .limit(query.limit + 1)
        .execute();
    });
    const page = rows.slice(0, query.limit);
    return {
      items: page.map(shownRun),
      nextCursor: rows.length > query.limit ? (page.at(-1)?.id ?? null) : null,
    };
  }

  /**
   * Of what the caller sees, the next due first, then those that no time is set for. The cursor is the
   * due time and the id of the last secret.
   */
  async list(
    query: AgentInput<typeof listRotations>['query'],
    sees?: Sees,
  ): Promise<Page<Rotation>> {
    const namespaceId =
      query.namespace === undefined
        ? undefined
        : (await this.#options.directory.find(query.namespace)).id;
    const { items, nextCursor } = await visiblePage(
      query,
      (after, count) =>
        this.#read((queries) =>
          listed(queries, query, namespaceId, after === undefined ? undefined : parseCursor(after))
            .limit(count)
            .execute(),
        ),
      (row) => `${row.next_due_ms ?? never}.${row.secret_id}`,
      sees &&
        ((row) =>
          sees({
            namespace: row.namespace_name,
            secret: row.secret_name,
            facts: () => listedFactsOf(row),
          })),
    );
    return {
      items: await this.#read((queries) =>
        Promise.all(
          items.map((row) =>
            shown(
              queries,
              {
                id: row.secret_id,
                namespace: row.namespace_name,
                name: row.secret_name,
                isDeleted: false,
                accessCount: row.access_count ?? 0,
              },
              row,
            ),
          ),
        ),
      ),
      nextCursor,
    };
  }

  #read<T>(work: (queries: RotationQueries) => Promise<T>): Promise<T> {
    return this.#options.store.read((queries) => work(queries as unknown as RotationQueries));
  }

  #write<T>(work: (queries: RotationQueries) => Promise<T>): Promise<T> {
    return this.#options.store.write((queries) => work(queries as unknown as RotationQueries));
  }

  async #locked(queries: RotationQueries, target: Target): Promise<RotationRow> {
    const row = await lockRotation(this.#options.store, queries, target.id);
    if (row === undefined) throw noRotation(target.name);
    return row;
  }

  async #target(namespace: string, name: string): Promise<Target> {
    const known = await this.#options.directory.find(namespace);
    const row = await this.#options.store.read((queries: Queries<AgentSchema>) =>
      queries
        .selectFrom('secret')
        .leftJoin('secret_access', 'secret_access.secret_id', 'secret.id')
        .select(['secret.id', 'secret.is_deleted', 'secret_access.access_count'])
        .where('secret.namespace_id', '=', known.id)
        .where('secret.name', '=', name)
        .executeTakeFirst(),
    );
    if (row === undefined) throw noSuchSecret(namespace, name);
    return {
      id: row.id,
      namespace,
      name,
      isDeleted: row.is_deleted === 1,
      accessCount: row.access_count ?? 0,
    };
  }
}

/** After every time that there is. */
const never = 8_640_000_000_000_000;

function listed(
  queries: RotationQueries,
  query: AgentInput<typeof listRotations>['query'],
  namespaceId: string | undefined,
  after: { dueMs: number; secretId: string } | undefined,
) {
  let select = queries
    .selectFrom('rotation')
    .innerJoin('secret', 'secret.id', 'rotation.secret_id')
    .innerJoin('namespace', 'namespace.id', 'secret.namespace_id')
    .leftJoin('secret_access', 'secret_access.secret_id', 'secret.id')
    .selectAll('rotation')
    .select([
      'secret.name as secret_name',
      'secret.tags',
      'secret.metadata',
      'namespace.name as namespace_name',
      'secret_access.access_count',
    ])
    // One time for those without one, so that there is one order for all.
    .select((row) => row.fn.coalesce('next_due_ms', row.val(never)).as('due_ms'))
    .where('secret.is_deleted', '=', 0);
  if (namespaceId !== undefined) {
    select = select.where('rotation.namespace_id', '=', namespaceId);
  }
  if (query.dueBefore !== undefined) {
    select = select.where('next_due_ms', '<', Date.parse(query.dueBefore));
  }
  if (query.state !== undefined) select = select.where(stateCondition(query.state));
  if (after !== undefined) {
    select = select.where((row) => {
      const due = row.fn.coalesce('next_due_ms', row.val(never));
      return row.or([
        row(due, '>', after.dueMs),
        row.and([row(due, '=', after.dueMs), row('rotation.secret_id', '>', after.secretId)]),
      ]);
    });
  }
  return select.orderBy('due_ms').orderBy('rotation.secret_id');
}

function parseCursor(text: string): { dueMs: number; secretId: string } {
  const match = /^(\d{1,16})\.(sec_[0-9a-z]{26})$/.exec(text);
  if (match === null) throw new ServiceError('invalid_cursor');
  return { dueMs: Number(match[1]), secretId: match[2] ?? '' };
}

async function find(queries: RotationQueries, target: Target): Promise<RotationRow> {
  const row = await queries
    .selectFrom('rotation')
    .selectAll()
    .where('secret_id', '=', target.id)
    .executeTakeFirst();
  if (row === undefined) throw noRotation(target.name);
  return row;
}

function noRotation(name: string): ServiceError {
  return new ServiceError('not_found', {
    detail: `The secret ${name} has no rotation; set one with PUT …/rotation`,
  });
}

async function insertRotation(
  queries: RotationQueries,
  target: Target,
  policy: RotationPolicy,
  nowMs: number,
): Promise<RotationRow> {
  const { namespace_id } = await queries
    .selectFrom('secret')
    .select('namespace_id')
    .where('id', '=', target.id)
    .executeTakeFirstOrThrow();
  const row: RotationRow = {
    secret_id: target.id,
    namespace_id,
    policy: JSON.stringify(policy),
    is_paused: 0,
    wake_at_ms: null,
    next_due_ms: null,
    noticed_due_ms: null,
    requested_at_ms: null,
    requested_by: null,
    retry_at_ms: null,
    retry_trigger: null,
    failures: 0,
    has_given_up: 0,
    last_rotated_ms: null,
    uses_max: null,
    uses_base: target.accessCount,
    open_run_id: null,
    revision: 0,
    created_at_ms: nowMs,
    updated_at_ms: nowMs,
  };
  await queries.insertInto('rotation').values(row).execute();
  return row;
}

function lastRun(queries: RotationQueries, secretId: string): Promise<RunRow | undefined> {
  return queries
    .selectFrom('rotation_run')
    .selectAll()
    .where('secret_id', '=', secretId)
    .orderBy('id', 'desc')
    .limit(1)
    .executeTakeFirst();
}

async function shown(
  queries: RotationQueries,
  target: Target,
  row: RotationRow,
): Promise<Rotation> {
  const run = await lastRun(queries, target.id);
  const retiring = await queries
    .selectFrom('rotation_retirement')
    .select(['version', 'due_at_ms'])
    .where('secret_id', '=', target.id)
    .orderBy('version')
    .execute();
  return {
    namespace: target.namespace,
    secret: target.name,
    policy: policyOf(row),
    state: stateOf(row),
    nextDueAt: row.is_paused === 1 ? null : instant(row.next_due_ms),
    retryAt: instant(row.retry_at_ms),
    lastRotatedAt: instant(row.last_rotated_ms),
    usesSinceRotation: Math.max(0, target.accessCount - row.uses_base),
    lastRun: run === undefined ? null : shownRun(run),
    retiring: retiring.map(({ version, due_at_ms }) => ({
      version,
      at: new Date(due_at_ms).toISOString(),
    })),
    createdAt: new Date(row.created_at_ms).toISOString(),
    updatedAt: new Date(row.updated_at_ms).toISOString(),
    etag: String(row.revision),
  };
}

function stateOf(row: RotationRow): RotationState {
  if (row.open_run_id !== null) return 'running';
  if (row.requested_at_ms !== null) return 'requested';
  if (row.is_paused === 1) return 'paused';
  if (row.retry_at_ms !== null) return 'retrying';
  return row.has_given_up === 1 ? 'gave-up' : 'scheduled';
}

/** As {@link stateOf}, for the database. */
function stateCondition(state: RotationState) {
  const open = sql<boolean>`open_run_id is not null`;
  const requested = sql<boolean>`open_run_id is null and requested_at_ms is not null`;
  const idle = sql`open_run_id is null and requested_at_ms is null`;
  switch (state) {
    case 'running':
      return open;
    case 'requested':
      return requested;
    case 'paused':
      return sql<boolean>`${idle} and is_paused = 1`;
    case 'retrying':
      return sql<boolean>`${idle} and is_paused = 0 and retry_at_ms is not null`;
    case 'gave-up':
      return sql<boolean>`${idle} and is_paused = 0 and retry_at_ms is null and has_given_up = 1`;
    case 'scheduled':
      return sql<boolean>`${idle} and is_paused = 0 and retry_at_ms is null and has_given_up = 0`;
  }
}

function shownRun(run: RunRow): RotationRun {
  return {
    id: run.id,
    trigger: run.trigger_kind,
    attempt: run.attempt,
    outcome: run.outcome,
    phase: run.phase,
    oldVersion: run.old_version,
    newVersion: run.new_version,
    problem:
      run.problem_code === null
        ? null
        : {
            step: run.problem_step ?? '',
            code: run.problem_code,
            message: run.problem_text ?? '',
          },
    requestedBy: run.requested_by,
    startedAt: new Date(run.started_at_ms).toISOString(),
    endedAt: instant(run.ended_at_ms),
  };
}

function instant(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}
