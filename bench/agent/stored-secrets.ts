/**
 * Many secrets in the store of an agent, written beside it in large transactions as an import does: over
 * HTTP a million would take an hour. Sealed and counted as all others; the agent notices them by itself.
 */
import { dirname, join } from 'node:path';
import { newUuid, toId } from '@keystead/contracts/ids';
import { pino } from 'pino';
import { systemCaller } from '../../apps/vault-agent/src/access/caller.ts';
import { loadConfiguration } from '../../apps/vault-agent/src/configuration.ts';
import { GuardedVault } from '../../apps/vault-agent/src/guarded-vault.ts';
import type { NamespaceChange } from '../../apps/vault-agent/src/namespaces/namespace-change.ts';
import { sealValue } from '../../apps/vault-agent/src/secrets/sealed-value.ts';

const perNamespace = 10_000;
const perChange = 1_000;
const perStatement = 100;

/** Secrets `s/0` … in namespaces of 10,000, from one number up to another. Answers their value paths. */
export async function storeSecrets(
  configuration: string,
  count: number,
  from = 0,
): Promise<string[]> {
  const vault = await GuardedVault.open({
    loaded: loadConfiguration(configuration),
    readVariable: () => undefined,
    log: pino({ level: 'silent' }),
    // The agent writes its own.
    auditFile: join(dirname(configuration), 'bench-audit.log'),
  });
  const caller = systemCaller('bench', 'bench', Date.now());
  const paths: string[] = [];
  try {
    const { changes, namespaces } = vault.vault;
    for (let start = from; start < count; ) {
      const number = Math.floor(start / perNamespace);
      const namespace = `bench-${number}`;
      const end = Math.min(count, start + perChange, (number + 1) * perNamespace);
      if (start % perNamespace === 0) {
        const none = { description: '', owner: '', tags: [], limits: {} };
        await namespaces.create(caller, { name: namespace, ...none });
      }
      await changes.make(caller.identity, namespace, (change) => addSecrets(change, start, end), {
        inBulk: true,
      });
      for (let index = start; index < end; index += 1) {
        paths.push(`/v1/namespaces/${namespace}/secrets/s%2F${index}/value`);
      }
      start = end;
    }
  } finally {
    await vault.close();
  }
  return paths;
}

async function addSecrets(change: NamespaceChange, from: number, end: number): Promise<void> {
  for (let start = from; start < end; start += perStatement) {
    await addRows(change, start, Math.min(end, start + perStatement));
  }
}

async function addRows(change: NamespaceChange, from: number, end: number): Promise<void> {
  const { queries, namespace, nowMs, identity, counters, key, revision } = change;
  const made = { created_at_ms: nowMs, created_by: identity };
  const numbered = Array.from({ length: end - from }, (_, offset) => ({
    id: toId('secret', newUuid(nowMs)),
    name: `s/${from + offset}`,
    value: Buffer.from(`value of the secret ${from + offset}, as long as a password may be`),
  }));
  const secrets = numbered.map(({ id, name }) => ({
    id,
    namespace_id: namespace.id,
    name,
    is_deleted: 0,
    current_version: 1,
    last_version: 1,
    max_versions: 10,
    expires_at_ms: null,
    description: '',
    metadata: '{}',
    tags: '[]',
    revision,
    ...made,
    updated_at_ms: nowMs,
    updated_by: identity,
  }));
  const accesses = numbered.map(({ id }) => ({
    secret_id: id,
    namespace_id: namespace.id,
    access_count: 0,
    last_accessed_at_ms: 0,
  }));
  const versions = numbered.map(({ id, value }) => ({
    secret_id: id,
    version: 1,
    state: 'active' as const,
    key_version: 1,
    sealed: sealValue(key, { namespaceId: namespace.id, secretId: id, version: 1 }, value),
    byte_length: value.length,
    encoding: 'text' as const,
    origin: 'written',
    ...made,
  }));
  await queries.insertInto('secret').values(secrets).execute();
  await queries.insertInto('secret_access').values(accesses).execute();
  await queries.insertInto('secret_version').values(versions).execute();
  counters.secrets += numbered.length;
  counters.versions += numbered.length;
  for (const { name, value } of numbered) {
    counters.nameBytes += name.length;
    counters.bytes += value.length;
  }
}
