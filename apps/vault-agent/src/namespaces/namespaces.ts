/** The namespaces of a vault: made, changed, copied, renamed and deleted as a whole, or not at all. */

import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import type {
  copyNamespace,
  createNamespace,
  listNamespaces,
  NamespaceFacts,
  NamespaceStatistics,
  updateNamespace,
} from '@keystead/contracts/agent-api/namespaces';
import type { AgentInput } from '@keystead/contracts/agent-api/operation';
import { secretLimits } from '@keystead/contracts/agent-api/secret-limits';
import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import { isDuplicate, type Queries, type SqlKind } from '@keystead/vault-store/sql/sql-store';
import { type Selectable, sql } from 'kysely';
import type { Caller } from '../access/caller.ts';
import { type KeyRing, MasterChanged, type NewKey } from '../keys/key-ring.ts';
import type { AccessCounter } from '../secrets/access-counter.ts';
import { openValue, sealValue } from '../secrets/sealed-value.ts';
import { instantOf, listedFactsOf, requireEtag } from '../secrets/secret-rows.ts';
import type { AgentStore } from '../store/agent-store.ts';
import type { AgentSchema, NamespaceTable } from '../store/agent-tables.ts';
import { lockNamespace, lockVault } from '../store/locks.ts';
import { type Page, PageWork, type Sees, visiblePage } from '../store/visible-page.ts';
import { identityText } from './namespace-change.ts';
import { type NamespaceDirectory, noSuchNamespace } from './namespace-directory.ts';

type NamespaceRow = Selectable<NamespaceTable>;
export type CreateNamespaceInput = AgentInput<typeof createNamespace>['body'];
export type UpdateNamespaceInput = AgentInput<typeof updateNamespace>['body'];
export type ListNamespacesInput = AgentInput<typeof listNamespaces>['query'];
export type CopyNamespaceInput = AgentInput<typeof copyNamespace>['body'];

export interface NamespacesOptions {
  store: AgentStore;
  keys: KeyRing;
  directory: NamespaceDirectory;
  accesses: AccessCounter;
  now?: () => number;
  /** Another number only in tests. */
  namespacesMax?: number;
}

/** Secrets that a copy holds in memory at once. */
const copyBatch = 50;
/** A new master key is met at most this often in a row. */
const masterChangesMax = 5;
/** Of the most read secrets, where some of them may be hidden. */
const topLooksAt = 1_000;

const uncounted = {
  secretCount: null,
  deletedCount: null,
  versionCount: null,
  totalBytes: null,
  averageNameBytes: null,
  averageValueBytes: null,
  accessCount: null,
  accessCount24h: null,
  lastAccessedAt: null,
};

export class Namespaces {
  readonly #store: AgentStore;
  readonly #keys: KeyRing;
  readonly #directory: NamespaceDirectory;
  readonly #accesses: AccessCounter;
  readonly #now: () => number;
  readonly #namespacesMax: number;

  constructor(options: NamespacesOptions) {
    this.#store = options.store;
    this.#keys = options.keys;
    this.#directory = options.directory;
    this.#accesses = options.accesses;
    this.#now = options.now ?? Date.now;
    this.#namespacesMax = options.namespacesMax ?? secretLimits.namespacesMax;
  }

  /** @throws ServiceError `conflict` where the name is taken, `limit_reached` */
  async create(caller: Caller, input: CreateNamespaceInput): Promise<NamespaceFacts> {
    const row = await this.#withNewKey(input.name, async (queries, id, key) => {
      const nowMs = this.#now();
      const made: NamespaceRow = {
        id,
        name: input.name,
        description: input.description,
        owner: input.owner,
        tags: JSON.stringify(input.tags),
        secrets_max: input.limits.secretsMax ?? secretLimits.secretsPerNamespaceDefault,
        value_max_bytes: input.limits.valueMaxBytes ?? apiLimits.valueMaxBytes,
        revision: 1,
        purged_revision: 0,
        secret_count: 0,
        deleted_count: 0,
        version_count: 0,
        total_bytes: 0,
        name_bytes: 0,
        created_at_ms: nowMs,
        created_by: identityText(caller.identity),
        updated_at_ms: nowMs,
      };
      await this.#insert(queries, made, key);
      return made;
    });
    return namespaceFactsOf(row);
  }

  /** @throws ServiceError `not_found` */
  async get(name: string): Promise<NamespaceFacts> {
    return namespaceFactsOf(await this.#row(name));
  }

  /** A page by name, of what the caller sees. The cursor is the last name of the page before. */
  async list(query: ListNamespacesInput, sees?: Sees): Promise<Page<NamespaceFacts>> {
    const { prefix, tag } = query;
    const { items, nextCursor } = await visiblePage(
      query,
      (after, count) =>
        this.#store.read((queries) => {
          let page = queries.selectFrom('namespace').selectAll();
          if (after !== undefined) page = page.where('name', '>', after);
          if (prefix !== undefined && prefix !== '') {
            page = page.where('name', '>=', prefix).where('name', '<', `${prefix}~`);
          }
          // At most a thousand rows: the tag is looked for in the JSON array, where it stands in quotes.
          if (tag !== undefined) {
            page = page.where(sql<boolean>`tags like ${`%"${likeLiteral(tag)}"%`} escape '!'`);
          }
          return page.orderBy('name').limit(count).execute();
        }),
      ({ name }) => name,
      sees &&
        (({ name, tags, owner }) =>
          sees({ namespace: name, facts: () => ({ tags: JSON.parse(tags), owner }) })),
    );
    return { items: items.map(namespaceFactsOf), nextCursor };
  }

  /** @throws ServiceError `unprocessable` for a limit below what is there */
  async update(
    name: string,
    input: UpdateNamespaceInput,
    ifMatch: string | null = null,
  ): Promise<NamespaceFacts> {
    const { id } = await this.#row(name);
    const changed = await this.#store.write(async (queries) => {
      const row = await lockNamespace(this.#store.kind, queries, id);
      if (row?.name !== name) throw noSuchNamespace(name);
      requireEtag(String(row.revision), ifMatch);
      const secretsMax = input.limits?.secretsMax ?? row.secrets_max;
      if (secretsMax < row.secret_count) {
        throw new ServiceError('unprocessable', {
          detail: `The namespace holds ${row.secret_count} secrets: its limit cannot be ${secretsMax}`,
        });
      }
      const values = {
        description: input.description ?? row.description,
        owner: input.owner ?? row.owner,
        tags: input.tags === undefined ? row.tags : JSON.stringify(input.tags),
        secrets_max: secretsMax,
        value_max_bytes: input.limits?.valueMaxBytes ?? row.value_max_bytes,
        revision: row.revision + 1,
        updated_at_ms: this.#now(),
      };
      await queries.updateTable('namespace').set(values).where('id', '=', id).execute();
      return { ...row, ...values };
    });
    return namespaceFactsOf(changed);
  }

  /** Deletes it with everything in it, for good. @throws ServiceError `conflict` where it is not empty */
  async delete(
    name: string,
    options: { onlyEmpty?: boolean; ifMatch?: string | null } = {},
  ): Promise<{ name: string; deletedSecrets: number }> {
    const { id } = await this.#row(name);
    const deletedSecrets = await this.#store.writeInBulk(async (queries) => {
      // Always in this order: the namespace, then the vault.
      const row = await lockNamespace(this.#store.kind, queries, id);
      if (row?.name !== name) throw noSuchNamespace(name);
      requireEtag(String(row.revision), options.ifMatch);
      const vault = await lockVault(this.#store.kind, queries);
      if (options.onlyEmpty && row.secret_count > 0) {
        throw new ServiceError('conflict', {
          detail: `The namespace ${name} holds ${row.secret_count} secrets`,
        });
      }
      await removeNamespace(queries, id);
      await queries
        .updateTable('vault_state')
        .set({ namespace_count: vault.namespace_count - 1 })
        .where('only', '=', 1)
        .execute();
      return row.secret_count;
    });
    const known = this.#directory.known(name);
    if (known?.id === id) this.#directory.forget(known);
    // It may be open without its name being known, as after a change of the name.
    this.#keys.forget(id);
    return { name, deletedSecrets };
  }

  /** Gives it another name; ids and keys stay. @throws ServiceError `conflict` where the name is taken */
  async move(name: string, to: string, ifMatch: string | null = null): Promise<NamespaceFacts> {
    const { id } = await this.#row(name);
    const changed = await nameOrConflict(to, () =>
      this.#store.write(async (queries) => {
        const row = await lockNamespace(this.#store.kind, queries, id);
        if (row?.name !== name) throw noSuchNamespace(name);
        requireEtag(String(row.revision), ifMatch);
        const revision = row.revision + 1;
        const values = {
          name: to,
          revision,
          purged_revision: revision,
          updated_at_ms: this.#now(),
        };
        await queries.updateTable('namespace').set(values).where('id', '=', id).execute();
        return { ...row, ...values };
      }),
    );
    const known = this.#directory.known(name);
    if (known?.id === id) this.#directory.forgetName(known);
    return namespaceFactsOf(changed);
  }

  /**
   * Copies it, with all versions, sealed anew under the copy's own key. Changes of the original wait
   * until the copy is complete.
   * @throws ServiceError `conflict` where the name is taken, `limit_reached`
   */
  async copy(
    caller: Caller,
    name: string,
    input: CopyNamespaceInput,
  ): Promise<{ namespace: NamespaceFacts; copiedSecrets: number }> {
    const { id: fromId } = await this.#row(name);
    const fromKey = await this.#keys.namespaceKey(fromId);
    const row = await this.#withNewKey(input.to, async (queries, id, key) => {
      const from = await lockNamespace(this.#store.kind, queries, fromId);
      if (from?.name !== name) throw noSuchNamespace(name);
      const nowMs = this.#now();
      const made: NamespaceRow = {
        ...from,
        id,
        name: input.to,
        revision: 1,
        purged_revision: 0,
        version_count: 0,
        created_at_ms: nowMs,
        created_by: identityText(caller.identity),
        updated_at_ms: nowMs,
      };
      const copied = await this.#copySecrets(queries, { fromId, fromKey, id, key, nowMs });
      // A version that a rotation has not finished stays behind.
      made.version_count = copied.versions;
      made.total_bytes = copied.bytes;
      await this.#insert(queries, made, key);
      return made;
    });
    return { namespace: namespaceFactsOf(row), copiedSecrets: row.secret_count };
  }

  /** What it holds and how it is used, without looking at every secret. */
  async statistics(
    name: string,
    top: number,
    { sees, seesAllOf }: Pick<Caller, 'sees' | 'seesAllOf'> = {},
  ): Promise<NamespaceStatistics> {
    await this.#accesses.settle();
    const row = await this.#row(name);
    const secrets = await this.#store.read((queries) =>
      queries
        .selectFrom('secret_access')
        .innerJoin('secret', 'secret.id', 'secret_access.secret_id')
        .select(['secret.name', 'secret.tags', 'secret.metadata'])
        .select(['secret_access.access_count', 'secret_access.last_accessed_at_ms'])
        .where('secret_access.namespace_id', '=', row.id)
        .where('secret_access.access_count', '>', 0)
        .orderBy('secret_access.access_count', 'desc')
        .limit(sees === undefined ? top : topLooksAt)
        .execute(),
    );
    const topSecrets: NamespaceStatistics['topSecrets'] = [];
    const work = new PageWork();
    for (const secret of secrets) {
      if (topSecrets.length === top || work.isSpent) break;
      await work.next();
      const facts = () => listedFactsOf(secret);
      if (sees && !(await sees({ namespace: name, secret: secret.name, facts }))) continue;
      topSecrets.push({
        name: secret.name,
        accessCount: secret.access_count,
        lastAccessedAt: new Date(secret.last_accessed_at_ms).toISOString(),
      });
    }
    const { tags, owner } = row;
    const facts = () => ({ tags: JSON.parse(tags), owner });
    if ((await seesAllOf?.({ namespace: name, facts })) === false) {
      return { namespace: name, ...uncounted, topSecrets };
    }
    return { namespace: name, ...(await this.#counts(row)), topSecrets };
  }

  async #counts(row: NamespaceRow) {
    const firstHour = Math.floor(this.#now() / 3_600_000) - 23;
    return this.#store.read(async (queries) => {
      const total = await queries
        .selectFrom('namespace_access')
        .selectAll()
        .where('namespace_id', '=', row.id)
        .executeTakeFirst();
      const day = await queries
        .selectFrom('namespace_access_hour')
        .select((select) => select.fn.sum<number | null>('access_count').as('count'))
        .where('namespace_id', '=', row.id)
        .where('hour', '>=', firstHour)
        .executeTakeFirst();
      const lastAtMs = total?.last_accessed_at_ms ?? 0;
      return {
        secretCount: row.secret_count,
        deletedCount: row.deleted_count,
        versionCount: row.version_count,
        totalBytes: row.total_bytes,
        averageNameBytes: average(row.name_bytes, row.secret_count),
        averageValueBytes: average(row.total_bytes, row.version_count),
        accessCount: total?.access_count ?? 0,
        accessCount24h: Number(day?.count ?? 0),
        lastAccessedAt: instantOf(lastAtMs === 0 ? null : lastAtMs),
      };
    });
  }

  /** The latest accesses, the newest first. The cursor is the last position of the page before. */
  async accessLog(
    name: string,
    query: { limit: number; cursor?: string | undefined },
    sees?: Sees,
  ) {
    const row = await this.#row(name);
    await this.#accesses.flush();
    if (query.cursor !== undefined && !Number.isSafeInteger(Number(query.cursor))) {
      throw new ServiceError('invalid_cursor');
    }
    const { items, nextCursor } = await visiblePage(
      query,
      (after, count) =>
        this.#store.read((queries) => {
          let page = queries
            .selectFrom('access_log')
            .selectAll()
            .where('namespace_id', '=', row.id);
          if (after !== undefined) page = page.where('position', '<', Number(after));
          return page.orderBy('position', 'desc').limit(count).execute();
        }),
      ({ position }) => String(position),
      sees && ((entry) => sees({ namespace: name, secret: entry.secret_name })),
    );
    return {
      items: items.map((entry) => ({
        at: new Date(entry.at_ms).toISOString(),
        operation: entry.operation,
        secret: entry.secret_name,
        identity: entry.identity,
        durationMicroseconds: entry.duration_us,
      })),
      nextCursor,
    };
  }

  /** Sums over all namespaces, for metrics and reports. */
  async totals(): Promise<{ namespaces: number; secrets: number; bytes: number }> {
    const row = await this.#store.read((queries) =>
      queries
        .selectFrom('namespace')
        .select((select) => [
          select.fn.countAll<number>().as('namespaces'),
          select.fn.sum<number | null>('secret_count').as('secrets'),
          select.fn.sum<number | null>('total_bytes').as('bytes'),
        ])
        .executeTakeFirstOrThrow(),
    );
    return {
      namespaces: Number(row.namespaces),
      secrets: Number(row.secrets ?? 0),
      bytes: Number(row.bytes ?? 0),
    };
  }

  /** A namespace is made under the lock that master keys are replaced under. */
  async #withNewKey(
    name: string,
    work: (queries: Queries<AgentSchema>, id: string, key: NewKey) => Promise<NamespaceRow>,
  ): Promise<NamespaceRow> {
    for (let attempt = 1; ; attempt += 1) {
      const id = toId('namespace', newUuid(this.#now()));
      const key = this.#keys.newKey(id);
      try {
        const row = await nameOrConflict(name, () =>
          this.#store.writeInBulk((queries) => work(queries, id, key)),
        );
        this.#keys.keep(id, key);
        return row;
      } catch (error) {
        key.key.wipe();
        if (!(error instanceof MasterChanged) || attempt >= masterChangesMax) throw error;
        await this.#keys.refresh();
      }
    }
  }

  #insert(queries: Queries<AgentSchema>, row: NamespaceRow, key: NewKey): Promise<void> {
    return insertNamespace(queries, this.#store.kind, this.#keys, row, key, this.#namespacesMax);
  }

  async #copySecrets(
    queries: Queries<AgentSchema>,
    copy: {
      fromId: string;
      fromKey: Awaited<ReturnType<KeyRing['namespaceKey']>>;
      id: string;
      key: NewKey;
      nowMs: number;
    },
  ): Promise<{ versions: number; bytes: number }> {
    let after = '';
    const copied = { versions: 0, bytes: 0 };
    for (;;) {
      const secrets = await queries
        .selectFrom('secret')
        .selectAll()
        .where('namespace_id', '=', copy.fromId)
        .where('name', '>', after)
        .orderBy('name')
        .limit(copyBatch)
        .execute();
      const last = secrets.at(-1);
      if (last === undefined) return copied;
      after = last.name;
      const ids = new Map(secrets.map(({ id }) => [id, toId('secret', newUuid(copy.nowMs))]));
      const idOf = (id: string) => ids.get(id) as string;
      await queries
        .insertInto('secret')
        .values(
          secrets.map((row) => ({
            ...row,
            id: idOf(row.id),
            namespace_id: copy.id,
            revision: 1,
          })),
        )
        .execute();
      await queries
        .insertInto('secret_access')
        .values(
          secrets.map((row) => ({
            secret_id: idOf(row.id),
            namespace_id: copy.id,
            access_count: 0,
            last_accessed_at_ms: 0,
          })),
        )
        .execute();
      const tags = secrets.flatMap((row) =>
        (JSON.parse(row.tags) as string[]).map((tag) => ({
          namespace_id: copy.id,
          tag,
          name: row.name,
          secret_id: idOf(row.id),
        })),
      );
      if (tags.length > 0) await queries.insertInto('secret_tag').values(tags).execute();
      for (const secret of secrets) {
        const versions = await queries
          .selectFrom('secret_version')
          .selectAll()
          .where('secret_id', '=', secret.id)
          .where('state', '!=', 'pending')
          .orderBy('version')
          .execute();
        for (const version of versions) {
          const from = { namespaceId: copy.fromId, secretId: secret.id, version: version.version };
          const to = {
            namespaceId: copy.id,
            secretId: idOf(secret.id),
            version: version.version,
          };
          let sealed: Uint8Array = version.sealed;
          if (version.state !== 'destroyed') {
            const value = openValue(copy.fromKey, from, version.sealed);
            sealed = sealValue(copy.key.key, to, value);
            value.fill(0);
          }
          await queries
            .insertInto('secret_version')
            .values({ ...version, secret_id: to.secretId, sealed, origin: 'copy' })
            .execute();
          copied.versions += 1;
          copied.bytes += version.byte_length;
        }
      }
      // Readings come in between: on SQLite this transaction is work of this thread.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async #row(name: string): Promise<NamespaceRow> {
    const row = await this.#store.read((queries) =>
      queries.selectFrom('namespace').selectAll().where('name', '=', name).executeTakeFirst(),
    );
    if (row === undefined) throw noSuchNamespace(name);
    return row;
  }
}

/**
 * Stores a new namespace with its key, under the lock that master keys are replaced under.
 * @throws ServiceError `limit_reached`, MasterChanged
 */
export async function insertNamespace(
  queries: Queries<AgentSchema>,
  kind: SqlKind,
  keys: KeyRing,
  row: NamespaceRow,
  key: NewKey,
  namespacesMax: number = secretLimits.namespacesMax,
): Promise<void> {
  const vault = await lockVault(kind, queries);
  if (vault.namespace_count >= namespacesMax) {
    throw new ServiceError('limit_reached', {
      detail: `The vault holds ${namespacesMax} namespaces, its maximum`,
    });
  }
  await queries.insertInto('namespace').values(row).execute();
  await queries
    .insertInto('namespace_access')
    .values({ namespace_id: row.id, access_count: 0, last_accessed_at_ms: 0 })
    .execute();
  await keys.addKey(queries, row.id, key);
  await queries
    .updateTable('vault_state')
    .set({ namespace_count: vault.namespace_count + 1 })
    .where('only', '=', 1)
    .execute();
}

/** Removes every row of a namespace. */
export async function removeNamespace(queries: Queries<AgentSchema>, id: string): Promise<void> {
  await queries
    .deleteFrom('secret_version')
    .where('secret_id', 'in', (inner) =>
      inner.selectFrom('secret').select('id').where('namespace_id', '=', id),
    )
    .execute();
  const tables = [
    'secret_tag',
    'secret_access',
    'secret',
    'namespace_access',
    'namespace_access_hour',
    'access_log',
  ] as const;
  for (const table of tables) {
    await queries.deleteFrom(table).where('namespace_id', '=', id).execute();
  }
  await queries.deleteFrom('wrapped_key').where('id', '=', id).execute();
  await queries.deleteFrom('namespace').where('id', '=', id).execute();
}

export function namespaceFactsOf(row: NamespaceRow): NamespaceFacts {
  return {
    id: row.id,
    name: row.name,
    description: row.description,
    owner: row.owner,
    tags: JSON.parse(row.tags),
    limits: { secretsMax: row.secrets_max, valueMaxBytes: row.value_max_bytes },
    secretCount: row.secret_count,
    deletedCount: row.deleted_count,
    versionCount: row.version_count,
    totalBytes: row.total_bytes,
    createdAt: new Date(row.created_at_ms).toISOString(),
    createdBy: row.created_by,
    updatedAt: new Date(row.updated_at_ms).toISOString(),
    etag: String(row.revision),
  };
}

async function nameOrConflict<T>(name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isDuplicate(error)) throw error;
    throw new ServiceError('conflict', {
      detail: `There is a namespace ${name} already`,
      cause: error,
    });
  }
}

/** `_` is a wildcard of LIKE, and tags may hold it. A tag holds no quote and no `!`. */
function likeLiteral(tag: string): string {
  return tag.replaceAll('_', '!_');
}

function average(sum: number, count: number): number {
  return count === 0 ? 0 : Math.round((sum / count) * 100) / 100;
}
