/**
 * What the commands of the agent do on the spot, with the vault's own files: for whoever owns the machine.
 * They pass the door and the audit like everybody. Beside a running agent, which writes the audit log
 * alone, they keep a log of their own next to it.
 */
import { existsSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join, resolve } from 'node:path';
import {
  type ApiKey,
  createApiKey,
  listApiKeys,
  revokeApiKey,
} from '@keystead/contracts/agent-api/access';
import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import type { AgentOperation } from '@keystead/contracts/agent-api/operation';
import { ServiceError } from '@keystead/contracts/errors';
import { pino } from 'pino';
import { type Caller, type ResourceReference, systemCaller } from './access/caller.ts';
import type { Errand } from './access/door.ts';
import { AuditInUse } from './audit/audit-trail.ts';
import { commandsChainBeside, commandsLogOf } from './audit/commands-log.ts';
import { checkOptions, toldOfOptions } from './command-options.ts';
import {
  ConfigurationError,
  freshConfiguration,
  type LoadedConfiguration,
  loadConfiguration,
} from './configuration.ts';
import { makePrivateFolder, writeDurably } from './durable-file.ts';
import { GuardedVault, type GuardedVaultOptions } from './guarded-vault.ts';
import { newRequestId } from './http/http-server.ts';
import type { ReadVariable } from './key-management.ts';
import { unlock } from './observe/lockouts.ts';

export const bootstrapKeyName = 'bootstrap admin';

export interface Initialized {
  configurationFile: string;
  /** Null where the vault has keys already. */
  key: string | null;
}

/**
 * Makes what is missing: vault.yaml (without a control plane), the store, its keys, and the first API
 * key, which is answered this once.
 */
export async function initialize(
  place: { data?: string | undefined; config?: string | undefined; port: number },
  readVariable: ReadVariable,
): Promise<Initialized> {
  const file = resolve(place.config ?? join(place.data ?? '.', 'vault.yaml'));
  if (!existsSync(file)) {
    if (place.config !== undefined) throw new ConfigurationError([`${file} does not exist`]);
    makePrivateFolder(resolve(place.data ?? '.'));
    writeDurably(file, freshConfiguration({ port: place.port }), 0o600);
  }
  const key = await withVault(loadConfiguration(file), readVariable, async (guarded, caller) => {
    if (!(await guarded.apiKeys.isEmpty())) return null;
    const made = await createKey(guarded, caller, { name: bootstrapKeyName, roles: ['admin'] });
    return made.key;
  });
  return { configurationFile: file, key };
}

export interface NewKey {
  name: string;
  roles: string[];
  namespaces?: string[];
  expiresAt?: string;
}

const keyOptions = {
  name: '--name',
  roles: '--role',
  namespaces: '--namespace',
  expiresAt: '--expires',
};

/** Checked as a request would be. @throws ServiceError, ConfigurationError */
export async function createKey(guarded: GuardedVault, caller: Caller, wanted: NewKey) {
  const body = checkOptions(createApiKey.body, wanted, keyOptions);
  const errand = errandOf(createApiKey, { other: `api-key:${wanted.name}` });
  try {
    return await guarded.door.perform(caller, errand, () =>
      guarded.apiKeys.create(caller, { body }),
    );
  } catch (error) {
    throw toldOfOptions(error, keyOptions);
  }
}

/** @throws ServiceError */
export async function allKeys(guarded: GuardedVault, caller: Caller): Promise<ApiKey[]> {
  return guarded.door.perform(caller, errandOf(listApiKeys, {}), async () => {
    const found: ApiKey[] = [];
    let cursor: string | undefined;
    do {
      const query = { limit: apiLimits.pageMax, ...(cursor === undefined ? {} : { cursor }) };
      const page = await guarded.apiKeys.list({ query });
      found.push(...page.items);
      cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
    return found;
  });
}

/** @throws ServiceError, ConfigurationError where there is none */
export async function revokeKey(
  guarded: GuardedVault,
  caller: Caller,
  id: string,
): Promise<ApiKey> {
  const params = checkOptions(revokeApiKey.params, { id }, { id });
  const errand = errandOf(revokeApiKey, { other: `api-key:${id}` });
  try {
    return await guarded.door.perform(caller, errand, () =>
      guarded.apiKeys.revoke(caller, { params }),
    );
  } catch (error) {
    if (!(error instanceof ServiceError) || error.code !== 'not_found') throw error;
    throw new ConfigurationError([`there is no API key ${id}`]);
  }
}

/** Opens what suspicious activity has locked. Answers how many locks there were. @throws ServiceError */
export function unlockAll(guarded: GuardedVault, caller: Caller, file: string): Promise<number> {
  const resource = { other: 'lockouts' };
  return guarded.door.perform(
    caller,
    { action: 'access.manage', operation: 'lockouts.unlock', resource, effect: 'write' },
    () => unlock(file),
  );
}

function errandOf(operation: AgentOperation, resource: ResourceReference): Errand {
  const { id, action, effect } = operation;
  if (action === 'public') throw new Error(`${id} needs no door`);
  return { action, operation: id, resource, effect };
}

/** Opens the vault for one command, as the user of the operating system who calls it. */
export async function withVault<T>(
  loaded: LoadedConfiguration,
  readVariable: ReadVariable,
  work: (guarded: GuardedVault, caller: Caller) => Promise<T>,
  more: Pick<GuardedVaultOptions, 'backups' | 'keyProvider'> = {},
): Promise<T> {
  const log = pino({ level: 'silent' });
  const options = { loaded, readVariable, log, backups: 'none' as const, ...more };
  const logFile = loaded.locate(loaded.configuration.audit.log_file);
  const guarded = await GuardedVault.open(options).catch(async (error: unknown) => {
    if (!(error instanceof AuditInUse)) throw error;
    return GuardedVault.open({
      ...options,
      auditFile: commandsLogOf(logFile),
      auditChain: await commandsChainBeside(logFile),
    });
  });
  try {
    const user = userInfo().username;
    const caller = systemCaller(`command:${user}`, newRequestId(), Date.now());
    return await work(guarded, caller);
  } finally {
    await guarded.close();
  }
}
