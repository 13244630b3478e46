/** Makes, shows and revokes API keys. */
import type {
  ApiKey,
  createApiKey,
  listApiKeys,
  readApiKey,
  revokeApiKey,
} from '@keystead/contracts/agent-api/access';
import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import type { AgentInput } from '@keystead/contracts/agent-api/operation';
import { invalidRequest, notFound, ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { Queries, SqlStore } from '@keystead/vault-store/sql/sql-store';
import type { Selectable } from 'kysely';
import { type AccessBook, nextRevision } from './access-book.ts';
import type { AccessTables } from './access-tables.ts';
import { newApiKey } from './api-key-text.ts';
import type { Caller } from './caller.ts';

type Row = Selectable<AccessTables['api_key']>;

export class ApiKeys {
  readonly #store: SqlStore<AccessTables>;
  readonly #book: AccessBook;
  readonly #now: () => number;

  constructor(store: SqlStore<AccessTables>, book: AccessBook, now: () => number) {
    this.#store = store;
    this.#book = book;
    this.#now = now;
  }

  /**
   * The key itself is in this answer and nowhere else.
   * @throws ServiceError `invalid_request`, `permission_denied`, `limit_reached`
   */
  async create(
    caller: Caller,
    { body }: Pick<AgentInput<typeof createApiKey>, 'body'>,
  ): Promise<ApiKey & { key: string }> {
    const nowMs = this.#now();
    await this.#book.refresh();
    for (const [index, name] of body.roles.entries()) {
      if (this.#book.role(name) === undefined || name === 'system') {
        throw invalidRequest('body', [
          { path: ['roles', index], message: `there is no role ${name}` },
        ]);
      }
    }
    this.#mayGive(caller, body.roles, body.namespaces);
    const expiresAtMs = body.expiresAt === undefined ? null : Date.parse(body.expiresAt);
    if (expiresAtMs !== null && expiresAtMs <= nowMs) {
      throw invalidRequest('body', [{ path: ['expiresAt'], message: 'must be in the future' }]);
    }
    const { key, prefix, digest } = newApiKey();
    const row: Row = {
      id: toId('apiKey', newUuid(nowMs)),
      prefix,
      digest,
      name: body.name,
      roles: JSON.stringify([...new Set(body.roles)]),
      namespaces: JSON.stringify([...new Set(body.namespaces)]),
      created_at_ms: nowMs,
      created_by: caller.identity.id,
      expires_at_ms: expiresAtMs,
      last_used_at_ms: null,
      revoked_at_ms: null,
    };
    await this.#store.write(async (queries) => {
      await nextRevision(queries);
      const active = await countActive(queries, nowMs);
      if (active >= apiLimits.apiKeysMax) {
        throw new ServiceError('limit_reached', {
          detail: `the vault has ${active} API keys that hold; revoke some`,
        });
      }
      await queries.insertInto('api_key').values(row).execute();
    });
    await this.#book.refresh();
    return { ...shown(row), key };
  }

  async list({ query }: Pick<AgentInput<typeof listApiKeys>, 'query'>) {
    const nowMs = this.#now();
    let select = this.#store.db.selectFrom('api_key').selectAll();
    if (query.status === 'revoked') select = select.where('revoked_at_ms', 'is not', null);
    if (query.status === 'expired') {
      select = select.where('revoked_at_ms', 'is', null).where('expires_at_ms', '<=', nowMs);
    }
    if (query.status === 'active') {
      select = select
        .where('revoked_at_ms', 'is', null)
        .where((where) =>
          where.or([where('expires_at_ms', 'is', null), where('expires_at_ms', '>', nowMs)]),
        );
    }
    // Ids count up with time.
    if (query.cursor !== undefined) select = select.where('id', '>', query.cursor);
    const rows = await select
      .orderBy('id')
      .limit(query.limit + 1)
      .execute();
    const items = rows.slice(0, query.limit).map(shown);
    return { items, nextCursor: rows.length > query.limit ? (items.at(-1)?.id ?? null) : null };
  }

  /** @throws ServiceError `not_found` */
  async read({ params }: Pick<AgentInput<typeof readApiKey>, 'params'>): Promise<ApiKey> {
    const row = await this.#store.db
      .selectFrom('api_key')
      .selectAll()
      .where('id', '=', params.id)
      .executeTakeFirst();
    if (row === undefined) throw notFound();
    return shown(row);
  }

  /** Once more changes nothing. @throws ServiceError `not_found` */
  async revoke(
    caller: Caller,
    { params }: Pick<AgentInput<typeof revokeApiKey>, 'params'>,
  ): Promise<ApiKey> {
    const { roles, namespaces } = await this.read({ params });
    this.#mayGive(caller, roles, namespaces);
    await this.#store.write(async (queries) => {
      await nextRevision(queries);
      await queries
        .updateTable('api_key')
        .set({ revoked_at_ms: this.#now() })
        .where('id', '=', params.id)
        .where('revoked_at_ms', 'is', null)
        .execute();
    });
    await this.#book.refresh();
    return this.read({ params });
  }

  /** Whether any key was ever made: the first one is the bootstrap key. */
  async isEmpty(): Promise<boolean> {
    const row = await this.#store.db.selectFrom('api_key').select('id').limit(1).executeTakeFirst();
    return row === undefined;
  }

  /** Nobody gives away more than they have. @throws ServiceError `permission_denied` */
  #mayGive(caller: Caller, roles: readonly string[], namespaces: readonly string[]): void {
    if (this.#book.permissionsOf(caller.identity).isEverything) return;
    const own = caller.identity.namespaces ?? ['*'];
    const isWithin =
      roles.every((name) => caller.identity.roles.includes(name)) &&
      (own.includes('*') || namespaces.every((pattern) => own.includes(pattern)));
    if (isWithin) return;
    throw new ServiceError('permission_denied', {
      detail: 'a key may hold no role and no namespace that its maker does not have',
    });
  }
}

async function countActive(queries: Queries<AccessTables>, nowMs: number): Promise<number> {
  const { count } = await queries
    .selectFrom('api_key')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .where('revoked_at_ms', 'is', null)
    .where((where) =>
      where.or([where('expires_at_ms', 'is', null), where('expires_at_ms', '>', nowMs)]),
    )
    .executeTakeFirstOrThrow();
  return Number(count);
}

const instant = (ms: number | null) => (ms === null ? null : new Date(Number(ms)).toISOString());

function shown(row: Row): ApiKey {
  return {
    id: row.id,
    name: row.name,
    prefix: row.prefix,
    roles: JSON.parse(row.roles) as string[],
    namespaces: JSON.parse(row.namespaces) as string[],
    createdAt: new Date(Number(row.created_at_ms)).toISOString(),
    createdBy: row.created_by,
    expiresAt: instant(row.expires_at_ms),
    lastUsedAt: instant(row.last_used_at_ms),
    revokedAt: instant(row.revoked_at_ms),
  };
}
