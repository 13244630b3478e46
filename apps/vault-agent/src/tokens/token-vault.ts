/**
 * The token vault of an agent: the vault store on the agent's own database, asked by callers that the
 * door has let in. Passwords come with a request and go with it; their keys stay five minutes.
 */
import { hash } from 'node:crypto';
import type { AgentInput } from '@keystead/contracts/agent-api/operation';
import type * as records from '@keystead/contracts/agent-api/records';
import type * as contract from '@keystead/contracts/agent-api/tokens';
import type { RecordFacts, RekeyRun } from '@keystead/contracts/agent-api/tokens';
import { invalidRequest, notFound, ServiceError } from '@keystead/contracts/errors';
import type { VaultRecord } from '@keystead/vault-store/record';
import { type RecordQuery, recordQuery, type TimeRange } from '@keystead/vault-store/record-query';
import type { VaultSchema } from '@keystead/vault-store/schema';
import { openVault, type Vault } from '@keystead/vault-store/vault';
import { InvalidPassword } from '@keystead/vault-store/vault-error';
import type { Caller } from '../access/caller.ts';
import { GuessGuard } from '../access/guess-guard.ts';
import { requireBelieved, type TrustedClock } from '../clock/trusted-clock.ts';
import { identityText } from '../namespaces/namespace-change.ts';
import type { AgentStore } from '../store/agent-store.ts';
import type { RekeyRunTables } from './rekey-run-tables.ts';
import { RekeyRuns } from './rekey-runs.ts';
import { tokenProblem } from './token-problem.ts';
import { tokenVaultLimits } from './token-vault-limits.ts';

type CreateBody = AgentInput<typeof contract.createToken>['body'] & { id?: string | undefined };
type Filters = AgentInput<typeof records.countRecords>['query'];
type ListQuery = AgentInput<typeof records.listRecords>['query'];

type Doubtable = Pick<TrustedClock, 'doubt'>;

export interface TokenVaultTime {
  /** Whether what expired may be deleted for good. */
  clock?: Doubtable;
  now?: () => number;
}

export class TokenVault {
  readonly #vault: Vault;
  readonly #store: AgentStore;
  /** Passwords of tokens, by who tries them: each guess costs an Argon2id. */
  readonly #guard = new GuessGuard();
  readonly runs: RekeyRuns;

  readonly #now: () => number;
  readonly #clock: Doubtable;

  private constructor(
    vault: Vault,
    store: AgentStore,
    onError: (error: unknown) => void,
    { clock = { doubt: undefined }, now = Date.now }: TokenVaultTime,
  ) {
    this.#vault = vault;
    this.#store = store;
    this.#clock = clock;
    this.#now = now;
    this.runs = new RekeyRuns(store.as<RekeyRunTables>(), now, onError);
  }

  /** Makes or completes its tables. */
  static async open(
    store: AgentStore,
    onError: (error: unknown) => void,
    time: TokenVaultTime = {},
  ): Promise<TokenVault> {
    const { now } = time;
    const vault = await openVault({
      sql: store.as<VaultSchema>(),
      ...(now === undefined ? {} : { now }),
    });
    return new TokenVault(vault, store, onError, time);
  }

  /** Of a value that is stored without a word about its end; undefined: it has none. */
  ttlDefaultSeconds: number | undefined;

  #endByDefault(): number | null {
    return this.ttlDefaultSeconds === undefined
      ? null
      : this.#now() + this.ttlDefaultSeconds * 1_000;
  }

  create(body: CreateBody): Promise<RecordFacts> {
    return this.#ask(async ({ records }) => {
      const { value, encoding, password, token, data, expiresAt, id } = body;
      return factsOf(
        await records.create({
          value: bytesOf(value, encoding),
          password,
          data,
          expiresAtMs: expiresAt === undefined ? this.#endByDefault() : timeOf(expiresAt),
          ...(id === undefined ? {} : { id }),
          ...(token === undefined ? {} : { token }),
        }),
      );
    }, body);
  }

  readValue(caller: Caller, body: AgentInput<typeof contract.readToken>['body']) {
    const { token, password, encoding } = body;
    return this.#try(caller, body, async ({ tokens }) =>
      shown(await tokens.readBytes(token, password), encoding),
    );
  }

  readValues(caller: Caller, body: AgentInput<typeof contract.readTokens>['body']) {
    return this.#ask(async ({ tokens }) => {
      this.#requireNoLock(caller, body.tokens);
      const { readings } = await tokens.readMany(body.tokens, body.password);
      this.#learn(caller, readings);
      return {
        items: readings.map((reading) =>
          reading.status === 'found'
            ? { token: reading.token, status: reading.status, ...shown(reading.bytes, undefined) }
            : reading,
        ),
      };
    }, body);
  }

  exists(token: string) {
    return this.#ask(async ({ tokens }) => ({ exists: await tokens.exists(token) }));
  }

  update(caller: Caller, body: AgentInput<typeof contract.updateToken>['body']) {
    const { token, value, encoding, password } = body;
    return this.#try(caller, body, async ({ tokens }) => {
      await tokens.update(token, bytesOf(value, encoding), password);
      return {};
    });
  }

  upsert(caller: Caller, body: AgentInput<typeof contract.upsertToken>['body']) {
    const { token, value, encoding, password, data, expiresAt } = body;
    return this.#try(caller, body, async ({ tokens }) => {
      const outcome = await tokens.upsert(token, bytesOf(value, encoding), {
        password,
        ...(data === undefined ? {} : { data }),
        ...(expiresAt === undefined ? {} : { expiresAtMs: timeOf(expiresAt) }),
      });
      return { outcome };
    });
  }

  renew(token: string, expiresAt: string | null) {
    return this.#ask(
      async ({ tokens }) => {
        await tokens.renew(token, timeOf(expiresAt));
        return {};
      },
      { token, expiresAt },
    );
  }

  changePassword(caller: Caller, body: AgentInput<typeof contract.changeTokenPasswords>['body']) {
    return this.#ask(async ({ tokens }) => {
      this.#requireNoLock(caller, body.tokens);
      const items = await tokens.changePassword(body.tokens, body.oldPassword, body.newPassword);
      this.#learn(caller, items);
      return { items };
    }, body);
  }

  softDelete(reference: { token: string } | { id: string }) {
    return this.#ask(async ({ records }) => {
      await records.softDelete(reference);
      return {};
    });
  }

  delete(reference: { token: string } | { id: string }) {
    return this.#ask(async ({ records }) => {
      await records.delete(reference);
      return {};
    });
  }

  restore(token: string) {
    return this.#ask(async ({ tokens }) => {
      await tokens.restore(token);
      return {};
    });
  }

  restoreRecord(id: string): Promise<RecordFacts> {
    return this.#ask(async ({ records }) => {
      await records.restore({ id });
      return factsOf(await records.findById(id));
    });
  }

  /** @throws ServiceError `conflict` where it is for good and the clock is doubted */
  sweep(mode: 'soft' | 'hard', graceMs: number) {
    return this.#ask(async ({ tokens }) => {
      if (mode === 'hard') requireBelieved(this.#clock);
      const { swept } = await tokens.sweepExpired({ mode, graceMs });
      return { swept };
    });
  }

  /** The agent's own duty. @returns undefined where the clock is doubted: nothing is swept by it */
  async sweepInTime(): Promise<number | undefined> {
    if (this.#clock.doubt !== undefined) return undefined;
    const marked = await this.sweep('soft', tokenVaultLimits.markExpiredAfterMs);
    const deleted = await this.sweep('hard', tokenVaultLimits.deleteExpiredAfterMs);
    return marked.swept + deleted.swept;
  }

  list(query: ListQuery) {
    return this.#ask(async ({ records }) => {
      let asked = queryOf(query).orderBy(sortColumns[query.sort], query.direction);
      asked = asked.limit(query.limit);
      if (query.cursor !== undefined) asked = asked.after(query.cursor);
      const { records: found, next } = await records.list(
        asked.select(
          'id',
          'token',
          'data',
          'createdAtMs',
          'updatedAtMs',
          'expiresAtMs',
          'softDeletedAtMs',
        ),
      );
      return { items: found.map(factsOf), nextCursor: next };
    });
  }

  count(filters: Filters) {
    return this.#ask(async ({ records }) => ({ count: await records.count(queryOf(filters)) }));
  }

  get(id: string): Promise<RecordFacts> {
    return this.#ask(async ({ records }) =>
      factsOf(await records.find({ id }, { withSoftDeleted: true })),
    );
  }

  updateRecord(
    id: string,
    body: AgentInput<typeof records.updateRecord>['body'],
  ): Promise<RecordFacts> {
    const { data, expiresAt } = body;
    return this.#ask(
      async ({ records }) =>
        factsOf(
          await records.update(
            { id },
            {
              ...(data === undefined ? {} : { data }),
              ...(expiresAt === undefined ? {} : { expiresAtMs: timeOf(expiresAt) }),
            },
          ),
        ),
      body,
    );
  }

  rekey(caller: Caller, body: AgentInput<typeof contract.startRekey>['body']): Promise<RekeyRun> {
    const { oldPassword, newPassword, dryRun, timeoutSeconds } = body;
    return this.#ask(async (vault) => {
      vault.requireRekey({ oldPassword, newPassword });
      return this.runs.start({
        kind: 'rekey',
        dryRun,
        timeoutSeconds,
        requestedBy: caller.identity.name,
        work: (options) => vault.rekey({ oldPassword, newPassword, ...options }),
      });
    }, body);
  }

  upgrade(
    caller: Caller,
    body: AgentInput<typeof contract.startUpgrade>['body'],
  ): Promise<RekeyRun> {
    const { password, dryRun, timeoutSeconds } = body;
    return this.#ask(async (vault) =>
      this.runs.start({
        kind: 'upgrade',
        dryRun,
        timeoutSeconds,
        requestedBy: caller.identity.name,
        work: (options) => vault.upgrade({ password, ...options }),
      }),
    );
  }

  async close(): Promise<void> {
    await this.runs.stop();
    await this.#vault.close();
  }

  /** With a password that the caller gave for a token. @throws ServiceError `rate_limited` as well */
  #try<T>(
    caller: Caller,
    body: { token: string; password: string },
    work: (vault: Vault) => Promise<T>,
  ): Promise<T> {
    const { token } = body;
    return this.#ask(async (vault) => {
      this.#requireNoLock(caller, [token]);
      try {
        const done = await work(vault);
        this.#learn(caller, [{ token, status: 'found' }]);
        return done;
      } catch (error) {
        if (error instanceof InvalidPassword) {
          this.#learn(caller, [{ token, status: 'invalid_password' }]);
        }
        throw error;
      }
    }, body);
  }

  #learn(caller: Caller, seen: readonly { token: string; status: string }[]): void {
    const statuses = new Map(seen.map(({ token, status }) => [token, status]));
    for (const [token, status] of statuses) {
      if (status === 'invalid_password') this.#guard.guessedPassword(triedBy(caller, token));
      if (status === 'found') this.#guard.knewPassword(triedBy(caller, token));
    }
  }

  #requireNoLock(caller: Caller, tokens: readonly string[]): void {
    for (const token of tokens) {
      const lock = this.#guard.lockOfPassword(triedBy(caller, token));
      if (lock === undefined) continue;
      throw new ServiceError('rate_limited', {
        detail: 'Too many passwords were tried for this token',
        retryAfterSeconds: lock.retryAfterSeconds,
      });
    }
  }

  /** @throws ServiceError for whatever the vault store says, with the field of the body that it is about */
  async #ask<T>(work: (vault: Vault) => Promise<T>, body?: object): Promise<T> {
    if (!this.#store.breaker.isAvailable) {
      throw new ServiceError('unavailable', {
        detail: 'The store of the vault is not available at the moment',
        retryAfterSeconds: 1,
      });
    }
    try {
      return await work(this.#vault);
    } catch (error) {
      throw tokenProblem(error, body);
    }
  }
}

/** The token by its hash, which has one length. */
const triedBy = (caller: Caller, token: string) =>
  `${hash('sha256', token, 'base64url')} ${identityText(caller.identity)}`;

const sortColumns = {
  id: 'id',
  createdAt: 'createdAtMs',
  updatedAt: 'updatedAtMs',
  expiresAt: 'expiresAtMs',
} as const;

type Shown = Omit<VaultRecord, 'sealedValue'>;

/** @throws ServiceError `not_found` where there is none */
function factsOf(record: Shown | undefined): RecordFacts {
  if (record === undefined) throw notFound();
  const time = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
  return {
    id: record.id,
    token: record.token,
    data: { ...record.data },
    createdAt: new Date(record.createdAtMs).toISOString(),
    updatedAt: new Date(record.updatedAtMs).toISOString(),
    expiresAt: time(record.expiresAtMs),
    softDeletedAt: time(record.softDeletedAtMs),
  };
}

function queryOf(filters: Filters): RecordQuery {
  const range = (from: string | undefined, before: string | undefined): TimeRange => ({
    ...(from === undefined ? {} : { fromMs: Date.parse(from) }),
    ...(before === undefined ? {} : { beforeMs: Date.parse(before) }),
  });
  let query = recordQuery()
    .created(range(filters.createdFrom, filters.createdBefore))
    .updated(range(filters.updatedFrom, filters.updatedBefore));
  if (filters.expiresFrom !== undefined || filters.expiresBefore !== undefined) {
    query = query.expires(range(filters.expiresFrom, filters.expiresBefore));
  }
  if (filters.expiry === 'expired') query = query.expired();
  if (filters.expiry === 'not-expired') query = query.notExpired();
  if (filters.softDeleted === 'with') query = query.withSoftDeleted();
  if (filters.softDeleted === 'only') query = query.onlySoftDeleted();
  if ((filters.dataName === undefined) !== (filters.dataValue === undefined)) {
    const missing = filters.dataName === undefined ? 'dataName' : 'dataValue';
    throw invalidRequest('query', [
      { path: [missing], message: 'is missing: dataName and dataValue are given together' },
    ]);
  }
  if (filters.dataName !== undefined && filters.dataValue !== undefined) {
    query = query.withData(filters.dataName, filters.dataValue);
  }
  return query;
}

const strictText = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** @throws ServiceError where text was asked for and it is none */
function shown(bytes: Uint8Array, encoding: 'text' | 'base64' | undefined) {
  if (encoding !== 'base64') {
    try {
      return { value: strictText.decode(bytes), encoding: 'text' as const };
    } catch {
      if (encoding === 'text') {
        throw new ServiceError('unprocessable', {
          detail: 'The value is not UTF-8 text; ask for it in base64',
        });
      }
    }
  }
  return { value: Buffer.from(bytes).toString('base64'), encoding: 'base64' as const };
}

/** @throws ServiceError where it is no base64 */
function bytesOf(value: string, encoding: 'text' | 'base64'): string | Uint8Array {
  if (encoding === 'text') return value;
  const bytes = Buffer.from(value, 'base64');
  if (bytes.toString('base64') !== value) {
    throw invalidRequest('body', [
      { path: ['value'], message: 'must be base64 (RFC 4648, padded)' },
    ]);
  }
  return bytes;
}

function timeOf(instant: string | null): number | null {
  return instant === null ? null : Date.parse(instant);
}
