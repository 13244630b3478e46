/**
 * How secrets are rotated, in a backup: what was set and when it is due, by the names of namespace and
 * secret. What was under way, the history and the values of before stay behind. A policy names other
 * secrets where it needs them, so no value is in it.
 */
import { namespaceName, secretName } from '@keystead/contracts/agent-api/fields';
import { rotationPolicy } from '@keystead/contracts/agent-api/rotation';
import { Corrupt } from '@keystead/envelope/sealed';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import { z } from 'zod';
import { policyOf, type RotationRow, writeRotation } from '../rotation/rotation-journal.ts';
import type { RotationSchema } from '../rotation/rotation-tables.ts';
import { backupLimits as limits } from './backup-limits.ts';
import { jsonText, readLines } from './section-lines.ts';

const time = z.number().int().min(0).max(8.64e15);

const rotationLine = z.strictObject({
  namespace: namespaceName,
  secret: secretName,
  /** As the store has it, JSON. */
  policy: z.string().max(limits.policyMaxBytes).superRefine(jsonText(rotationPolicy)),
  nextDueMs: time.nullable(),
  lastRotatedMs: time.nullable(),
  /** Readings since the last rotation. */
  uses: z.number().int().min(0),
  createdAtMs: time,
  updatedAtMs: time,
});
export type RotationLine = z.output<typeof rotationLine>;

const page = 200;

export async function* rotationLines(
  queries: Queries<RotationSchema>,
): AsyncGenerator<Buffer, void, undefined> {
  const namespaces = await queries
    .selectFrom('namespace')
    .select(['id', 'name'])
    .orderBy('name')
    .execute();
  for (const namespace of namespaces) {
    for (let after = ''; ; ) {
      const rows = await queries
        .selectFrom('secret')
        .innerJoin('rotation', 'rotation.secret_id', 'secret.id')
        .leftJoin('secret_access', 'secret_access.secret_id', 'secret.id')
        .selectAll('rotation')
        .select(['secret.name as secret_name', 'secret_access.access_count'])
        .where('secret.namespace_id', '=', namespace.id)
        .where('secret.name', '>', after)
        .orderBy('secret.name')
        .limit(page)
        .execute();
      for (const row of rows) {
        after = row.secret_name;
        const line: RotationLine = {
          namespace: namespace.name,
          secret: row.secret_name,
          policy: row.policy,
          nextDueMs: row.next_due_ms,
          lastRotatedMs: row.last_rotated_ms,
          uses: Math.max(0, (row.access_count ?? 0) - row.uses_base),
          createdAtMs: row.created_at_ms,
          updatedAtMs: row.updated_at_ms,
        };
        yield Buffer.from(`${JSON.stringify(line)}\n`);
      }
      if (rows.length < page) break;
    }
  }
}

/** @throws Corrupt */
export async function* readRotations(
  content: AsyncIterable<Uint8Array>,
): AsyncGenerator<RotationLine, void, undefined> {
  let before = '';
  const lineMaxBytes = 2 * limits.policyMaxBytes;
  for await (const line of readLines('rotations', content, rotationLine, lineMaxBytes)) {
    // No name holds a space.
    const place = `${line.namespace} ${line.secret}`;
    if (place <= before) throw new Corrupt('content', 'the rotations of the backup do not ascend');
    before = place;
    yield line;
  }
}

/**
 * Takes rotations for the secrets that this transaction wrote. Where a secret has one already, that one
 * stays.
 * @param changed names of the namespaces that were written to
 * @returns how many were taken
 */
export async function takeRotations(
  queries: Queries<RotationSchema>,
  lines: AsyncIterable<RotationLine>,
  changed: ReadonlySet<string>,
): Promise<number> {
  let taken = 0;
  for await (const line of lines) {
    if (!changed.has(line.namespace)) continue;
    const secret = await queries
      .selectFrom('secret')
      .innerJoin('namespace', 'namespace.id', 'secret.namespace_id')
      .leftJoin('secret_access', 'secret_access.secret_id', 'secret.id')
      .leftJoin('rotation', 'rotation.secret_id', 'secret.id')
      .select(['secret.id', 'secret.namespace_id', 'secret_access.access_count'])
      .select('rotation.secret_id as rotated')
      .where('namespace.name', '=', line.namespace)
      .where('secret.name', '=', line.secret)
      // What was passed over is of an earlier change.
      .whereRef('secret.revision', '=', 'namespace.revision')
      .executeTakeFirst();
    if (secret === undefined || secret.rotated !== null) continue;
    const policy = policyOf(line);
    const row: RotationRow = {
      secret_id: secret.id,
      namespace_id: secret.namespace_id,
      policy: line.policy,
      is_paused: policy.paused ? 1 : 0,
      wake_at_ms: null,
      next_due_ms: line.nextDueMs,
      noticed_due_ms: null,
      requested_at_ms: null,
      requested_by: null,
      retry_at_ms: null,
      retry_trigger: null,
      failures: 0,
      has_given_up: 0,
      last_rotated_ms: line.lastRotatedMs,
      uses_max: policy.afterUses,
      uses_base: (secret.access_count ?? 0) - line.uses,
      open_run_id: null,
      revision: 1,
      created_at_ms: line.createdAtMs,
      updated_at_ms: line.updatedAtMs,
    };
    await queries.insertInto('rotation').values(row).execute();
    await writeRotation(queries, row, {});
    taken += 1;
  }
  return taken;
}
