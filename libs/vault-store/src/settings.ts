/** Settings of a vault: named texts in its `vault_meta` table. */
import { vaultLimits } from './limits.ts';
import type { VaultSchema } from './schema.ts';
import { isDuplicate, type SqlStore } from './sql/sql-store.ts';
import { InvalidSetting } from './vault-error.ts';

export class Settings {
  readonly #store: SqlStore<VaultSchema>;
  readonly #now: () => number;
  readonly #objectId: string;

  /** @param objectId whose settings: `settings` are the caller's, others the library's own */
  constructor(store: SqlStore<VaultSchema>, now: () => number, objectId = 'settings') {
    this.#store = store;
    this.#now = now;
    this.#objectId = objectId;
  }

  async get(name: string): Promise<string | undefined> {
    const row = await this.#store.db
      .selectFrom('vault_meta')
      .select('meta_value')
      .where((where) => where.and(this.#key(name)))
      .executeTakeFirst();
    return row?.meta_value ?? undefined;
  }

  async set(name: string, value: string): Promise<void> {
    requireSettingValue(value);
    const isSet = await this.#replace(name, value);
    if (isSet || (await this.setIfAbsent(name, value))) return;
    await this.#replace(name, value);
  }

  /** Whether it was absent, and is now set: of several at once, one is told yes. */
  async setIfAbsent(name: string, value: string): Promise<boolean> {
    requireSettingValue(value);
    const nowMs = this.#now();
    const row = {
      ...this.#key(name),
      meta_value: value,
      created_at: nowMs,
      updated_at: nowMs,
    };
    try {
      await this.#store.write((queries) => queries.insertInto('vault_meta').values(row).execute());
      return true;
    } catch (error) {
      if (isDuplicate(error)) return false;
      throw error;
    }
  }

  /** Whether there was one. */
  async delete(name: string): Promise<boolean> {
    const { numDeletedRows } = await this.#store.write((queries) =>
      queries
        .deleteFrom('vault_meta')
        .where((where) => where.and(this.#key(name)))
        .executeTakeFirst(),
    );
    return numDeletedRows > 0n;
  }

  /** All of them, by name. */
  async all(): Promise<Map<string, string>> {
    const rows = await this.#store.db
      .selectFrom('vault_meta')
      .select(['meta_key', 'meta_value'])
      .where('object_type', '=', 'vault')
      .where('object_id', '=', this.#objectId)
      .orderBy('meta_key')
      .execute();
    return new Map(rows.map(({ meta_key, meta_value }) => [meta_key, meta_value ?? '']));
  }

  async #replace(name: string, value: string): Promise<boolean> {
    const { numUpdatedRows } = await this.#store.write((queries) =>
      queries
        .updateTable('vault_meta')
        .set({ meta_value: value, updated_at: this.#now() })
        .where((where) => where.and(this.#key(name)))
        .executeTakeFirst(),
    );
    return numUpdatedRows > 0n;
  }

  #key(name: string) {
    const isName = typeof name === 'string' && /^[!-~]+$/.test(name);
    if (!isName || name.length > vaultLimits.maxSettingNameCharacters) {
      throw new InvalidSetting(
        `a name is 1 to ${vaultLimits.maxSettingNameCharacters} printable ASCII characters`,
      );
    }
    return { object_type: 'vault', object_id: this.#objectId, meta_key: name };
  }
}

/** @throws InvalidSetting */
function requireSettingValue(value: string): void {
  const isText = typeof value === 'string' && value.isWellFormed();
  if (!isText || Buffer.byteLength(value) > vaultLimits.maxSettingBytes) {
    throw new InvalidSetting(`a value is text of at most ${vaultLimits.maxSettingBytes} bytes`);
  }
}
