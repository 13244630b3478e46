/**
 * The keys of a vault. A key provider guards the master key; the master key wraps one key for each
 * namespace and one for the agent itself; from a namespace's key comes a key for every version of a
 * secret. The store holds the wrapped ones.
 *
 * Rotating the master key makes a second one, wraps every key anew under it, a batch at a time, and then
 * drops the first. Each wrapped key says which master it is under, so every state in between is whole:
 * whoever is killed leaves keys that open, and whoever comes next goes on. What new namespaces are
 * wrapped under is decided in the transaction that makes them, under the same lock that drops a master.
 * Agents that share the store meet a master that they do not know, and ask the provider for it.
 */
import { ServiceError } from '@keystead/contracts/errors';
import {
  type KeyProvider,
  KeyProviderError,
  type WrappedKey,
} from '@keystead/envelope/key-provider';
import {
  deriveKey,
  generateKey,
  type RandomFill,
  type SecretKey,
  unwrapKey,
  wrapKey,
} from '@keystead/envelope/keys';
import { isDuplicate, type Queries } from '@keystead/vault-store/sql/sql-store';
import type { AgentStore } from '../store/agent-store.ts';
import type { AgentSchema, MasterKeyTable } from '../store/agent-tables.ts';
import { lockVault } from '../store/locks.ts';
import type { Circuit } from '../store/store-breaker.ts';
import { keyLimits } from './key-limits.ts';
import { KeyProviderPaused, ProviderBreaker, providerAway } from './provider-breaker.ts';

export interface KeyRingOptions {
  store: AgentStore;
  provider: KeyProvider;
  now?: () => number;
  random?: RandomFill;
  /** Keys wrapped anew in one commit; another number only in tests. */
  rewrapBatch?: number;
  /** Called between the steps of a rotation; tests interrupt it there. */
  onStep?: (step: RotationStep) => void | Promise<void>;
}

export type RotationStep =
  | 'begun'
  | 'rewrapping'
  | 'rewrapped'
  | 'finished'
  | 'wrapped elsewhere'
  | 'moved';

export interface RotationResult {
  masterVersion: number;
  rewrappedKeys: number;
  /** It was begun earlier. */
  resumed: boolean;
}

/** A key that is wrapped and not yet stored. */
export interface NewKey {
  key: SecretKey;
  wrapped: Uint8Array;
  masterVersion: number;
}

/** The master key changed since the key was wrapped: wrap it again. */
export class MasterChanged extends Error {
  constructor() {
    super('the master key was replaced meanwhile');
    this.name = 'MasterChanged';
  }
}

interface Master {
  key: SecretKey;
  createdAtMs: number;
  /** What wrapped it when it was last looked at. */
  guard: string;
}

const systemId = 'system';
const keyVersion = 1;

export class KeyRing {
  readonly #store: AgentStore;
  readonly #now: () => number;
  readonly #random: RandomFill | undefined;
  readonly #rewrapBatchSize: number;
  readonly #onStep: (step: RotationStep) => void | Promise<void>;
  #provider: ProviderBreaker;
  /** By version; two while a rotation is under way. */
  readonly #masters = new Map<number, Master>();
  /** The one that new keys are wrapped under. */
  #newest = 0;
  #isRotating = false;
  #isMoved = false;
  #isClosed = false;
  /** Bounded by the number of namespaces. */
  readonly #keys = new Map<string, SecretKey>();
  #system: SecretKey | undefined;
  #refreshing: Promise<void> | undefined;
  #noticing: Promise<void> | undefined;
  /** Of namespaces that are gone, until their last users are done. */
  readonly #retired = new Set<SecretKey>();
  /** How many hold a key for longer than a request takes. */
  readonly #holders = new Map<SecretKey, number>();
  readonly #providerListeners = new Set<(isAvailable: boolean) => void>();

  private constructor(options: KeyRingOptions) {
    this.#store = options.store;
    this.#provider = this.#guarded(options.provider);
    this.#now = options.now ?? Date.now;
    this.#random = options.random;
    this.#rewrapBatchSize = options.rewrapBatch ?? keyLimits.rewrapBatch;
    this.#onStep = options.onStep ?? (() => undefined);
  }

  /**
   * Unwraps the master key, makes it where the store is new, and finishes a rotation that was begun.
   * @throws KeyProviderError where the provider does not give the master key out
   */
  static async open(options: KeyRingOptions): Promise<KeyRing> {
    const ring = new KeyRing(options);
    await ring.#refreshMasters();
    if (ring.#masters.size === 0) await ring.#makeFirst();
    ring.#system = await ring.#openKey(systemId);
    if (ring.#isRotating) await ring.#finishRotation();
    return ring;
  }

  /**
   * The key of a namespace. The ring keeps it: it is not the caller's to wipe.
   * @throws ServiceError `unavailable` where neither the store nor the provider gives it
   */
  async namespaceKey(namespaceId: string): Promise<SecretKey> {
    const known = this.#keys.get(namespaceId);
    if (known !== undefined) return known;
    const key = await this.#openKey(namespaceId);
    const raced = this.#keys.get(namespaceId);
    if (raced !== undefined) {
      key.wipe();
      return raced;
    }
    this.#keys.set(namespaceId, key);
    return key;
  }

  /**
   * The same for work of any length: the key is not wiped before it is let go, even where its namespace is
   * deleted meanwhile.
   * @param queries of a snapshot that may hold a namespace which is gone by now
   */
  async holdNamespaceKey(
    namespaceId: string,
    queries: Queries<AgentSchema>,
  ): Promise<{ key: SecretKey } & Disposable> {
    let key: SecretKey;
    try {
      key = await this.namespaceKey(namespaceId);
    } catch (error) {
      if (!(error instanceof ServiceError) || error.code !== 'not_found') throw error;
      key = await this.#openKey(namespaceId, (work) => work(queries));
      this.#retired.add(key);
    }
    this.#holders.set(key, (this.#holders.get(key) ?? 0) + 1);
    return {
      key,
      [Symbol.dispose]: () => {
        const left = (this.#holders.get(key) ?? 0) - 1;
        if (left > 0) this.#holders.set(key, left);
        else this.#holders.delete(key);
        if (left <= 0 && this.#retired.has(key)) this.#wipeLater(key);
      },
    };
  }

  /** Ids of the namespaces whose keys are at hand. */
  get openNamespaces(): string[] {
    return [...this.#keys.keys()];
  }

  /** The key of a namespace if it is at hand. */
  knownNamespaceKey(namespaceId: string): SecretKey | undefined {
    return this.#keys.get(namespaceId);
  }

  /** A new key for a namespace, to be stored by {@link addKey}. */
  newKey(namespaceId: string): NewKey {
    const master = this.#masters.get(this.#newest);
    if (master === undefined) throw new Error('the key ring is closed');
    const key = generateKey(this.#random);
    const place = { purpose: 'namespace', id: namespaceId, version: keyVersion };
    return {
      key,
      wrapped: wrapKey(master.key, key, place, this.#random),
      masterVersion: this.#newest,
    };
  }

  /**
   * Stores a new key, in the transaction that makes its namespace and holds the vault's lock.
   * @throws MasterChanged
   */
  async addKey(queries: Queries<AgentSchema>, namespaceId: string, added: NewKey): Promise<void> {
    const newest = await queries
      .selectFrom('master_key')
      .select('version')
      .orderBy('version', 'desc')
      .executeTakeFirst();
    if (newest?.version !== added.masterVersion) throw new MasterChanged();
    await queries
      .insertInto('wrapped_key')
      .values({
        id: namespaceId,
        version: keyVersion,
        master_version: added.masterVersion,
        wrapped: added.wrapped,
        created_at_ms: this.#now(),
      })
      .execute();
  }

  /** After its namespace was stored. */
  keep(namespaceId: string, added: NewKey): void {
    this.#keys.set(namespaceId, added.key);
  }

  /** After its namespace is gone. The key is wiped once whoever has it is done. */
  forget(namespaceId: string): void {
    const key = this.#keys.get(namespaceId);
    if (key === undefined) return;
    this.#keys.delete(namespaceId);
    this.#retired.add(key);
    this.#wipeLater(key);
  }

  #wipeLater(key: SecretKey): void {
    setTimeout(() => {
      // The last holder comes back here.
      if (this.#holders.has(key)) return;
      key.wipe();
      this.#retired.delete(key);
    }, keyLimits.retiredKeptMs).unref();
  }

  /** A key for a purpose of the agent's own, the same for ever and on every agent of the store. */
  derive(purpose: string): SecretKey {
    if (this.#system === undefined) throw new Error('the key ring is closed');
    return deriveKey(this.#system, purpose);
  }

  /** Called when the provider of the master key fails and when it answers again. */
  onProviderChange(listener: (isAvailable: boolean) => void): void {
    this.#providerListeners.add(listener);
  }

  get isProviderAvailable(): boolean {
    return this.#provider.isAvailable;
  }

  get providerCircuit(): Circuit {
    return this.#provider.circuit;
  }

  /** The configuration was read anew: a provider that refused or failed is asked again. */
  askProviderAgain(): void {
    this.#provider.askAgain();
  }

  #guarded(provider: KeyProvider): ProviderBreaker {
    return new ProviderBreaker(provider, (isAvailable) => {
      for (const listener of this.#providerListeners) listener(isAvailable);
    });
  }

  /**
   * Looks whether another agent replaced the master key, and whether a provider that failed answers
   * again. Several callers share one look, which takes as long as the provider does.
   */
  noticeRotation(): Promise<void> {
    this.#noticing ??= this.#noticeRotation().finally(() => {
      this.#noticing = undefined;
    });
    return this.#noticing;
  }

  async #noticeRotation(): Promise<void> {
    const rows = await this.#store.read((queries) =>
      queries.selectFrom('master_key').select(['version', 'provider', 'key_id']).execute(),
    );
    const isSame =
      rows.length === this.#masters.size && rows.every(({ version }) => this.#masters.has(version));
    this.#isMoved = rows.some((row) => {
      const guard = this.#masters.get(row.version)?.guard;
      return guard !== undefined && guard !== guardOf(row);
    });
    try {
      if (!isSame) await this.refresh();
      else if (!this.#provider.isAvailable) await this.#probe();
    } catch (error) {
      // Told when it was asked.
      if (!(error instanceof KeyProviderPaused)) throw error;
    }
  }

  /** Asks the provider for a key that is at hand, to hear whether it answers again. */
  async #probe(): Promise<void> {
    const row = await this.#store.read((queries) =>
      queries
        .selectFrom('master_key')
        .selectAll()
        .where('version', '=', this.#newest)
        .executeTakeFirst(),
    );
    if (row !== undefined) (await this.#unwrapMaster(row)).wipe();
  }

  /** Reads the master keys anew. */
  async refresh(): Promise<void> {
    this.#refreshing ??= this.#refreshMasters().finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  /**
   * Replaces the master key; where a replacement was begun, finishes it instead. Safe to kill at any
   * moment and to run on several agents at once.
   */
  async rotateMaster(): Promise<RotationResult> {
    await this.refresh();
    const resumed = this.#isRotating;
    if (!resumed) await this.#beginRotation();
    const rewrappedKeys = await this.#finishRotation();
    return { masterVersion: this.#newest, rewrappedKeys, resumed };
  }

  /**
   * Gives the master key to another provider, which is tried before anything depends on it. One
   * transaction: whoever is killed leaves it with the one or with the other. Takes effect here at once;
   * other agents of the store go on with what they hold, and need the new provider at their next start.
   * @throws KeyProviderError, ServiceError `conflict` where the master key is replaced meanwhile
   */
  async moveTo(provider: KeyProvider): Promise<void> {
    await this.refresh();
    if (this.#isRotating) await this.#finishRotation();
    const rows = await this.#store.read(readMasters);
    const moved = new Map<number, WrappedKey>();
    for (const { version } of rows) {
      const master = this.#masters.get(version);
      if (master === undefined) throw masterReplaced();
      const wrapped = await provider.wrap(master.key, this.#context(version));
      const back = await provider.unwrap(wrapped, this.#context(version));
      const isSame = back.equals(master.key);
      back.wipe();
      if (!isSame) {
        throw new KeyProviderError(provider.kind, 'corrupt', 'it gives back another key');
      }
      moved.set(version, wrapped);
    }
    await this.#onStep('wrapped elsewhere');
    await this.#store.write(async (queries) => {
      await this.#requireMasters(queries, rows);
      for (const [version, wrapped] of moved) {
        await queries
          .updateTable('master_key')
          .set(columnsOf(wrapped))
          .where('version', '=', version)
          .execute();
      }
    });
    this.#provider = this.#guarded(provider);
    for (const [version, wrapped] of moved) {
      const master = this.#masters.get(version);
      if (master !== undefined) master.guard = guardOf(columnsOf(wrapped));
    }
    await this.#onStep('moved');
  }

  /** Whether somebody gave the master key to another provider than this agent was started with. */
  get isMoved(): boolean {
    return this.#isMoved;
  }

  /** That nothing has replaced or moved them since they were read. @throws ServiceError `conflict` */
  async #requireMasters(queries: Queries<AgentSchema>, read: readonly MasterKeyTable[]) {
    await lockVault(this.#store.kind, queries);
    const now = await readMasters(queries);
    const isSame =
      now.length === read.length &&
      now.every((row, index) => {
        const before = read[index];
        return row.version === before?.version && equalBytes(row.wrapped, before.wrapped);
      });
    if (!isSame) throw masterReplaced();
  }

  async describe() {
    const { kind, keyId, location } = this.#provider.describe();
    const { count } = await this.#store.read((queries) =>
      queries
        .selectFrom('wrapped_key')
        .select((row) => row.fn.countAll<number>().as('count'))
        .executeTakeFirstOrThrow(),
    );
    return {
      provider: kind as string,
      keyId,
      location,
      masterVersion: this.#newest,
      masterCreatedAt: new Date(this.masterCreatedAtMs).toISOString(),
      isRotating: this.#isRotating,
      wrappedKeys: Number(count),
    };
  }

  /** When the newest master key was made, for whoever rotates by age. */
  get masterCreatedAtMs(): number {
    return this.#masters.get(this.#newest)?.createdAtMs ?? 0;
  }

  /** Wipes every key. The provider stays open. */
  close(): void {
    this.#isClosed = true;
    for (const { key } of this.#masters.values()) key.wipe();
    for (const key of this.#keys.values()) key.wipe();
    for (const key of this.#retired) key.wipe();
    this.#retired.clear();
    this.#system?.wipe();
    this.#system = undefined;
    this.#masters.clear();
    this.#keys.clear();
  }

  async #makeFirst(): Promise<void> {
    const master = generateKey(this.#random);
    const system = generateKey(this.#random);
    try {
      const wrapped = await this.#provider.wrap(master, this.#context(1));
      const nowMs = this.#now();
      await this.#store.write(async (queries) => {
        await queries
          .insertInto('master_key')
          .values({ version: 1, state: 'current', ...columnsOf(wrapped), created_at_ms: nowMs })
          .execute();
        await queries
          .insertInto('wrapped_key')
          .values({
            id: systemId,
            version: keyVersion,
            master_version: 1,
            wrapped: wrapKey(master, system, placeOf(systemId, keyVersion), this.#random),
            created_at_ms: nowMs,
          })
          .execute();
      });
    } catch (error) {
      // Another agent made the first one at the same moment: it is unwrapped like any other.
      if (!isDuplicate(error)) throw error;
    } finally {
      master.wipe();
      system.wipe();
    }
    await this.#refreshMasters();
  }

  async #beginRotation(): Promise<void> {
    const version = this.#newest + 1;
    const newest = (await this.#store.read(readMasters)).at(-1);
    await this.#requireOwnProvider(newest);
    const master = generateKey(this.#random);
    try {
      const wrapped = await this.#provider.wrap(master, this.#context(version)).catch((error) => {
        throw error instanceof KeyProviderError ? providerAway(error) : error;
      });
      await this.#store.write(async (queries) => {
        await lockVault(this.#store.kind, queries);
        const same = (await readMasters(queries)).find((row) => row.version === newest?.version);
        if (newest !== undefined && same && !equalBytes(same.wrapped, newest.wrapped)) {
          throw masterReplaced();
        }
        await queries
          .insertInto('master_key')
          .values({ version, state: 'next', ...columnsOf(wrapped), created_at_ms: this.#now() })
          .execute();
      });
    } catch (error) {
      // Another agent began at the same moment: both finish that one.
      if (!isDuplicate(error)) throw error;
    } finally {
      master.wipe();
    }
    await this.refresh();
    await this.#onStep('begun');
  }

  /**
   * A new master that the old provider wraps would undo a move: whoever starts with the new one could not
   * open it. @throws ServiceError `conflict`, `unavailable`
   */
  async #requireOwnProvider(newest: MasterKeyTable | undefined): Promise<void> {
    if (newest === undefined) return;
    try {
      (await this.#provider.unwrap(wrappedOf(newest), this.#context(newest.version))).wipe();
    } catch (error) {
      if (!(error instanceof KeyProviderError)) throw error;
      if (error.reason !== 'wrong_key') throw providerAway(error);
      this.#isMoved = true;
      throw new ServiceError('conflict', {
        detail: 'The master key was given to another key provider: start this agent with it',
        cause: error,
      });
    }
  }

  async #finishRotation(): Promise<number> {
    const to = this.#newest;
    let rewrapped = 0;
    do {
      for (;;) {
        const batch = await this.#rewrapBatch(to);
        if (batch === 0) break;
        rewrapped += batch;
        await this.#onStep('rewrapping');
      }
      await this.#onStep('rewrapped');
    } while (!(await this.#dropMastersBefore(to)));
    await this.refresh();
    await this.#onStep('finished');
    return rewrapped;
  }

  /** @returns false where a key is still under one of them */
  async #dropMastersBefore(version: number): Promise<boolean> {
    return this.#store.write(async (queries) => {
      await lockVault(this.#store.kind, queries);
      const left = await queries
        .selectFrom('wrapped_key')
        .select('id')
        .where('master_version', '<', version)
        .limit(1)
        .executeTakeFirst();
      if (left !== undefined) return false;
      await queries.deleteFrom('master_key').where('version', '<', version).execute();
      await queries
        .updateTable('master_key')
        .set({ state: 'current' })
        .where('version', '=', version)
        .execute();
      return true;
    });
  }

  /** Wraps some keys anew. @returns how many: 0 when none is left */
  async #rewrapBatch(to: number): Promise<number> {
    const rows = await this.#store.read((queries) =>
      queries
        .selectFrom('wrapped_key')
        .selectAll()
        .where('master_version', '<', to)
        .orderBy('master_version')
        .orderBy('id')
        .limit(this.#rewrapBatchSize)
        .execute(),
    );
    const next = this.#masters.get(to);
    if (next === undefined) throw new MasterChanged();
    const changed = rows.map((row) => {
      const from = this.#masters.get(row.master_version);
      if (from === undefined) throw new MasterChanged();
      const place = placeOf(row.id, row.version);
      const key = unwrapKey(from.key, row.wrapped, place);
      try {
        return { ...row, wrapped: wrapKey(next.key, key, place, this.#random) };
      } finally {
        key.wipe();
      }
    });
    await this.#store.write(async (queries) => {
      for (const row of changed) {
        // Only what is as it was read: another agent may do the same, or have dropped the namespace.
        await queries
          .updateTable('wrapped_key')
          .set({ wrapped: row.wrapped, master_version: to })
          .where('id', '=', row.id)
          .where('version', '=', row.version)
          .where('master_version', '=', row.master_version)
          .execute();
      }
    });
    return rows.length;
  }

  async #openKey(
    id: string,
    read: AgentStore['read'] = (work) => this.#store.read(work),
  ): Promise<SecretKey> {
    for (let attempt = 1; ; attempt += 1) {
      const row = await read((queries) =>
        queries
          .selectFrom('wrapped_key')
          .selectAll()
          .where('id', '=', id)
          .where('version', '=', keyVersion)
          .executeTakeFirst(),
      );
      if (row === undefined) {
        throw new ServiceError('not_found', { internal: `there is no key for ${id}` });
      }
      const master = this.#masters.get(row.master_version);
      if (master !== undefined) return unwrapKey(master.key, row.wrapped, placeOf(id, keyVersion));
      // Wrapped under a master of which this agent does not know yet, or not any more.
      if (attempt >= keyLimits.masterLookups) {
        throw new ServiceError('unavailable', {
          detail: 'The keys of the vault are being replaced',
          retryAfterSeconds: 1,
          internal: `no master key ${row.master_version} for ${id}`,
        });
      }
      await this.refresh();
    }
  }

  async #refreshMasters(): Promise<void> {
    const rows = await this.#store.read(readMasters);
    for (const row of rows) {
      if (this.#masters.has(row.version)) continue;
      const key = await this.#unwrapMaster(row);
      if (this.#isClosed || this.#masters.has(row.version)) key.wipe();
      else {
        const guard = guardOf(row);
        this.#masters.set(row.version, { key, createdAtMs: row.created_at_ms, guard });
      }
    }
    for (const [version, { key }] of this.#masters) {
      if (rows.some((row) => row.version === version)) continue;
      key.wipe();
      this.#masters.delete(version);
    }
    this.#newest = rows.at(-1)?.version ?? 0;
    this.#isRotating = rows.some(({ state }) => state === 'next');
  }

  async #unwrapMaster(row: MasterKeyTable): Promise<SecretKey> {
    try {
      return await this.#provider.unwrap(wrappedOf(row), this.#context(row.version));
    } catch (error) {
      if (!(error instanceof KeyProviderError) || this.#masters.size === 0) throw error;
      throw providerAway(error);
    }
  }

  #context(version: number): Record<string, string> {
    return { vault: this.#store.vaultId, purpose: 'master-key', version: String(version) };
  }
}

function placeOf(id: string, version: number) {
  return { purpose: id === systemId ? 'system' : 'namespace', id, version };
}

function readMasters(queries: Queries<AgentSchema>): Promise<MasterKeyTable[]> {
  return queries.selectFrom('master_key').selectAll().orderBy('version').execute();
}

function masterReplaced(): ServiceError {
  return new ServiceError('conflict', {
    detail: 'The master key was replaced or moved meanwhile: ask again',
  });
}

const equalBytes = (one: Uint8Array, other: Uint8Array) => Buffer.compare(one, other) === 0;

const guardOf = ({ provider, key_id: keyId }: Pick<MasterKeyTable, 'provider' | 'key_id'>) =>
  `${provider} ${keyId}`;

function wrappedOf(row: MasterKeyTable): WrappedKey {
  return {
    provider: row.provider as WrappedKey['provider'],
    keyId: row.key_id,
    version: row.provider_version,
    bytes: row.wrapped,
  };
}

function columnsOf(wrapped: WrappedKey) {
  return {
    provider: wrapped.provider,
    key_id: wrapped.keyId,
    provider_version: wrapped.version,
    wrapped: wrapped.bytes,
  };
}
