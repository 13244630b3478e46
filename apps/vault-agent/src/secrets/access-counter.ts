/**
 * Counts readings in memory and writes them to the store twice a second: no reading waits for a write, and
 * a crash loses less than a second of counts. The access log takes the newest of them along.
 *
 * On a server the counts are added to their secrets at once. On SQLite that would be work of the thread
 * that answers, so there they go into a journal first, in a row or two, and are added up twice a minute;
 * what a crash leaves in the journal is added up at the next start.
 */
import type { SqlKind } from '@keystead/vault-store/sql/sql-store';
import { CompiledQuery } from 'kysely';
import type { CallerIdentity } from '../access/caller.ts';
import { identityText } from '../namespaces/namespace-change.ts';
import type { AgentStore } from '../store/agent-store.ts';
import { accessLimits } from './access-limits.ts';

interface Count {
  namespaceId: string;
  secretId: string;
  count: number;
  lastAtMs: number;
}

type Counts = Map<string, Count>;
type JournalContent = [
  namespaceId: string,
  [secretId: string, count: number, lastAtMs: number][],
][];

interface LogEntry {
  namespaceId: string;
  operation: string;
  secretName: string;
  identity: CallerIdentity;
  atMs: number;
  durationUs: number;
}

export interface AccessCounterOptions {
  store: AgentStore;
  now?: () => number;
  onError?: (error: unknown) => void;
}

export class AccessCounter {
  readonly #store: AgentStore;
  readonly #now: () => number;
  readonly #onError: (error: unknown) => void;
  #counts: Counts = new Map();
  /** In the journal, in these of its rows. */
  #journaled: Counts = new Map();
  #journalPositions: number[] = [];
  /** Being added up; those that are, are gone from here. */
  #adding: Counts = new Map();
  #lastAddedUpAtMs: number;
  /** The newest accesses, a ring. */
  #log: LogEntry[] = [];
  #logNext = 0;
  #timer: NodeJS.Timeout | undefined;
  #flushing: Promise<void> | undefined;
  #isStopped = false;
  #flushes = 0;

  constructor(options: AccessCounterOptions) {
    this.#store = options.store;
    this.#now = options.now ?? Date.now;
    this.#onError = options.onError ?? (() => undefined);
    this.#lastAddedUpAtMs = this.#now();
  }

  /** Adds up what a killed run left, and counts from now on. */
  async start(): Promise<void> {
    await this.#addUpLeftOvers();
    const next = () => {
      if (this.#isStopped) return;
      this.#timer = setTimeout(() => {
        this.flush().catch(this.#onError).finally(next);
      }, accessLimits.flushPeriodMs);
      this.#timer.unref();
    };
    next();
  }

  /** Writes what is counted. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    await this.settle();
  }

  /** Adds everything that is counted to its secrets, so that statistics see it. */
  async settle(): Promise<void> {
    await this.flush();
    await this.#once(() => this.#addUp());
  }

  /** A reading of a value. */
  count(namespaceId: string, secretId: string, atMs: number): void {
    const known = this.#counts.get(secretId);
    if (known !== undefined) {
      known.count += 1;
      known.lastAtMs = atMs;
      return;
    }
    // While the store is away they wait; beyond this many secrets the counts of further ones are lost.
    if (this.#counts.size >= accessLimits.waitingSecretsMax) return;
    this.#counts.set(secretId, { namespaceId, secretId, count: 1, lastAtMs: atMs });
  }

  /** For the access log, which keeps the newest. */
  note(
    namespaceId: string,
    operation: string,
    secretName: string,
    identity: CallerIdentity,
    atMs: number,
    durationUs: number,
  ): void {
    const entry = { namespaceId, operation, secretName, identity, atMs, durationUs };
    this.#log[this.#logNext] = entry;
    this.#logNext = (this.#logNext + 1) % accessLimits.logEntriesPerFlush;
  }

  /** Counted and not yet in the store. */
  waiting(secretId: string): { count: number; lastAtMs: number } | undefined {
    const counted = this.#counts.get(secretId);
    if (this.#journaled.size === 0 && this.#adding.size === 0) return counted;
    let count = 0;
    let lastAtMs = 0;
    for (const counts of [this.#counts, this.#journaled, this.#adding]) {
      const known = counts.get(secretId);
      if (known === undefined) continue;
      count += known.count;
      lastAtMs = Math.max(lastAtMs, known.lastAtMs);
    }
    return count === 0 ? undefined : { count, lastAtMs };
  }

  /** Writes what is counted, now. */
  async flush(): Promise<void> {
    return this.#once(() => this.#flush());
  }

  /** One writer at a time. */
  async #once(work: () => Promise<void>): Promise<void> {
    while (this.#flushing !== undefined) await this.#flushing.catch(() => undefined);
    this.#flushing = work().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  async #flush(): Promise<void> {
    this.#flushes += 1;
    if (this.#flushes % accessLimits.flushesPerSweep === 0) await this.#sweep();
    const counts = this.#counts;
    const log = [...this.#log.slice(this.#logNext), ...this.#log.slice(0, this.#logNext)];
    this.#log = [];
    this.#logNext = 0;
    if (counts.size > 0) {
      if (this.#store.kind === 'sqlite') await this.#writeJournal(counts);
      else await this.#add(counts);
    }
    await this.#writeLog(log);
    if (this.#isTimeToAddUp()) await this.#addUp();
  }

  #isTimeToAddUp(): boolean {
    if (this.#journaled.size >= accessLimits.journaledSecretsMax) return true;
    return this.#now() - this.#lastAddedUpAtMs >= accessLimits.addUpPeriodMs;
  }

  async #writeJournal(counts: Counts): Promise<void> {
    this.#counts = new Map();
    try {
      const { insertId } = await this.#store.write((queries) =>
        queries
          .insertInto('access_journal')
          .values({ content: journalContent(counts.values()) })
          .executeTakeFirstOrThrow(),
      );
      this.#journalPositions.push(Number(insertId));
    } catch (error) {
      mergeCounts(this.#counts, counts);
      throw error;
    }
    mergeCounts(this.#journaled, counts);
  }

  /** What the journal holds becomes one row for each batch, each of which is then added and removed. */
  async #addUp(): Promise<void> {
    this.#lastAddedUpAtMs = this.#now();
    if (this.#journaled.size === 0) return;
    const adding = this.#journaled;
    const positions = this.#journalPositions;
    await this.#store.write(async (queries) => {
      const present = await queries
        .selectFrom('access_journal')
        .select('position')
        .where('position', 'in', positions)
        .execute();
      // Another process that started meanwhile may have added some up: those are not added again.
      if (present.length < positions.length) return;
      await queries.deleteFrom('access_journal').where('position', 'in', positions).execute();
      for (const batch of chunks(sorted(adding), accessLimits.secretsPerCommit)) {
        await queries
          .insertInto('access_journal')
          .values({ content: journalContent(batch) })
          .execute();
      }
    });
    this.#journalPositions = [];
    this.#journaled = new Map();
    this.#adding = adding;
    await this.#addUpLeftOvers();
    this.#adding = new Map();
  }

  async #addUpLeftOvers(): Promise<void> {
    if (this.#store.kind !== 'sqlite') return;
    for (;;) {
      const row = await this.#store.read((queries) =>
        queries
          .selectFrom('access_journal')
          .selectAll()
          .where('position', '>', 0)
          .orderBy('position')
          .limit(1)
          .executeTakeFirst(),
      );
      if (row === undefined) return;
      const counts = (JSON.parse(row.content) as JournalContent).flatMap(([namespaceId, list]) =>
        list.map(([secretId, count, lastAtMs]) => ({ namespaceId, secretId, count, lastAtMs })),
      );
      await this.#writeCounts(counts, row.position);
      for (const { secretId } of counts) this.#adding.delete(secretId);
      // Requests come in between: on SQLite a commit is work of this thread.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async #add(counts: Counts): Promise<void> {
    this.#counts = new Map();
    const list = sorted(counts);
    let written = 0;
    try {
      for (const batch of chunks(list, accessLimits.secretsPerCommit)) {
        await this.#writeCounts(batch);
        written += batch.length;
      }
    } catch (error) {
      mergeCounts(this.#counts, new Map(list.slice(written).map((left) => [left.secretId, left])));
      throw error;
    }
  }

  /** @param position of the row of the journal that these come from */
  async #writeCounts(batch: readonly Count[], position?: number): Promise<void> {
    const { kind } = this.#store;
    const perNamespace = new Map<string, { count: number; lastAtMs: number }>();
    for (const { namespaceId, count, lastAtMs } of batch) {
      const known = perNamespace.get(namespaceId);
      if (known === undefined) perNamespace.set(namespaceId, { count, lastAtMs });
      else {
        known.count += count;
        known.lastAtMs = Math.max(known.lastAtMs, lastAtMs);
      }
    }
    const namespaces = [...perNamespace].sort(([one], [other]) => (one < other ? -1 : 1));
    await this.#store.write(async (queries) => {
      if (position !== undefined) {
        await queries.deleteFrom('access_journal').where('position', '=', position).execute();
      }
      for (const rows of chunks(batch, accessLimits.secretsPerStatement)) {
        await queries.executeQuery(
          CompiledQuery.raw(
            addCounts(kind, 'secret_access', 'secret_id', rows.length),
            rows.flatMap(({ secretId, count, lastAtMs }) => [secretId, count, lastAtMs]),
          ),
        );
      }
      for (const rows of chunks(namespaces, accessLimits.secretsPerStatement)) {
        await queries.executeQuery(
          CompiledQuery.raw(
            addCounts(kind, 'namespace_access', 'namespace_id', rows.length),
            rows.flatMap(([id, { count, lastAtMs }]) => [id, count, lastAtMs]),
          ),
        );
      }
      for (const [id, { count, lastAtMs }] of namespaces) {
        const hour = Math.floor(lastAtMs / 3_600_000);
        await queries.executeQuery(CompiledQuery.raw(addHour(kind), [hour, count, id]));
      }
    });
  }

  async #writeLog(log: LogEntry[]): Promise<void> {
    if (log.length === 0) return;
    const rows = log.map((entry) => ({
      namespace_id: entry.namespaceId,
      operation: entry.operation,
      secret_name: entry.secretName,
      identity: identityText(entry.identity),
      at_ms: entry.atMs,
      duration_us: entry.durationUs,
    }));
    const namespaces = [...new Set(rows.map((row) => row.namespace_id))].sort();
    await this.#store.write(async (queries) => {
      await queries.insertInto('access_log').values(rows).execute();
      for (const id of namespaces) {
        const oldest = await queries
          .selectFrom('access_log')
          .select('position')
          .where('namespace_id', '=', id)
          .orderBy('position', 'desc')
          .limit(1)
          .offset(accessLimits.logEntriesPerNamespace)
          .executeTakeFirst();
        if (oldest === undefined) continue;
        await queries
          .deleteFrom('access_log')
          .where('namespace_id', '=', id)
          .where('position', '<=', oldest.position)
          .execute();
      }
    });
  }

  /** Drops hours that no statistic looks at, and what was logged of namespaces that are gone. */
  async #sweep(): Promise<void> {
    const oldest = Math.floor(this.#now() / 3_600_000) - accessLimits.hoursKept;
    await this.#store.write(async (queries) => {
      await queries.deleteFrom('namespace_access_hour').where('hour', '<', oldest).execute();
      await queries
        .deleteFrom('access_log')
        .where('namespace_id', 'not in', (inner) => inner.selectFrom('namespace').select('id'))
        .execute();
    });
  }
}

function sorted(counts: Counts): Count[] {
  return [...counts.values()].sort((one, other) => (one.secretId < other.secretId ? -1 : 1));
}

/** While the store is away counts wait; beyond this many secrets those of further ones are lost. */
function mergeCounts(into: Counts, from: Counts): void {
  for (const left of from.values()) {
    const known = into.get(left.secretId);
    if (known === undefined) {
      if (into.size < accessLimits.waitingSecretsMax) into.set(left.secretId, { ...left });
      continue;
    }
    known.count += left.count;
    known.lastAtMs = Math.max(known.lastAtMs, left.lastAtMs);
  }
}

function journalContent(counts: Iterable<Count>): string {
  const lists = new Map<string, JournalContent[number][1]>();
  for (const { namespaceId, secretId, count, lastAtMs } of counts) {
    const list = lists.get(namespaceId);
    if (list === undefined) lists.set(namespaceId, [[secretId, count, lastAtMs]]);
    else list.push([secretId, count, lastAtMs]);
  }
  return JSON.stringify([...lists]);
}

function chunks<T>(list: readonly T[], size: number): T[][] {
  const parts: T[][] = [];
  for (let start = 0; start < list.length; start += size) {
    parts.push(list.slice(start, start + size));
  }
  return parts;
}

/** Only rows that are there: what was destroyed meanwhile does not come back as a count. */
function addCounts(kind: SqlKind, table: string, key: string, rows: number): string {
  if (kind === 'mysql') {
    const first = 'select ? as id, ? as n, ? as at_ms';
    const lines = [first, ...new Array(rows - 1).fill('select ?, ?, ?')].join(' union all ');
    return `update ${table} as a join (${lines}) as v on a.${key} = convert(v.id using ascii) collate ascii_bin
      set a.access_count = a.access_count + v.n,
        a.last_accessed_at_ms = greatest(a.last_accessed_at_ms, v.at_ms)`;
  }
  const isPostgresql = kind === 'postgresql';
  const lines = Array.from({ length: rows }, (_, index) =>
    isPostgresql
      ? `($${index * 3 + 1}::text, $${index * 3 + 2}::bigint, $${index * 3 + 3}::bigint)`
      : '(?, ?, ?)',
  ).join(', ');
  const larger = isPostgresql ? 'greatest' : 'max';
  return `update ${table} set access_count = access_count + v.column2,
      last_accessed_at_ms = ${larger}(last_accessed_at_ms, v.column3)
    from (values ${lines}) as v where ${key} = v.column1`;
}

function addHour(kind: SqlKind): string {
  const [hour, count, id] =
    kind === 'postgresql' ? ['$1::bigint', '$2::bigint', '$3'] : ['?', '?', '?'];
  const insert = `insert into namespace_access_hour (namespace_id, hour, access_count)
    select id, ${hour}, ${count} from namespace where id = ${id}`;
  return kind === 'mysql'
    ? `${insert} on duplicate key update
        access_count = namespace_access_hour.access_count + values(access_count)`
    : `${insert} on conflict (namespace_id, hour) do update set
        access_count = namespace_access_hour.access_count + excluded.access_count`;
}
