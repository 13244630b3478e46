/**
 * What becomes of rotations when their secrets are replaced, in the transaction that replaces them. The
 * numbers of versions mean something else then: nothing of before may be promoted or retired. Whoever
 * rotates at the moment loses the lease and writes nothing any more.
 */
import type { Queries, SqlKind } from '@keystead/vault-store/sql/sql-store';
import { sql } from 'kysely';
import { supersede } from '../leases/leases.ts';
import { lockRotation, writeRotation } from './rotation-journal.ts';
import { rotationLease } from './rotation-limits.ts';
import type { RotationSchema } from './rotation-tables.ts';

/** Ends what is under way of these secrets, or of all; what is planned stays. */
export async function restartRotations(
  queries: Queries<RotationSchema>,
  kind: SqlKind,
  nowMs: number,
  secretIds?: readonly string[],
): Promise<void> {
  if (secretIds !== undefined && !(await areRotated(queries, secretIds))) return;
  await supersede(queries, rotationLease);
  let retirements = queries.deleteFrom('rotation_retirement');
  if (secretIds !== undefined) retirements = retirements.where('secret_id', 'in', secretIds);
  await retirements.execute();
  let open = queries
    .selectFrom('rotation')
    .select(['secret_id', 'open_run_id'])
    .where('open_run_id', 'is not', null);
  if (secretIds !== undefined) open = open.where('secret_id', 'in', secretIds);
  for (const { secret_id, open_run_id } of await open.execute()) {
    await queries
      .updateTable('rotation_run')
      .set({
        phase: null,
        outcome: 'failed',
        problem_step: 'begin',
        problem_code: 'replaced',
        problem_text: 'The secret was restored or imported meanwhile',
        ended_at_ms: nowMs,
      })
      .where('id', '=', open_run_id)
      .execute();
    const row = await lockRotation({ kind }, queries, secret_id);
    if (row === undefined) continue;
    await writeRotation(queries, row, {
      open_run_id: null,
      failures: 0,
      retry_at_ms: null,
      retry_trigger: null,
    });
  }
}

async function areRotated(
  queries: Queries<RotationSchema>,
  secretIds: readonly string[],
): Promise<boolean> {
  for (const table of ['rotation', 'rotation_retirement'] as const) {
    const row = await queries
      .selectFrom(table)
      .select('secret_id')
      .where('secret_id', 'in', secretIds)
      .limit(1)
      .executeTakeFirst();
    if (row !== undefined) return true;
  }
  return false;
}

/** Before readings are forgotten: those since the last rotation count on from nothing. */
export async function keepUses(queries: Queries<RotationSchema>): Promise<void> {
  await queries
    .updateTable('rotation')
    .set({
      uses_base: sql<number>`uses_base - coalesce((select access_count from secret_access
        where secret_access.secret_id = rotation.secret_id), 0)`,
    })
    .execute();
}

/** What points at no secret any more goes; the rest follows its secret into its namespace. */
export async function dropOrphans(queries: Queries<RotationSchema>): Promise<void> {
  for (const table of ['rotation', 'rotation_run', 'rotation_retirement'] as const) {
    await queries
      .deleteFrom(table)
      .where('secret_id', 'not in', (inner) => inner.selectFrom('secret').select('secret.id'))
      .execute();
  }
  await queries
    .updateTable('rotation')
    .set({
      namespace_id: sql<string>`(select secret.namespace_id from secret where secret.id = rotation.secret_id)`,
    })
    .execute();
}
