/** Vaults for tests: on SQLite in a folder of their own, or on a database given. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openFileKey } from '@keystead/envelope/providers/file';
import type { SqlOptions } from '@keystead/vault-store/sql/sql-store';
import { type Caller, systemCaller } from '../access/caller.ts';
import { Vault, type VaultOptions } from './vault.ts';

export function testCaller(name = 'test'): Caller {
  return systemCaller(name, 'req_test', Date.now());
}

/** Vaults that a suite opened, closed by {@link closeVaults}. */
const opened: Vault[] = [];
const folders: string[] = [];

export function freshFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'keystead-vault-'));
  folders.push(folder);
  return folder;
}

export interface TestPlace {
  sql: SqlOptions;
  keyFile: string;
}

/** Where a vault can be opened again and again. */
export function sqlitePlace(folder = freshFolder()): TestPlace {
  return {
    sql: { kind: 'sqlite', file: join(folder, 'vault.db') },
    keyFile: join(folder, 'keys', 'master.key'),
  };
}

export function placeOn(sql: SqlOptions): TestPlace {
  return { sql, keyFile: join(freshFolder(), 'keys', 'master.key') };
}

export async function openTestVault(
  place: TestPlace = sqlitePlace(),
  options: Partial<VaultOptions> = {},
): Promise<Vault> {
  const provider = await openFileKey({ path: place.keyFile, create: true });
  const vault = await Vault.open({ sql: place.sql, provider, ...options });
  opened.push(vault);
  return vault;
}

export async function closeVault(vault: Vault): Promise<void> {
  const index = opened.indexOf(vault);
  if (index >= 0) opened.splice(index, 1);
  await vault.close();
}

export async function closeVaults(options: { keepFolders?: boolean } = {}): Promise<void> {
  await Promise.all(opened.splice(0).map((vault) => vault.close()));
  if (options.keepFolders) return;
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** What a creation needs at least. */
export const plainSecret = {
  encoding: 'text' as const,
  description: '',
  metadata: {},
  tags: [] as string[],
  expiresAt: null,
  maxVersions: 10,
};

export const plainNamespace = {
  description: '',
  owner: '',
  tags: [] as string[],
  limits: {},
};
