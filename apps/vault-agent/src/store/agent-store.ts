/**
 * The agent's store: one SQL database, brought up to date at the start, behind a circuit breaker.
 * It is a {@link SqlStore} for whoever brings tables of its own; `read` is what reads go through, so
 * that they too notice a store that is away.
 */

import type { DatabaseSync } from 'node:sqlite';
import { newUuid, toId } from '@keystead/contracts/ids';
import {
  isDuplicate,
  openSql,
  type Queries,
  type SqlKind,
  type SqlOptions,
  type SqlStore,
} from '@keystead/vault-store/sql/sql-store';
import { type AgentSchema, createAgentTables } from './agent-tables.ts';
import { type Migration, migrate } from './migrations.ts';
import { StoreBreaker } from './store-breaker.ts';
import { storeLimits } from './store-limits.ts';

export interface AgentStoreOptions {
  sql: SqlOptions;
  /** Of the other domains; those of the secrets are the store's own. */
  migrations?: readonly Migration[];
  now?: () => number;
}

const ownMigrations: readonly Migration[] = [{ name: 'secrets-1', apply: createAgentTables }];

const reading = { timeoutMs: storeLimits.readTimeoutMs, isChange: false };
const changing = { timeoutMs: storeLimits.writeTimeoutMs, isChange: true };
/** Also every change on SQLite: it waits for nothing but a larger one of this process. */
const bulk = { timeoutMs: storeLimits.bulkTimeoutMs, isChange: true, isAwaited: true };
const transfer = { ...bulk, timeoutMs: storeLimits.transferTimeoutMs };

export class AgentStore implements SqlStore<AgentSchema> {
  readonly kind: SqlKind;
  /** Names this store; a copy of it has the same. */
  readonly vaultId: string;
  readonly breaker: StoreBreaker;
  readonly #sql: SqlStore<AgentSchema>;

  private constructor(sql: SqlStore<AgentSchema>, vaultId: string) {
    this.kind = sql.kind;
    this.#sql = sql;
    this.vaultId = vaultId;
    this.breaker = new StoreBreaker();
  }

  /** Opens the store, makes or completes its tables. @throws StoreTooNew, or what the database says */
  static async open(options: AgentStoreOptions): Promise<AgentStore> {
    const sql = await openSql<AgentSchema>(options.sql);
    try {
      const nowMs = (options.now ?? Date.now)();
      await migrate(
        sql as unknown as SqlStore<unknown>,
        [...ownMigrations, ...(options.migrations ?? [])],
        nowMs,
      );
      return new AgentStore(sql, await vaultIdOf(sql, nowMs));
    } catch (error) {
      await sql.close();
      throw error;
    }
  }

  /** The database itself, without the breaker. */
  get db(): Queries<AgentSchema> {
    return this.#sql.db;
  }

  get sqlite(): DatabaseSync | undefined {
    return this.#sql.sqlite;
  }

  /** The same store for another domain's tables. */
  as<Schema>(): SqlStore<Schema> {
    return this as unknown as SqlStore<Schema>;
  }

  get bulk(): Queries<AgentSchema> {
    return this.#sql.bulk;
  }

  /** @throws ServiceError `unavailable` */
  read<T>(work: (queries: Queries<AgentSchema>) => Promise<T>): Promise<T> {
    return this.breaker.run(() => work(this.#sql.db), reading);
  }

  /** @throws ServiceError `unavailable`: it may have happened nevertheless */
  write<T>(work: (queries: Queries<AgentSchema>) => Promise<T>): Promise<T> {
    return this.breaker.run(
      (signal) => this.#sql.write(work, { signal }),
      this.kind === 'sqlite' ? bulk : changing,
    );
  }

  /**
   * A write of as much as a namespace may hold, or of a whole archive. One that takes too long is ended
   * and waited for: it did not happen where this says so.
   */
  writeInBulk<T>(
    work: (queries: Queries<AgentSchema>) => Promise<T>,
    timeoutMs: number = bulk.timeoutMs,
  ): Promise<T> {
    return this.breaker.run((signal) => this.#sql.write(work, { isBulk: true, signal }), {
      ...bulk,
      timeoutMs,
    });
  }

  snapshot<T>(work: (queries: Queries<AgentSchema>) => Promise<T>): Promise<T> {
    return this.breaker.run((signal) => this.#sql.snapshot(work, { signal }), transfer);
  }

  close(): Promise<void> {
    return this.#sql.close();
  }
}

async function vaultIdOf(sql: SqlStore<AgentSchema>, nowMs: number): Promise<string> {
  const read = () => sql.db.selectFrom('vault_state').select('vault_id').executeTakeFirst();
  const known = await read();
  if (known !== undefined) return known.vault_id;
  try {
    await sql.write((queries) =>
      queries
        .insertInto('vault_state')
        .values({
          only: 1,
          vault_id: toId('vault', newUuid(nowMs)),
          namespace_count: 0,
          created_at_ms: nowMs,
        })
        .execute(),
    );
  } catch (error) {
    // Another agent started at the same moment.
    if (!isDuplicate(error)) throw error;
  }
  const made = await read();
  if (made === undefined) throw new Error('the store does not keep what is written');
  return made.vault_id;
}
