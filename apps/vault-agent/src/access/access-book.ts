/**
 * What this process knows of keys and roles: permissions made ready, keys that were verified. It is a
 * copy: every change adds to the revision in its own transaction, each agent of the vault asks for it
 * several times a second and reads what it knows anew when it has grown. So a revoked key is refused
 * everywhere within a second, and no request waits for the database.
 */
import type { Permission } from '@keystead/contracts/agent-api/access';
import { ServiceError } from '@keystead/contracts/errors';
import type { Queries, SqlStore } from '@keystead/vault-store/sql/sql-store';
import type { Selectable } from 'kysely';
import { LRUCache } from 'lru-cache';
import { accessLimits } from './access-limits.ts';
import type { AccessTables } from './access-tables.ts';
import { digestOf, isSameDigest, isWellFormed, prefixOf } from './api-key-text.ts';
import type { CallerIdentity } from './caller.ts';
import { builtInRole, type NamedRole, Permissions } from './role.ts';

export interface VerifiedKey {
  identity: CallerIdentity;
  digest: Buffer;
  expiresAtMs: number;
  /** When the last use was noted, or 0. */
  notedAtMs: number;
  /** False as soon as something about it may have changed. */
  isCurrent: boolean;
}

export type KeyVerdict =
  | { known: true; key: VerifiedKey }
  /** `mistyped`: not even the checksum holds. `wrong`: the key exists, its secret is another. */
  | { known: false; reason: 'mistyped' | 'unknown' | 'wrong' | 'expired' | 'revoked' };

export interface AccessBookOptions {
  store: SqlStore<AccessTables>;
  now: () => number;
  monotonicMs?: () => number;
  /** Told once when the store cannot be asked, and once when it can again. */
  onStoreReachable?: (isReachable: boolean, error?: unknown) => void;
}

export class AccessBook {
  readonly #store: SqlStore<AccessTables>;
  readonly #now: () => number;
  readonly #monotonicMs: () => number;
  readonly #onStoreReachable: AccessBookOptions['onStoreReachable'];
  readonly #keys = new LRUCache<string, VerifiedKey>({
    max: accessLimits.verifiedKeysMax,
    dispose: (verified) => {
      verified.isCurrent = false;
    },
  });
  readonly #used = new Map<string, number>();
  #roles = new Map<string, NamedRole>();
  #permissions = new WeakMap<CallerIdentity, Permissions>();
  #revision = -1;
  #freshAtMs = 0;
  #isReachable = true;
  #refreshing: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: AccessBookOptions) {
    this.#store = options.store;
    this.#now = options.now;
    this.#monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.#onStoreReachable = options.onStoreReachable;
  }

  async open(): Promise<void> {
    await this.refresh();
    this.#timer = setInterval(() => void this.#look(), accessLimits.revisionPollMs);
    this.#timer.unref();
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#refreshing?.catch(() => undefined);
    await this.#noteUses().catch(() => undefined);
  }

  /** Reads what changed; also right after a change of one's own. */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#read().finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  role(name: string): NamedRole | undefined {
    return builtInRole(name) ?? this.#roles.get(name);
  }

  /** What the roles of an identity permit at this moment. */
  permissionsOf(identity: CallerIdentity): Permissions {
    const known = this.#permissions.get(identity);
    if (known !== undefined) return known;
    const roles = identity.roles
      .map((name) => this.role(name))
      .filter((role) => role !== undefined)
      .filter(({ name }) => name !== 'system' || identity.kind === 'system');
    const permissions = new Permissions(roles, identity.namespaces);
    this.#permissions.set(identity, permissions);
    return permissions;
  }

  /**
   * Whose key that is, without waiting: undefined where the store has to be asked.
   * @throws ServiceError `unavailable` when it is too long ago that the store could be asked
   */
  recall(key: string): VerifiedKey | undefined {
    const verified = this.#keys.get(prefixOf(key));
    if (verified === undefined || !isSameDigest(verified.digest, digestOf(key))) return undefined;
    return this.stillHolds(verified) ? verified : undefined;
  }

  /**
   * Whether what was recalled before holds at this moment.
   * @throws ServiceError `unavailable` when it is too long ago that the store could be asked
   */
  stillHolds(verified: VerifiedKey): boolean {
    if (!verified.isCurrent) return false;
    this.#checkFresh();
    const nowMs = this.#now();
    if (verified.expiresAtMs <= nowMs) return false;
    if (nowMs - verified.notedAtMs > accessLimits.lastUsedEveryMs) this.#noteUse(verified, nowMs);
    return true;
  }

  /** @throws ServiceError `unavailable` */
  async verify(key: string): Promise<KeyVerdict> {
    if (!isWellFormed(key)) return { known: false, reason: 'mistyped' };
    const revision = this.#revision;
    const row = await this.#store.db
      .selectFrom('api_key')
      .selectAll()
      .where('prefix', '=', prefixOf(key))
      .executeTakeFirst()
      .catch((error: unknown) => {
        throw new ServiceError('unavailable', {
          detail: 'The store cannot be asked about this key at the moment',
          internal: 'looking an API key up failed',
          cause: error,
        });
      });
    if (row === undefined) return { known: false, reason: 'unknown' };
    const verified = verifiedKeyOf(row);
    if (!isSameDigest(verified.digest, digestOf(key))) return { known: false, reason: 'wrong' };
    if (row.revoked_at_ms !== null) return { known: false, reason: 'revoked' };
    const nowMs = this.#now();
    if (verified.expiresAtMs <= nowMs) return { known: false, reason: 'expired' };
    this.#noteUse(verified, nowMs);
    // What changed meanwhile was read anew for the keys in the book, and this one is not in it yet.
    if (revision === this.#revision) this.#keys.set(row.prefix, verified);
    return { known: true, key: verified };
  }

  #checkFresh(): void {
    if (this.#monotonicMs() - this.#freshAtMs <= accessLimits.verdictsTrustedMs) return;
    throw new ServiceError('unavailable', {
      detail: 'The store cannot be asked whether this key still holds',
    });
  }

  #noteUse(verified: VerifiedKey, nowMs: number): void {
    verified.notedAtMs = nowMs;
    this.#used.set(verified.identity.id, nowMs);
  }

  async #look(): Promise<void> {
    try {
      await this.refresh();
      if (!this.#isReachable) this.#onStoreReachable?.(true);
      this.#isReachable = true;
      await this.#noteUses();
    } catch (error) {
      if (this.#isReachable) this.#onStoreReachable?.(false, error);
      this.#isReachable = false;
    }
  }

  async #read(): Promise<void> {
    const askedAtMs = this.#monotonicMs();
    const revision = await readRevision(this.#store.db);
    if (revision !== this.#revision) {
      const rows = await this.#store.db.selectFrom('access_role').selectAll().execute();
      this.#roles = new Map(
        rows.map((row) => [
          row.name,
          {
            name: row.name,
            description: row.description,
            permissions: JSON.parse(row.permissions) as Permission[],
          },
        ]),
      );
      await this.#readKeysAgain();
      this.#permissions = new WeakMap();
      this.#revision = revision;
    }
    this.#freshAtMs = askedAtMs;
  }

  /** Who is known stays known, as what they are now: nobody is verified anew for another's change. */
  async #readKeysAgain(): Promise<void> {
    const prefixes = [...this.#keys.keys()];
    for (let start = 0; start < prefixes.length; start += accessLimits.keysReadAtOnce) {
      const some = prefixes.slice(start, start + accessLimits.keysReadAtOnce);
      const rows = await this.#store.db
        .selectFrom('api_key')
        .selectAll()
        .where('prefix', 'in', some)
        .execute();
      const found = new Map(rows.map((row) => [row.prefix, row]));
      for (const prefix of some) {
        const row = found.get(prefix);
        const before = this.#keys.peek(prefix);
        if (row === undefined || row.revoked_at_ms !== null) this.#keys.delete(prefix);
        else if (before !== undefined) {
          this.#keys.set(prefix, { ...verifiedKeyOf(row), notedAtMs: before.notedAtMs });
        }
      }
    }
  }

  async #noteUses(): Promise<void> {
    if (this.#used.size === 0) return;
    const uses = [...this.#used].slice(0, accessLimits.lastUsedWrittenAtOnceMax);
    for (const [id] of uses) this.#used.delete(id);
    await this.#store.write(async (queries) => {
      for (const [id, atMs] of uses) {
        await queries
          .updateTable('api_key')
          .set({ last_used_at_ms: atMs })
          .where('id', '=', id)
          .execute();
      }
    });
  }
}

function verifiedKeyOf(row: Selectable<AccessTables['api_key']>): VerifiedKey {
  const namespaces = JSON.parse(row.namespaces) as string[];
  return {
    identity: Object.freeze({
      kind: 'api_key' as const,
      id: row.id,
      name: row.name,
      roles: Object.freeze(JSON.parse(row.roles) as string[]),
      ...(namespaces.includes('*') ? {} : { namespaces: Object.freeze(namespaces) }),
    }),
    digest: Buffer.from(row.digest),
    expiresAtMs: row.expires_at_ms === null ? Number.POSITIVE_INFINITY : Number(row.expires_at_ms),
    notedAtMs: 0,
    isCurrent: true,
  };
}

async function readRevision(queries: Queries<AccessTables>): Promise<number> {
  const row = await queries
    .selectFrom('access_state')
    .select('revision')
    .where('id', '=', 1)
    .executeTakeFirstOrThrow();
  return Number(row.revision);
}

/** In the transaction of every change of keys or roles. */
export async function nextRevision(queries: Queries<AccessTables>): Promise<void> {
  await queries
    .updateTable('access_state')
    .set((row) => ({ revision: row('revision', '+', 1) }))
    .where('id', '=', 1)
    .execute();
}
