/**
 * Takes the rows of an archive into the store, in one transaction; or looks what that would do, without
 * writing. Secrets are taken a batch at a time, so that memory stays flat.
 */

import { ServiceError } from '@keystead/contracts/errors';
import { newUuid, toId } from '@keystead/contracts/ids';
import type { SecretKey } from '@keystead/envelope/keys';
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import type { KeyRing, NewKey } from '../keys/key-ring.ts';
import { sealValue } from '../secrets/sealed-value.ts';
import type { SecretRow } from '../secrets/secret-rows.ts';
import { removeSecret } from '../secrets/secret-versions.ts';
import type { AgentSchema } from '../store/agent-tables.ts';
import { lockNamespace } from '../store/locks.ts';
import {
  type ArchiveRow,
  bytesOfBase64,
  type NamespaceArchiveRow,
  type SecretArchiveRow,
  type VersionArchiveRow,
} from './archive-rows.ts';
import { type NamespaceChange, writeCounters } from './namespace-change.ts';
import { insertNamespace } from './namespaces.ts';

/** What happens to a secret that is there already. */
export type Existing = 'fail' | 'skip' | 'replace';

export interface ImportChoices {
  existing: Existing;
  /** What a namespace of the archive is called here. */
  nameHere?: (name: string) => string;
  /** Whether namespaces that are missing are made, as the archive describes them. */
  createNamespaces: boolean;
  /** What is here is removed before anything is taken: it is in nothing's way. */
  intoEmpty?: boolean;
  /** The id of a secret that was removed by this import and comes back: what refers to it goes on. */
  idHere?: (namespace: string, secret: string) => string | undefined;
}

export interface ImportCounts {
  namespaces: number;
  created: number;
  replaced: number;
  skipped: number;
  versions: number;
  bytes: number;
}

export interface ArchiveImportOptions {
  kind: SqlKind;
  keys: KeyRing;
  queries: Queries<AgentSchema>;
  /** False: looks, and writes nothing. */
  writes: boolean;
  identity: string;
  nowMs: number;
  choices: ImportChoices;
  /** Told of secrets that were replaced and kept their ids, in the transaction that does it. */
  onReplaced?: Replaced;
  onProgress?: (counts: Readonly<ImportCounts>) => void;
}

export type Replaced = (
  queries: Queries<AgentSchema>,
  secretIds: readonly string[],
) => Promise<void>;

interface Batched {
  secret: SecretArchiveRow;
  versions: VersionArchiveRow[];
  /** Where an earlier batch took the secret itself: its id, or undefined where it was passed over. */
  begun?: { id: string | undefined; isWanted: boolean };
  /** Of the secret that it replaces: what refers to that, like its rotation and its readings, goes on. */
  kept?: { id: string; accessCount: number; lastAccessedAtMs: number };
}

/** A namespace while its secrets are taken. Without a change nothing is written. */
interface Target {
  name: string;
  /** Undefined where it is not there yet, which is looked at only. */
  id: string | undefined;
  change: NamespaceChange | undefined;
  secretCount: number;
  secretsMax: number;
  valueMaxBytes: number;
}

const batchSecrets = 100;
const batchBytes = 4 * 1_024 * 1_024;
/** Names told of a conflict. */
const namesTold = 10;

export class ArchiveImport {
  readonly #options: ArchiveImportOptions;
  #target: Target | undefined;
  #batch: Batched[] = [];
  #batchBytes = 0;
  readonly #taken: string[] = [];
  /** Keys of namespaces that were made, by id: to be kept once the transaction is committed. */
  readonly newKeys = new Map<string, NewKey>();
  /** Names of the namespaces that were changed. */
  readonly changed: string[] = [];
  readonly counts: ImportCounts = {
    namespaces: 0,
    created: 0,
    replaced: 0,
    skipped: 0,
    versions: 0,
    bytes: 0,
  };

  constructor(options: ArchiveImportOptions) {
    this.#options = options;
  }

  /** @throws ServiceError where it cannot be taken */
  async take(row: ArchiveRow): Promise<void> {
    if (row.kind === 'namespace') {
      await this.#endNamespace();
      this.#target = await this.#targetFor(row);
      this.counts.namespaces += 1;
      return;
    }
    if (row.kind === 'secret') {
      if (this.#batch.length >= batchSecrets) await this.#flush();
      this.#batch.push({ secret: row, versions: [] });
      return;
    }
    const { valueMaxBytes } = this.#target as Target;
    const batched = this.#batch.at(-1) as Batched;
    const length = bytesOfBase64(row.value);
    if (length > valueMaxBytes) {
      throw new ServiceError('payload_too_large', {
        detail: `A value of ${batched.secret.name} has ${length} bytes; at most ${valueMaxBytes} are kept here`,
      });
    }
    batched.versions.push(row);
    this.#batchBytes += length;
    // One secret may be larger than a batch: the rest of it follows in the next one.
    if (this.#batchBytes >= batchBytes) await this.#flush(batched);
  }

  /** After the last row. @throws ServiceError `conflict` naming what is there already */
  async finish(): Promise<void> {
    await this.#endNamespace();
    if (this.#taken.length === 0) return;
    const told = this.#taken.slice(0, namesTold).join(', ');
    const more =
      this.#taken.length > namesTold ? ` and ${this.#taken.length - namesTold} more` : '';
    throw new ServiceError('conflict', {
      detail: `These secrets are there already: ${told}${more}`,
    });
  }

  async #targetFor(row: NamespaceArchiveRow): Promise<Target> {
    const { queries, kind, writes, choices } = this.#options;
    const name = choices.nameHere?.(row.name) ?? row.name;
    const found =
      choices.intoEmpty && !writes
        ? undefined
        : await queries
            .selectFrom('namespace')
            .selectAll()
            .where('name', '=', name)
            .executeTakeFirst();
    if (found === undefined && !choices.createNamespaces) {
      throw new ServiceError('not_found', { detail: `There is no namespace ${name}` });
    }
    if (!writes) {
      return {
        name,
        id: found?.id,
        change: undefined,
        secretCount: found?.secret_count ?? 0,
        secretsMax: found?.secrets_max ?? row.secretsMax,
        valueMaxBytes: found?.value_max_bytes ?? row.valueMaxBytes,
      };
    }
    const id = found?.id ?? (await this.#makeNamespace(name, row));
    const key = await this.#keyOf(id);
    const namespace = await lockNamespace(kind, queries, id);
    if (namespace?.name !== name) {
      throw new ServiceError('not_found', { detail: `There is no namespace ${name}` });
    }
    const { nowMs, identity } = this.#options;
    this.changed.push(name);
    return {
      name,
      id,
      change: {
        queries,
        namespace,
        key,
        revision: namespace.revision + 1,
        nowMs,
        identity,
        counters: { secrets: 0, deleted: 0, versions: 0, bytes: 0, nameBytes: 0 },
        hasPurged: false,
      },
      secretCount: namespace.secret_count,
      secretsMax: namespace.secrets_max,
      valueMaxBytes: namespace.value_max_bytes,
    };
  }

  async #keyOf(id: string): Promise<SecretKey> {
    return this.newKeys.get(id)?.key ?? this.#options.keys.namespaceKey(id);
  }

  async #makeNamespace(name: string, row: NamespaceArchiveRow): Promise<string> {
    const { kind, queries, keys, nowMs } = this.#options;
    const id = toId('namespace', newUuid(nowMs));
    const key = keys.newKey(id);
    const values = {
      id,
      name,
      description: row.description,
      owner: row.owner,
      tags: JSON.stringify(row.tags),
      secrets_max: row.secretsMax,
      value_max_bytes: row.valueMaxBytes,
      revision: 1,
      purged_revision: 0,
      secret_count: 0,
      deleted_count: 0,
      version_count: 0,
      total_bytes: 0,
      name_bytes: 0,
      created_at_ms: row.createdAtMs,
      created_by: row.createdBy,
      updated_at_ms: nowMs,
    };
    await insertNamespace(queries, kind, keys, values, key);
    this.newKeys.set(id, key);
    return id;
  }

  async #endNamespace(): Promise<void> {
    await this.#flush();
    const target = this.#target;
    this.#target = undefined;
    if (target?.change === undefined) return;
    // What was cached of it may be replaced.
    target.change.hasPurged = true;
    await writeCounters(target.change);
  }

  /** @param open the last secret, whose versions are not all there */
  async #flush(open?: Batched): Promise<void> {
    const batch = this.#batch;
    const target = this.#target;
    this.#batch = [];
    this.#batchBytes = 0;
    if (target === undefined || batch.length === 0) return;
    const wanted = await this.#wanted(target, batch);
    if (target.secretCount > target.secretsMax) {
      throw new ServiceError('limit_reached', {
        detail: `The namespace ${target.name} would hold more than ${target.secretsMax} secrets, its maximum`,
      });
    }
    for (const { versions } of wanted) {
      this.counts.versions += versions.length;
      for (const { value } of versions) this.counts.bytes += bytesOfBase64(value);
    }
    const ids = target.change === undefined ? [] : await this.#write(target.change, wanted);
    if (open !== undefined) {
      const at = wanted.indexOf(open);
      this.#batch.push({
        secret: open.secret,
        versions: [],
        begun: { id: ids[at], isWanted: at >= 0 },
      });
    }
    this.#options.onProgress?.(this.counts);
    // Requests come in between: on SQLite a transaction is work of this thread.
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** What of the batch is to be written; what is in its way is removed. */
  async #wanted(target: Target, batch: Batched[]): Promise<Batched[]> {
    const present = await this.#present(target, batch);
    const wanted: Batched[] = [];
    for (const batched of batch) {
      if (batched.begun !== undefined) {
        if (batched.begun.isWanted) wanted.push(batched);
        continue;
      }
      const row = present.get(batched.secret.name);
      if (row === undefined) {
        this.counts.created += 1;
        target.secretCount += 1;
        wanted.push(batched);
        continue;
      }
      const { existing } = this.#options.choices;
      if (existing === 'fail') this.#taken.push(`${target.name}/${batched.secret.name}`);
      if (existing === 'skip') this.counts.skipped += 1;
      if (existing !== 'replace') continue;
      this.counts.replaced += 1;
      if (target.change !== undefined) {
        batched.kept = await this.#keptOf(row);
        await removeSecret(target.change, row);
      }
      wanted.push(batched);
    }
    return wanted;
  }

  async #keptOf({ id }: SecretRow): Promise<NonNullable<Batched['kept']>> {
    const read = await this.#options.queries
      .selectFrom('secret_access')
      .select(['access_count', 'last_accessed_at_ms'])
      .where('secret_id', '=', id)
      .executeTakeFirst();
    return {
      id,
      accessCount: read?.access_count ?? 0,
      lastAccessedAtMs: read?.last_accessed_at_ms ?? 0,
    };
  }

  async #present(target: Target, batch: Batched[]): Promise<Map<string, SecretRow>> {
    if (target.id === undefined) return new Map();
    const rows = await this.#options.queries
      .selectFrom('secret')
      .selectAll()
      .where('namespace_id', '=', target.id)
      .where(
        'name',
        'in',
        batch.map(({ secret }) => secret.name),
      )
      .execute();
    return new Map(rows.map((row) => [row.name, row]));
  }

  /** @returns the ids of the secrets, in their order */
  async #write(change: NamespaceChange, batch: Batched[]): Promise<string[]> {
    const { choices, queries, onReplaced } = this.#options;
    const taken = batch.map((batched) => ({
      ...batched,
      id:
        batched.begun?.id ??
        batched.kept?.id ??
        choices.idHere?.(change.namespace.name, batched.secret.name) ??
        toId('secret', newUuid(change.nowMs)),
    }));
    const made = taken.filter(({ begun }) => begun === undefined);
    if (made.length > 0) await this.#writeSecrets(change, made);
    const replaced = made.filter(({ kept }) => kept !== undefined).map(({ id }) => id);
    if (replaced.length > 0) await onReplaced?.(queries, replaced);
    for (const { id, versions } of taken) {
      for (const version of versions) await this.#writeVersion(change, id, version);
    }
    return taken.map(({ id }) => id);
  }

  async #writeSecrets(
    change: NamespaceChange,
    made: readonly Pick<Batched & { id: string }, 'id' | 'secret' | 'kept'>[],
  ): Promise<void> {
    const { queries, namespace, counters, revision, identity } = change;
    await queries
      .insertInto('secret')
      .values(
        made.map(({ id, secret }) => ({
          id,
          namespace_id: namespace.id,
          name: secret.name,
          is_deleted: secret.isDeleted ? 1 : 0,
          current_version: secret.currentVersion,
          last_version: secret.lastVersion,
          max_versions: secret.maxVersions,
          expires_at_ms: secret.expiresAtMs,
          description: secret.description,
          metadata: JSON.stringify(secret.metadata),
          tags: JSON.stringify(secret.tags),
          revision,
          created_at_ms: secret.createdAtMs,
          created_by: secret.createdBy,
          updated_at_ms: secret.updatedAtMs,
          updated_by: identity,
        })),
      )
      .execute();
    await queries
      .insertInto('secret_access')
      .values(
        made.map(({ id, kept }) => ({
          secret_id: id,
          namespace_id: namespace.id,
          access_count: kept?.accessCount ?? 0,
          last_accessed_at_ms: kept?.lastAccessedAtMs ?? 0,
        })),
      )
      .execute();
    const tagged = made.flatMap(({ id, secret }) =>
      secret.tags.map((tag) => ({
        namespace_id: namespace.id,
        tag,
        name: secret.name,
        secret_id: id,
      })),
    );
    if (tagged.length > 0) await queries.insertInto('secret_tag').values(tagged).execute();
    for (const { secret } of made) {
      counters.secrets += 1;
      counters.nameBytes += secret.name.length;
      if (secret.isDeleted) counters.deleted += 1;
    }
  }

  async #writeVersion(
    { queries, namespace, key, counters }: NamespaceChange,
    secretId: string,
    row: VersionArchiveRow,
  ): Promise<void> {
    const value = Buffer.from(row.value, 'base64');
    const place = { namespaceId: namespace.id, secretId, version: row.version };
    await queries
      .insertInto('secret_version')
      .values({
        secret_id: secretId,
        version: row.version,
        state: row.state,
        key_version: 1,
        sealed: row.state === 'destroyed' ? Buffer.alloc(0) : sealValue(key, place, value),
        byte_length: value.length,
        encoding: row.encoding,
        origin: row.origin,
        created_at_ms: row.createdAtMs,
        created_by: row.createdBy,
      })
      .execute();
    counters.versions += 1;
    counters.bytes += value.length;
    value.fill(0);
  }
}
