/**
 * Who of several agents on one store does a duty: a row that one of them holds for a time, and renews.
 *
 * Three things together make it safe. The database's clock says when a lease has run out, so that the
 * clocks of the agents do not matter. Every change of the holder gives a larger fencing token, and
 * whoever writes under a lease checks its token inside the same transaction ({@link Lease.fence}): a
 * holder that slept through its time can change nothing, whatever it still believes. And a holder
 * that shows no sign of life for a whole term by the *monotonic* clock of another is replaced even
 * where the database's clock went back or stands still.
 */
import type { Queries, SqlKind, SqlStore } from '@keystead/vault-store/sql/sql-store';
import { type RawBuilder, sql } from 'kysely';
import { leaseLimits } from './lease-limits.ts';
import type { LeaseTables } from './lease-tables.ts';

/** Another holds the lease now, or its term passed: what was begun under it is not to be written. */
export class LeaseLost extends Error {
  constructor(name: string) {
    super(`the lease ${name} is held by another agent now`);
    this.name = 'LeaseLost';
  }
}

export interface Lease {
  readonly name: string;
  /** The fencing token: larger than that of every holder before. */
  readonly token: number;
  /** Aborts when the lease is lost, released, or could not be renewed in time. */
  readonly signal: AbortSignal;
  /**
   * First in every transaction that writes under the lease. Until the transaction ends nobody can take
   * the lease over.
   * @throws LeaseLost
   */
  fence(queries: Queries<LeaseTables>): Promise<void>;
}

/** The database's own clock, in ms since 1970. */
export function databaseNowMs(kind: SqlKind): RawBuilder<number> {
  if (kind === 'sqlite') return sql<number>`cast(unixepoch('subsec') * 1000 as integer)`;
  // Not now(): that is when the transaction began, which may have waited for the row since.
  if (kind === 'postgresql')
    return sql<number>`cast(floor(extract(epoch from clock_timestamp()) * 1000) as bigint)`;
  return sql<number>`(timestampdiff(microsecond, '1970-01-01 00:00:00', utc_timestamp(3)) div 1000)`;
}

/**
 * Whoever holds the lease has lost it, from the end of this transaction on: for one that changes what is
 * done under it.
 */
export async function supersede(queries: Queries<LeaseTables>, name: string): Promise<void> {
  await queries
    .updateTable('lease')
    .set((row) => ({
      holder: '',
      token: row('token', '+', 1),
      renewals: row('renewals', '+', 1),
      expires_at_ms: 0,
    }))
    .where('name', '=', name)
    .execute();
}

export interface LeasesOptions {
  store: SqlStore<LeaseTables>;
  /** Unique among the agents of the store and among the runs of one, e.g. the boot id. */
  holder: string;
  /** Milliseconds of a clock that never goes back. */
  monotonicMs?: () => number;
  /** The database's clock; another one only in tests. */
  databaseNow?: () => RawBuilder<number>;
}

interface Observed {
  token: number;
  renewals: number;
  sinceMs: number;
}

export class Leases {
  readonly #store: SqlStore<LeaseTables>;
  readonly #holder: string;
  readonly #monotonicMs: () => number;
  readonly #databaseNow: () => RawBuilder<number>;
  /** By name, of which there are as many as duties: what others' leases looked like, and since when they have not changed. */
  readonly #observed = new Map<string, Observed>();

  constructor(options: LeasesOptions) {
    if (options.holder === '' || options.holder.length > leaseLimits.holderMaxLength) {
      throw new RangeError(`a holder has 1 to ${leaseLimits.holderMaxLength} characters`);
    }
    this.#store = options.store;
    this.#holder = options.holder;
    this.#monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.#databaseNow = options.databaseNow ?? (() => databaseNowMs(options.store.kind));
  }

  /**
   * The lease, or undefined while another holds it. The term is the caller's to renew; `hold` does
   * that by itself.
   * @param ttlMs 1 s to 10 min
   */
  async acquire(name: string, ttlMs: number): Promise<HeldLease | undefined> {
    if (ttlMs < leaseLimits.ttlMinMs || ttlMs > leaseLimits.ttlMaxMs) {
      throw new RangeError(`a lease lasts ${leaseLimits.ttlMinMs} to ${leaseLimits.ttlMaxMs} ms`);
    }
    const askedAtMs = this.#monotonicMs();
    const seen = await this.#store.db
      .selectFrom('lease')
      .select(['holder', 'token', 'renewals', 'ttl_ms'])
      .select((row) =>
        row.case().when('expires_at_ms', '>', this.#databaseNow()).then(1).else(0).end().as('runs'),
      )
      .where('name', '=', name)
      .executeTakeFirst();
    if (seen !== undefined && seen.holder !== '' && Number(seen.runs) === 1) {
      if (!this.#isSilent(name, seen, askedAtMs)) return undefined;
    }
    const token = (seen?.token ?? 0) + 1;
    const isTaken = await this.#store.write(async (queries) => {
      const expiry = sql<number>`${this.#databaseNow()} + ${ttlMs}`;
      if (seen === undefined) {
        const inserted = await insertUnlessThere(queries, this.#store.kind, {
          name,
          holder: this.#holder,
          expiry,
          ttlMs,
        });
        return inserted;
      }
      // The row as it was seen, and no other: of several that saw it run out one succeeds.
      const { numUpdatedRows } = await queries
        .updateTable('lease')
        .set((row) => ({
          holder: this.#holder,
          token,
          renewals: row('renewals', '+', 1),
          expires_at_ms: expiry,
          ttl_ms: ttlMs,
        }))
        .where('name', '=', name)
        .where('token', '=', seen.token)
        .where('renewals', '=', seen.renewals)
        .executeTakeFirst();
      return Number(numUpdatedRows) === 1;
    });
    if (!isTaken) return undefined;
    this.#observed.delete(name);
    return new HeldLease({
      store: this.#store,
      name,
      token,
      ttlMs,
      askedAtMs,
      monotonicMs: this.#monotonicMs,
      databaseNow: this.#databaseNow,
    });
  }

  /**
   * Does the work while the lease is held, renewing it meanwhile, and gives it back at the end.
   * Undefined where another holds it. The work ends by itself when `lease.signal` aborts.
   */
  async hold<T>(
    name: string,
    ttlMs: number,
    work: (lease: Lease) => Promise<T>,
  ): Promise<{ result: T } | undefined> {
    const lease = await this.acquire(name, ttlMs);
    if (lease === undefined) return undefined;
    const timer = setInterval(
      () => void lease.renew().catch(() => undefined),
      ttlMs / leaseLimits.renewalsPerTtl,
    );
    timer.unref();
    try {
      return { result: await work(lease) };
    } finally {
      clearInterval(timer);
      await lease.release().catch(() => undefined);
    }
  }

  #isSilent(
    name: string,
    seen: { token: number; renewals: number; ttl_ms: number },
    nowMs: number,
  ): boolean {
    const before = this.#observed.get(name);
    if (before === undefined || before.token !== seen.token || before.renewals !== seen.renewals) {
      this.#observed.set(name, { token: seen.token, renewals: seen.renewals, sinceMs: nowMs });
      return false;
    }
    return nowMs - before.sinceMs > seen.ttl_ms;
  }
}

interface HeldOptions {
  store: SqlStore<LeaseTables>;
  name: string;
  token: number;
  ttlMs: number;
  askedAtMs: number;
  monotonicMs: () => number;
  databaseNow: () => RawBuilder<number>;
}

export class HeldLease implements Lease {
  readonly name: string;
  readonly token: number;
  readonly #options: HeldOptions;
  readonly #lost = new AbortController();
  #expiry: NodeJS.Timeout | undefined;
  #endsAtMs = 0;

  constructor(options: HeldOptions) {
    this.name = options.name;
    this.token = options.token;
    this.#options = options;
    this.#extend(options.askedAtMs);
  }

  get signal(): AbortSignal {
    return this.#lost.signal;
  }

  /** Whether the term still runs by this process's own monotonic clock. */
  get isHeld(): boolean {
    return !this.#lost.signal.aborted && this.#options.monotonicMs() < this.#endsAtMs;
  }

  async fence(queries: Queries<LeaseTables>): Promise<void> {
    let query = queries.selectFrom('lease').select('token').where('name', '=', this.name);
    // SQLite has one writer, and this is it; the others keep the row until the commit.
    if (this.#options.store.kind !== 'sqlite') query = query.forUpdate();
    const row = await query.executeTakeFirst();
    if (row?.token === this.token && this.isHeld) return;
    this.#lose();
    throw new LeaseLost(this.name);
  }

  /** A new term from now. @throws LeaseLost */
  async renew(): Promise<void> {
    const { store, ttlMs, monotonicMs, databaseNow } = this.#options;
    const askedAtMs = monotonicMs();
    const { numUpdatedRows } = await store.write((queries) =>
      queries
        .updateTable('lease')
        .set((row) => ({
          renewals: row('renewals', '+', 1),
          expires_at_ms: sql<number>`${databaseNow()} + ${ttlMs}`,
        }))
        .where('name', '=', this.name)
        .where('token', '=', this.token)
        .executeTakeFirst(),
    );
    if (Number(numUpdatedRows) === 1) return this.#extend(askedAtMs);
    this.#lose();
    throw new LeaseLost(this.name);
  }

  /** Lets others have it at once. The token stays, so that the next one is larger. */
  async release(): Promise<void> {
    this.#lose();
    await this.#options.store.write((queries) =>
      queries
        .updateTable('lease')
        .set((row) => ({ holder: '', expires_at_ms: 0, renewals: row('renewals', '+', 1) }))
        .where('name', '=', this.name)
        .where('token', '=', this.token)
        .execute(),
    );
  }

  /** The term counts from before the database was asked, so that it never ends later here. */
  #extend(askedAtMs: number): void {
    if (this.#lost.signal.aborted) return;
    this.#endsAtMs = askedAtMs + this.#options.ttlMs;
    clearTimeout(this.#expiry);
    this.#expiry = setTimeout(
      () => this.#lose(),
      Math.max(0, this.#endsAtMs - this.#options.monotonicMs()),
    );
    this.#expiry.unref();
  }

  #lose(): void {
    clearTimeout(this.#expiry);
    this.#lost.abort(new LeaseLost(this.name));
  }
}

/** Whether it was inserted: of two that insert the first lease one succeeds. */
async function insertUnlessThere(
  queries: Queries<LeaseTables>,
  kind: SqlKind,
  lease: { name: string; holder: string; expiry: RawBuilder<number>; ttlMs: number },
): Promise<boolean> {
  const insert = queries.insertInto('lease').values({
    name: lease.name,
    holder: lease.holder,
    token: 1,
    renewals: 1,
    expires_at_ms: lease.expiry,
    ttl_ms: lease.ttlMs,
  });
  const query =
    kind === 'mysql' ? insert.ignore() : insert.onConflict((conflict) => conflict.doNothing());
  const { numInsertedOrUpdatedRows } = await query.executeTakeFirst();
  return Number(numInsertedOrUpdatedRows ?? 0) === 1;
}
