/**
 * Roles and API keys in a backup: of keys only hashes exist. Who restores them says who may do what, so
 * nothing is taken that the API would not have taken.
 */
import { apiKeyId, permission, roleName } from '@keystead/contracts/agent-api/access';
import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import { description, displayName, namePattern } from '@keystead/contracts/agent-api/fields';
import { Corrupt } from '@keystead/envelope/sealed';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import { z } from 'zod';
import type { AccessTables } from '../access/access-tables.ts';
import { prefixForm } from '../access/api-key-text.ts';
import { builtInRole } from '../access/role.ts';
import { backupLimits as limits } from './backup-limits.ts';
import { jsonText, readLines } from './section-lines.ts';

const timeMs = z.number().int().min(0).max(8.64e15);
const text = z.string().max(limits.accessLineMaxBytes);

const accessLine = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('role'),
    name: roleName.refine(
      (name) => builtInRole(name) === undefined,
      'is the name of a built-in role',
    ),
    description,
    permissions: text.superRefine(
      jsonText(z.array(permission).min(1).max(apiLimits.permissionsPerRoleMax)),
    ),
    created_at_ms: timeMs,
    updated_at_ms: timeMs,
  }),
  z.strictObject({
    kind: z.literal('api_key'),
    id: apiKeyId,
    prefix: z.string().regex(prefixForm, 'must be the start of an API key'),
    /** Of SHA-256. */
    digest: z.base64().length(44),
    name: displayName,
    roles: text.superRefine(
      jsonText(
        z
          .array(roleName.refine((name) => name !== 'system', 'no key may have the role system'))
          .min(1)
          .max(apiLimits.rolesPerIdentityMax),
      ),
    ),
    namespaces: text.superRefine(jsonText(z.array(namePattern).min(1).max(50))),
    created_at_ms: timeMs,
    created_by: z.string().max(300),
    expires_at_ms: timeMs.nullable(),
    last_used_at_ms: timeMs.nullable(),
    revoked_at_ms: timeMs.nullable(),
  }),
]);
export type AccessLine = z.output<typeof accessLine>;

export async function* accessLines(
  queries: Queries<AccessTables>,
): AsyncGenerator<Buffer, void, undefined> {
  const lineOf = (line: AccessLine) => Buffer.from(`${JSON.stringify(line)}\n`);
  for (const row of await queries.selectFrom('access_role').selectAll().orderBy('name').execute()) {
    const { revision: _revision, ...role } = row;
    yield lineOf({ kind: 'role', ...role });
  }
  for (const row of await queries.selectFrom('api_key').selectAll().orderBy('id').execute()) {
    yield lineOf({ kind: 'api_key', ...row, digest: Buffer.from(row.digest).toString('base64') });
  }
}

/** They are held in memory. @throws Corrupt with what is wrong and where */
export async function readAccess(content: AsyncIterable<Uint8Array>): Promise<AccessLine[]> {
  const lines: AccessLine[] = [];
  const seen = new Set<string>();
  const bounded = upTo(content, limits.accessMaxBytes);
  const read = readLines('access', bounded, accessLine, limits.accessLineMaxBytes * 4);
  for await (const line of read) {
    const names = line.kind === 'role' ? [line.name] : [line.id, line.prefix];
    for (const name of names) {
      if (!seen.has(name)) continue;
      const what = `the access of the backup, line ${lines.length + 1}: ${name} is there twice`;
      throw new Corrupt('content', what);
    }
    for (const name of names) seen.add(name);
    lines.push(line);
  }
  return lines;
}

async function* upTo(content: AsyncIterable<Uint8Array>, maxBytes: number) {
  let length = 0;
  for await (const chunk of content) {
    length += chunk.length;
    if (length > maxBytes) throw new Corrupt('too_long');
    yield chunk;
  }
}

/** Roles and keys that are missing are added; what is here stays, above all what was revoked since. */
export async function takeAccess(
  queries: Queries<AccessTables>,
  lines: readonly AccessLine[],
): Promise<void> {
  const roles = await queries.selectFrom('access_role').select('name').execute();
  const keys = await queries.selectFrom('api_key').select(['id', 'prefix']).execute();
  const taken = new Set([
    ...roles.map(({ name }) => `role ${name}`),
    ...keys.flatMap(({ id, prefix }) => [`key ${id}`, `prefix ${prefix}`]),
  ]);
  for (const line of lines) {
    if (line.kind === 'role') {
      if (taken.has(`role ${line.name}`)) continue;
      const { kind: _kind, ...role } = line;
      await queries
        .insertInto('access_role')
        .values({ ...role, revision: 1 })
        .execute();
    } else {
      if (taken.has(`key ${line.id}`) || taken.has(`prefix ${line.prefix}`)) continue;
      const { kind: _kind, digest, ...key } = line;
      await queries
        .insertInto('api_key')
        .values({ ...key, digest: Buffer.from(digest, 'base64') })
        .execute();
    }
  }
  await queries
    .updateTable('access_state')
    .set((row) => ({ revision: row('revision', '+', 1) }))
    .execute();
}
