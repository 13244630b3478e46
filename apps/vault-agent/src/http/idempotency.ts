/**
 * `Idempotency-Key`: the same request with the same key, from the same caller, is done once and answered
 * twice. The claim is committed before the work begins and the answer after it. A process that dies in
 * between leaves a claim without an answer: nobody can know any more how far the work came, so the
 * repetition is refused and says so, instead of doing it a second time.
 */
import { createHmac, hash } from 'node:crypto';
import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import { ServiceError } from '@keystead/contracts/errors';
import { associatedData } from '@keystead/envelope/aad';
import { open, seal } from '@keystead/envelope/sealed';
import type { SecretKey } from '@keystead/envelope/secret-key';
import { isDuplicate, type SqlStore } from '@keystead/vault-store/sql/sql-store';
import type { CallerIdentity } from '../access/caller.ts';
import type { IdempotencyTables } from './idempotency-tables.ts';

export interface KeptAnswer {
  status: number;
  body: string;
  headers: Record<string, string>;
}

/** Rows removed at a time: a sweep is no long transaction. */
const sweepBatch = 1_000;

export class Idempotency {
  readonly #store: SqlStore<IdempotencyTables>;
  readonly #key: SecretKey;
  readonly #now: () => number;

  constructor(store: SqlStore<IdempotencyTables>, key: SecretKey, now: () => number) {
    this.#store = store;
    this.#key = key;
    this.#now = now;
  }

  /**
   * @param request what was asked, byte for byte
   * @param work calls `begins` before the first thing that may change anything
   * @throws ServiceError `idempotency_conflict` for another request under the key, `conflict` while the
   * first one is under way or where its end is unknown, and what the work throws
   */
  async once(
    identity: CallerIdentity,
    key: string,
    request: Uint8Array | string,
    work: (begins: () => void) => Promise<KeptAnswer>,
  ): Promise<KeptAnswer & { isRepeated: boolean }> {
    const id = hash('sha256', JSON.stringify([identity.kind, identity.id, key]), 'base64url');
    // Keyed: a body may hold a password, and what is stored must not be a way to guess it.
    const digest = createHmac('sha256', this.#key.object).update(request).digest('base64url');
    const nowMs = this.#now();
    const kept = await this.#claim(id, digest, nowMs);
    if (kept !== undefined) return { ...kept, isRepeated: true };
    let answer: KeptAnswer;
    let hasBegun = false;
    try {
      answer = await work(() => {
        hasBegun = true;
      });
    } catch (error) {
      if (!hasBegun || isRefusal(error)) await this.#forget(id);
      throw error;
    }
    const sealed = seal(this.#key, Buffer.from(JSON.stringify(answer)), placeOf(id));
    await this.#store.write((queries) =>
      queries
        .updateTable('idempotency_key')
        .set({ status: answer.status, answer: sealed })
        .where('id', '=', id)
        .execute(),
    );
    return { ...answer, isRepeated: false };
  }

  /** Forgets what is older than a day. Answers how many. */
  async sweep(): Promise<number> {
    const before = this.#now() - apiLimits.idempotencyKeepHours * 3_600_000;
    let removed = 0;
    for (;;) {
      const rows = await this.#store.db
        .selectFrom('idempotency_key')
        .select('id')
        .where('created_at_ms', '<', before)
        .limit(sweepBatch)
        .execute();
      if (rows.length === 0) return removed;
      const ids = rows.map((row) => row.id);
      await this.#store.write((queries) =>
        queries.deleteFrom('idempotency_key').where('id', 'in', ids).execute(),
      );
      removed += ids.length;
    }
  }

  /** What was answered before, or undefined where the key is ours now. */
  async #claim(id: string, request: string, nowMs: number): Promise<KeptAnswer | undefined> {
    const oldest = nowMs - apiLimits.idempotencyKeepHours * 3_600_000;
    const claim = { id, request, status: null, answer: null, created_at_ms: nowMs };
    try {
      await this.#store.write(async (queries) => {
        await queries
          .deleteFrom('idempotency_key')
          .where('id', '=', id)
          .where('created_at_ms', '<', oldest)
          .execute();
        await queries.insertInto('idempotency_key').values(claim).execute();
      });
      return undefined;
    } catch (error) {
      if (!isDuplicate(error)) throw error;
    }
    const row = await this.#store.db
      .selectFrom('idempotency_key')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
    if (row !== undefined && row.request !== request)
      throw new ServiceError('idempotency_conflict');
    if (row === undefined || row.answer === null) {
      throw new ServiceError('conflict', {
        detail:
          'the first request with this key is under way, or was cut off: look what it has done before you repeat it with another key',
        retryAfterSeconds: 1,
      });
    }
    return JSON.parse(open(this.#key, row.answer, placeOf(id)).toString()) as KeptAnswer;
  }

  async #forget(id: string): Promise<void> {
    await this.#store
      .write((queries) => queries.deleteFrom('idempotency_key').where('id', '=', id).execute())
      .catch(() => undefined);
  }
}

const placeOf = (id: string) => associatedData('idempotency', id);

/**
 * What was refused has changed nothing, and may be tried again. Of a failure nobody knows, and what was
 * `unavailable` may have been done all the same: the commit whose answer was lost, the outcome that the
 * audit could not take any more.
 */
function isRefusal(error: unknown): boolean {
  return error instanceof ServiceError && error.code !== 'internal' && error.code !== 'unavailable';
}
