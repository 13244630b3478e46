/** A vault on an empty database, cheap to open, with a clock that a test moves. */

import type { PasswordCost } from '@keystead/envelope/password';
import {
  createSqlDatabase,
  type TestSqlKind,
  type TestSqlOptions,
} from '@keystead/test-control-plane/sql-database';
import type { VaultSchema } from './schema.ts';
import { openSql, type SqlStore } from './sql/sql-store.ts';
import { openVault, type Vault, type VaultOptions } from './vault.ts';

/** The least that is allowed: tests are about what is stored, not about how long a guess takes. */
export const cheapCost: PasswordCost = { memoryKib: 8 * 1024, passes: 1, parallelism: 1 };

export const passwords = {
  one: 'correct horse battery',
  two: 'staple of another barn',
  three: 'a third one, as good',
} as const;

export interface TestVault extends AsyncDisposable {
  vault: Vault;
  /** Another process, as it were: opened anew on the same database. */
  openAgain(options?: Partial<VaultOptions>): Promise<Vault>;
  sql: TestSqlOptions;
  /** The database itself. */
  openStore(): Promise<SqlStore<VaultSchema>>;
  clock: { nowMs: number };
  close(): Promise<void>;
}

export async function createTestVault(
  kind: TestSqlKind,
  options: Partial<VaultOptions> = {},
): Promise<TestVault> {
  const database = await createSqlDatabase(kind);
  const clock = { nowMs: Date.UTC(2026, 0, 1) };
  const opened: Vault[] = [];
  const openAgain = async (others: Partial<VaultOptions> = {}) => {
    const vault = await openVault({
      sql: database.options,
      passwordCost: cheapCost,
      now: () => clock.nowMs,
      ...options,
      ...others,
    });
    opened.push(vault);
    return vault;
  };
  const close = async () => {
    for (const vault of opened) await vault.close();
    await database.drop();
  };
  const vault = await openAgain();
  const openStore = () => openSql<VaultSchema>(database.options);
  const sql = database.options;
  return { vault, sql, openAgain, openStore, clock, close, [Symbol.asyncDispose]: close };
}
