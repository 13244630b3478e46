/**
 * One change in a namespace: a transaction that first locks the namespace's row and last writes its
 * counters and its new revision. Changes in one namespace follow one another, on every database.
 */
import { hash } from 'node:crypto';
import type { SecretKey } from '@keystead/envelope/keys';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import type { Selectable } from 'kysely';
import type { CallerIdentity } from '../access/caller.ts';
import type { KeyRing } from '../keys/key-ring.ts';
import type { AgentStore } from '../store/agent-store.ts';
import { type AgentSchema, identityLength, type NamespaceTable } from '../store/agent-tables.ts';
import { lockNamespace } from '../store/locks.ts';
import {
  type KnownNamespace,
  type NamespaceDirectory,
  noSuchNamespace,
} from './namespace-directory.ts';

/** What a change adds to the counters of the namespace. */
export interface Counters {
  secrets: number;
  deleted: number;
  versions: number;
  bytes: number;
  nameBytes: number;
}

export interface NamespaceChange {
  readonly queries: Queries<AgentSchema>;
  /** As it was before. */
  readonly namespace: Selectable<NamespaceTable>;
  readonly key: SecretKey;
  /** The namespace's after the change; secrets that change take it as theirs. */
  readonly revision: number;
  readonly nowMs: number;
  /** `kind:id` of whoever does it. */
  readonly identity: string;
  /** To be added to. */
  readonly counters: Counters;
  /** Set where secrets were removed, so that caches drop everything. */
  hasPurged: boolean;
}

export interface NamespaceChangesOptions {
  store: AgentStore;
  keys: KeyRing;
  directory: NamespaceDirectory;
  now?: () => number;
}

export class NamespaceChanges {
  readonly #store: AgentStore;
  readonly #keys: KeyRing;
  readonly #directory: NamespaceDirectory;
  readonly #now: () => number;

  constructor(options: NamespaceChangesOptions) {
    this.#store = options.store;
    this.#keys = options.keys;
    this.#directory = options.directory;
    this.#now = options.now ?? Date.now;
  }

  /**
   * The work may run again, so it does nothing but queries and arithmetic.
   * @throws ServiceError `not_found` where there is no such namespace
   */
  async make<T>(
    identity: CallerIdentity,
    name: string,
    work: (change: NamespaceChange) => Promise<T>,
    options: { inBulk?: boolean } = {},
  ): Promise<{ result: T; known: KnownNamespace }> {
    for (let attempt = 1; ; attempt += 1) {
      const known = await this.#directory.find(name);
      const key = await this.#keyOf(known);
      const attemptIt = async (queries: Queries<AgentSchema>) => {
        const namespace = key && (await lockNamespace(this.#store.kind, queries, known.id));
        // Gone, or another has the name by now.
        if (key === undefined || namespace === undefined || namespace.name !== name) {
          return undefined;
        }
        const change: NamespaceChange = {
          queries,
          namespace,
          key,
          revision: namespace.revision + 1,
          nowMs: this.#now(),
          identity: identityText(identity),
          counters: { secrets: 0, deleted: 0, versions: 0, bytes: 0, nameBytes: 0 },
          hasPurged: false,
        };
        const result = await work(change);
        await writeCounters(change);
        return { result };
      };
      const done = await (options.inBulk
        ? this.#store.writeInBulk(attemptIt)
        : this.#store.write(attemptIt));
      if (done !== undefined) return { result: done.result, known };
      this.#directory.forget(known);
      if (attempt >= 2) throw noSuchNamespace(name);
    }
  }

  async #keyOf(known: KnownNamespace): Promise<SecretKey | undefined> {
    try {
      return await this.#keys.namespaceKey(known.id);
    } catch (error) {
      if ((error as { code?: string }).code === 'not_found') return undefined;
      throw error;
    }
  }
}

/** The last query of a change. */
export async function writeCounters(change: NamespaceChange): Promise<void> {
  const { queries, namespace, counters, revision } = change;
  await queries
    .updateTable('namespace')
    .set({
      revision,
      ...(change.hasPurged ? { purged_revision: revision } : {}),
      secret_count: namespace.secret_count + counters.secrets,
      deleted_count: namespace.deleted_count + counters.deleted,
      version_count: namespace.version_count + counters.versions,
      total_bytes: namespace.total_bytes + counters.bytes,
      name_bytes: namespace.name_bytes + counters.nameBytes,
    })
    .where('id', '=', namespace.id)
    .execute();
}

/** Nobody is taken for another by a name that ends as if it had been cut. */
const endsInHash = /#[0-9a-f]{16}$/;

/**
 * What a row says of whoever made it. ASCII, because identities of other systems may hold anything; where
 * that takes something away a hash of the whole tells apart what would look alike.
 */
export function identityText(identity: CallerIdentity): string {
  const text = `${identity.kind}:${identity.id}`;
  const plain = text.replace(/[^\x20-\x7e]/g, '?').slice(0, identityLength);
  if (plain === text && !endsInHash.test(text)) return text;
  const tail = `#${hash('sha256', text, 'hex').slice(0, 16)}`;
  return plain.slice(0, identityLength - tail.length) + tail;
}
