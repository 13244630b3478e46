/**
 * The token vault in a backup: records as they lie in the store. Their values are encrypted under passwords
 * that the agent does not have, with everything else that is needed in their own headers, so they open in
 * whatever store they are restored into.
 */
import { ServiceError } from '@keystead/contracts/errors';
import { dataTags, decodeData } from '@keystead/vault-store/record-data';
import type { VaultSchema } from '@keystead/vault-store/schema';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import { z } from 'zod';
import { readLines } from './section-lines.ts';

export type RecordQueries = Queries<VaultSchema>;

const time = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const recordLine = z.strictObject({
  id: z.string().min(1).max(255),
  token: z.string().min(1).max(255),
  value: z.base64().max(64 * 1_024 * 1_024),
  data: z
    .string()
    .max(1_024 * 1_024)
    .refine((text) => decodeData(text) !== undefined, 'is not understood'),
  created_at: time,
  updated_at: time,
  expires_at: time,
  soft_deleted_at: time,
});
export type RecordLine = z.output<typeof recordLine>;

const page = 200;
/** The longest line: a full value in base64. */
const lineMaxBytes = 96 * 1_024 * 1_024;

export async function* recordLines(
  queries: RecordQueries,
): AsyncGenerator<Buffer, void, undefined> {
  for (let after = 0; ; ) {
    const rows = await queries
      .selectFrom('vault')
      .selectAll()
      .where('position', '>', after)
      .orderBy('position')
      .limit(page)
      .execute();
    for (const { position, ...row } of rows) {
      after = Number(position);
      const value = Buffer.from(row.value).toString('base64');
      yield Buffer.from(`${JSON.stringify({ ...row, value } satisfies RecordLine)}\n`);
    }
    if (rows.length < page) return;
  }
}

/** @throws Corrupt */
export function readRecords(
  content: AsyncIterable<Uint8Array>,
): AsyncGenerator<RecordLine, void, undefined> {
  return readLines('records', content, recordLine, lineMaxBytes);
}

interface RecordChoices {
  mode: 'full' | 'selected';
  existing: 'fail' | 'skip' | 'replace';
  force: boolean;
  backedUpAtMs: number;
}

/**
 * Takes records into the store, in the transaction of the restore.
 * @throws ServiceError `conflict` where a record is there already, where one that would be overwritten is
 * newer than the backup, and while a rekey is under way
 */
export async function takeRecords(
  queries: RecordQueries,
  records: AsyncIterable<RecordLine>,
  choices: RecordChoices,
): Promise<{ taken: number; overwroteNewer: boolean }> {
  const { mode, existing, force, backedUpAtMs } = choices;
  const rekey = await queries.selectFrom('vault_rekey').select('id').limit(1).executeTakeFirst();
  if (rekey !== undefined) throw conflict('The records are being rekeyed: finish that first');
  let overwroteNewer = false;
  const notice = (updatedAtMs: number) => {
    if (updatedAtMs <= backedUpAtMs) return;
    if (!force) {
      throw conflict('The token vault is newer than the backup. Force it to overwrite its records');
    }
    overwroteNewer = true;
  };
  if (mode === 'full') {
    const newest = await queries
      .selectFrom('vault')
      .select('updated_at')
      .orderBy('updated_at', 'desc')
      .limit(1)
      .executeTakeFirst();
    notice(newest?.updated_at ?? 0);
    await queries.deleteFrom('vault_data_tag').execute();
    await queries.deleteFrom('vault').execute();
  }
  let taken = 0;
  for await (const { value, ...row } of records) {
    const present = await queries
      .selectFrom('vault')
      .select(['id', 'updated_at'])
      .where((where) => where.or([where('id', '=', row.id), where('token', '=', row.token)]))
      .execute();
    if (present.length > 0) {
      if (existing === 'skip') continue;
      if (existing === 'fail') throw conflict(`The record ${row.id} is there already`);
      for (const { id, updated_at } of present) {
        notice(updated_at);
        await queries.deleteFrom('vault_data_tag').where('record_id', '=', id).execute();
        await queries.deleteFrom('vault').where('id', '=', id).execute();
      }
    }
    await queries
      .insertInto('vault')
      .values({ ...row, value: Buffer.from(value, 'base64') })
      .execute();
    const tags = dataTags(decodeData(row.data) ?? {});
    if (tags.length > 0) {
      await queries
        .insertInto('vault_data_tag')
        .values(tags.map((tag) => ({ tag, record_id: row.id })))
        .execute();
    }
    taken += 1;
  }
  return { taken, overwroteNewer };
}

function conflict(detail: string): ServiceError {
  return new ServiceError('conflict', { detail });
}
