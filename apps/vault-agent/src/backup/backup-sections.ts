/** What a backup is made of, as one state of the store and the files beside it have it. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { BackupContent } from '@keystead/contracts/agent-api/backup';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import { z } from 'zod';
import type { AccessTables } from '../access/access-tables.ts';
import { closedFiles } from '../audit/audit-files.ts';
import type { KeyRing } from '../keys/key-ring.ts';
import { exportRows } from '../namespaces/archive-export.ts';
import { encodeRows } from '../namespaces/archive-rows.ts';
import type { BackupSummary, Section } from './backup-archive.ts';
import { backupLimits as limits } from './backup-limits.ts';
import { type RecordQueries, recordLines } from './backup-records.ts';
import type { BackupSchema } from './backup-tables.ts';

export interface BackedUpFiles {
  /** vault.yaml. */
  configuration?: string | undefined;
  auditLog?: string | undefined;
}

/** Collects while it is read: the summary is known when the last section was. */
export class BackupSections {
  readonly #queries: Queries<BackupSchema>;
  readonly #keys: KeyRing;
  readonly #files: BackedUpFiles;
  readonly #contents: readonly BackupContent[];
  readonly #summary: BackupSummary = {
    namespaces: 0,
    secrets: 0,
    versions: 0,
    contentRoot: null,
    revisions: [],
  };

  /** @param queries of one snapshot */
  constructor(
    queries: Queries<BackupSchema>,
    keys: KeyRing,
    files: BackedUpFiles,
    contents: readonly BackupContent[],
  ) {
    this.#queries = queries;
    this.#keys = keys;
    this.#files = files;
    this.#contents = contents;
  }

  get summary(): BackupSummary {
    return this.#summary;
  }

  async *sections(): AsyncGenerator<Section, void, undefined> {
    if (this.#contents.includes('configuration') && this.#files.configuration !== undefined) {
      const { configuration } = this.#files;
      yield {
        name: 'configuration',
        file: basename(configuration),
        content: createReadStream(configuration),
      };
    }
    if (this.#contents.includes('access')) {
      yield { name: 'access', content: accessLines(this.#queries) };
    }
    if (this.#contents.includes('secrets')) yield { name: 'secrets', content: this.#secrets() };
    if (this.#contents.includes('records')) {
      yield { name: 'records', content: recordLines(this.#queries as unknown as RecordQueries) };
    }
    if (this.#contents.includes('audit') && this.#files.auditLog !== undefined) {
      yield* auditSections(this.#files.auditLog);
    }
  }

  async *#secrets(): AsyncGenerator<Buffer, void, undefined> {
    const namespaces = await this.#queries
      .selectFrom('namespace')
      .select(['id', 'revision'])
      .orderBy('id')
      .execute();
    this.#summary.revisions = namespaces.map(({ id, revision }) => ({ id, revision }));
    const hash = createHash('sha256');
    const counted = this.#counted(exportRows(this.#queries, this.#keys));
    for await (const line of encodeRows(counted)) {
      hash.update(line);
      yield line;
    }
    this.#summary.contentRoot = hash.digest('hex');
  }

  async *#counted<Row extends { kind: string }>(rows: AsyncIterable<Row>): AsyncGenerator<Row> {
    for await (const row of rows) {
      if (row.kind === 'namespace') this.#summary.namespaces += 1;
      if (row.kind === 'secret') this.#summary.secrets += 1;
      if (row.kind === 'version') this.#summary.versions += 1;
      yield row;
    }
  }
}

// Roles and keys

const text = z.string().max(100_000);
const timeMs = z.number().int().min(0).max(8.64e15);

export const accessLine = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('role'),
    name: z.string().min(1).max(64),
    description: text,
    permissions: text,
    created_at_ms: timeMs,
    updated_at_ms: timeMs,
  }),
  z.strictObject({
    kind: z.literal('api_key'),
    id: z.string().max(30),
    prefix: z.string().max(16),
    digest: z.base64().max(200),
    name: text,
    roles: text,
    namespaces: text,
    created_at_ms: timeMs,
    created_by: text,
    expires_at_ms: timeMs.nullable(),
    last_used_at_ms: timeMs.nullable(),
    revoked_at_ms: timeMs.nullable(),
  }),
]);
export type AccessLine = z.output<typeof accessLine>;

async function* accessLines(
  queries: Queries<BackupSchema>,
): AsyncGenerator<Buffer, void, undefined> {
  const access = queries as unknown as Queries<AccessTables>;
  const lineOf = (line: AccessLine) => Buffer.from(`${JSON.stringify(line)}\n`);
  for (const row of await access.selectFrom('access_role').selectAll().orderBy('name').execute()) {
    const { revision: _revision, ...role } = row;
    yield lineOf({ kind: 'role', ...role });
  }
  for (const row of await access.selectFrom('api_key').selectAll().orderBy('id').execute()) {
    yield lineOf({ kind: 'api_key', ...row, digest: Buffer.from(row.digest).toString('base64') });
  }
}

// The audit

/** Every file of the log, the one that is written to up to its last whole line. */
async function* auditSections(logFile: string): AsyncGenerator<Section, void, undefined> {
  const closed = await closedFiles(logFile).catch(() => []);
  for (const { path } of closed) {
    yield { name: 'audit', file: basename(path), content: createReadStream(path) };
  }
  const current = await stat(logFile).catch(() => undefined);
  if (current === undefined) return;
  yield { name: 'audit', file: basename(logFile), content: wholeLines(logFile) };
}

async function* wholeLines(file: string): AsyncGenerator<Buffer, void, undefined> {
  const handle = await open(file, 'r');
  try {
    const { size } = await handle.stat();
    let held = Buffer.alloc(0);
    let position = 0;
    while (position < size) {
      const { bytesRead, buffer } = await handle.read(
        Buffer.alloc(Math.min(limits.frameMaxBytes, size - position)),
        0,
        undefined,
        position,
      );
      if (bytesRead === 0) break;
      position += bytesRead;
      const bytes = Buffer.concat([held, buffer.subarray(0, bytesRead)]);
      const end = bytes.lastIndexOf(0x0a) + 1;
      if (end > 0) yield bytes.subarray(0, end);
      held = bytes.subarray(end);
    }
  } finally {
    await handle.close();
  }
}
