/**
 * Which namespaces there are, and what changed in them: the part of the store that every process keeps
 * in memory. Twice a second the revisions of all namespaces are read, at most a thousand small rows; what
 * is cached of a namespace that changed is dropped. As long as the last look is recent, what is cached
 * is at most a second behind any process that writes.
 */
import { ServiceError } from '@keystead/contracts/errors';
import type { KeyRing } from '../keys/key-ring.ts';
import type { AgentStore } from '../store/agent-store.ts';
import { storeLimits } from '../store/store-limits.ts';

/** A namespace as this process knows it. */
export interface KnownNamespace {
  readonly id: string;
  name: string;
  /** Changes of secrets up to this revision have been noticed. */
  seenRevision: number;
  /** Grows whenever something of it was dropped: what was being read meanwhile is not to be cached. */
  generation: number;
  /** Grows when everything of it was dropped. */
  epoch: number;
  isGone: boolean;
}

export interface CacheListener {
  /** One secret changed. */
  dropSecret(namespace: KnownNamespace, secretName: string): void;
  /** The namespace is gone. */
  dropNamespace(namespace: KnownNamespace): void;
}

/** More changed names than this between two looks are not asked for one by one. */
const changedNamesMax = 2_000;

export interface NamespaceDirectoryOptions {
  store: AgentStore;
  keys: KeyRing;
  monotonicMs?: () => number;
  /** Told of what went wrong in the background. */
  onError?: (error: unknown) => void;
}

export class NamespaceDirectory {
  readonly #store: AgentStore;
  readonly #keys: KeyRing;
  readonly #monotonicMs: () => number;
  readonly #onError: (error: unknown) => void;
  readonly #byName = new Map<string, KnownNamespace>();
  readonly #byId = new Map<string, KnownNamespace>();
  #listener: CacheListener | undefined;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #looking: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;

  constructor(options: NamespaceDirectoryOptions) {
    this.#store = options.store;
    this.#keys = options.keys;
    this.#monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.#onError = options.onError ?? (() => undefined);
  }

  /** The cache that is to be kept in step. */
  listen(listener: CacheListener): void {
    this.#listener = listener;
  }

  /** Looks at once and then regularly. */
  async start(): Promise<void> {
    await this.look();
    const next = () => {
      if (this.#isStopped) return;
      this.#timer = setTimeout(() => {
        this.look().catch(this.#onError).finally(next);
      }, storeLimits.pollPeriodMs);
      this.#timer.unref();
    };
    next();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    await this.#looking?.catch(() => undefined);
  }

  /** Whether what is cached is known to be at most a second behind. */
  get isTrusted(): boolean {
    return this.#monotonicMs() - this.#lookedAtMs < storeLimits.cacheTrustedForMs;
  }

  /** How far what is cached may be behind. */
  get behindMs(): number {
    return this.#monotonicMs() - this.#lookedAtMs;
  }

  known(name: string): KnownNamespace | undefined {
    return this.#byName.get(name);
  }

  /**
   * @throws ServiceError `not_found`, or `unavailable`
   */
  async find(name: string): Promise<KnownNamespace> {
    const known = this.#byName.get(name);
    if (known !== undefined) return known;
    const row = await this.#store.read((queries) =>
      queries
        .selectFrom('namespace')
        .select(['id', 'name', 'revision'])
        .where('name', '=', name)
        .executeTakeFirst(),
    );
    if (row === undefined) throw noSuchNamespace(name);
    return this.#remember(row);
  }

  /** After a change by this process. */
  changed(namespace: KnownNamespace, secretName: string): void {
    namespace.generation += 1;
    this.#listener?.dropSecret(namespace, secretName);
  }

  /** After this process changed many secrets at once. */
  changedAll(namespace: KnownNamespace): void {
    namespace.generation += 1;
    namespace.epoch += 1;
  }

  /** After this process deleted it, or found it gone. */
  forget(namespace: KnownNamespace): void {
    this.forgetName(namespace);
    this.#keys.forget(namespace.id);
  }

  /** After it was renamed: its key stays the same. */
  forgetName(namespace: KnownNamespace): void {
    namespace.isGone = true;
    this.changedAll(namespace);
    if (this.#byName.get(namespace.name) === namespace) this.#byName.delete(namespace.name);
    this.#byId.delete(namespace.id);
    this.#listener?.dropNamespace(namespace);
  }

  /** Looks for changes by others. Several callers share one look. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  async #look(): Promise<void> {
    const startedAtMs = this.#monotonicMs();
    // What is remembered from here on may be younger than what the store is about to say.
    const before = [...this.#byId.values()];
    const opened = this.#keys.openNamespaces;
    const rows = await this.#store.read((queries) =>
      queries
        .selectFrom('namespace')
        .select(['id', 'name', 'revision', 'purged_revision'])
        .execute(),
    );
    const present = new Map(rows.map((row) => [row.id, row]));
    for (const namespace of before) {
      if (namespace.isGone) continue;
      const row = present.get(namespace.id);
      if (row === undefined) {
        this.forget(namespace);
        continue;
      }
      if (row.name !== namespace.name) {
        this.forgetName(namespace);
        continue;
      }
      if (row.revision <= namespace.seenRevision) continue;
      if (row.purged_revision > namespace.seenRevision) this.changedAll(namespace);
      else await this.#dropChanged(namespace, row.revision);
      namespace.seenRevision = row.revision;
    }
    for (const id of opened) if (!present.has(id)) this.#keys.forget(id);
    this.#lookedAtMs = startedAtMs;
    // Not waited for: a new master key that its provider does not give out now concerns no key that is
    // at hand, and what is cached is in step without it.
    this.#keys.noticeRotation().catch((error) => {
      if (!this.#isStopped) this.#onError(error);
    });
  }

  async #dropChanged(namespace: KnownNamespace, upTo: number): Promise<void> {
    const changed = await this.#store.read((queries) =>
      queries
        .selectFrom('secret')
        .select('name')
        .where('namespace_id', '=', namespace.id)
        .where('revision', '>', namespace.seenRevision)
        .where('revision', '<=', upTo)
        .limit(changedNamesMax)
        .execute(),
    );
    if (changed.length >= changedNamesMax) return this.changedAll(namespace);
    for (const { name } of changed) this.changed(namespace, name);
  }

  #remember(row: { id: string; name: string; revision: number }): KnownNamespace {
    const known = this.#byId.get(row.id);
    if (known !== undefined && known.name === row.name) return known;
    if (known !== undefined) this.forgetName(known);
    const namespace: KnownNamespace = {
      id: row.id,
      name: row.name,
      seenRevision: row.revision,
      generation: 0,
      epoch: 0,
      isGone: false,
    };
    this.#byId.set(row.id, namespace);
    this.#byName.set(row.name, namespace);
    return namespace;
  }
}

export function noSuchNamespace(name: string): ServiceError {
  return new ServiceError('not_found', { detail: `There is no namespace ${name}` });
}
