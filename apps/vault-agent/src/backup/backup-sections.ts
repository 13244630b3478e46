/** What a backup is made of, as one state of the store and the files beside it have it. */
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { BackupContent } from '@keystead/contracts/agent-api/backup';
import { ServiceError } from '@keystead/contracts/errors';
import type { Queries } from '@keystead/vault-store/sql/sql-store';
import type { AccessTables } from '../access/access-tables.ts';
import { closedFiles } from '../audit/audit-files.ts';
import type { KeyRing } from '../keys/key-ring.ts';
import { exportRows } from '../namespaces/archive-export.ts';
import { encodeRows } from '../namespaces/archive-rows.ts';
import type { RotationSchema } from '../rotation/rotation-tables.ts';
import { accessLines } from './backup-access.ts';
import type { BackupSummary, Section } from './backup-archive.ts';
import { backupLimits as limits } from './backup-limits.ts';
import { type RecordQueries, recordLines } from './backup-records.ts';
import { rotationLines } from './backup-rotations.ts';
import type { BackupSchema } from './backup-tables.ts';
import { ContentRoot } from './content-root.ts';

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
  readonly root = new ContentRoot();
  readonly #summary = {
    namespaces: 0,
    secrets: 0,
    versions: 0,
    rotations: 0,
    records: 0,
    revisions: [] as BackupSummary['revisions'],
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
    const rooted = this.root.sections;
    return { ...this.#summary, contentRoot: this.root.of(rooted), rooted };
  }

  async *sections(): AsyncGenerator<Section, void, undefined> {
    for await (const section of this.#parts()) {
      yield { ...section, content: this.root.over(section.name, section.content) };
    }
  }

  async *#parts(): AsyncGenerator<Section, void, undefined> {
    const contents = new Set(this.#contents);
    const { configuration, auditLog } = this.#files;
    if (contents.has('configuration') && configuration !== undefined) {
      const file = basename(configuration);
      yield {
        name: 'configuration',
        file,
        content: upTo(createReadStream(configuration), limits.configurationMaxBytes, file),
      };
    }
    if (contents.has('access')) {
      const lines = accessLines(this.#queries as unknown as Queries<AccessTables>);
      yield { name: 'access', content: lines };
    }
    if (contents.has('secrets')) {
      const lines = rotationLines(this.#queries as unknown as Queries<RotationSchema>);
      yield { name: 'rotations', content: this.#each('rotations', lines) };
      yield { name: 'secrets', content: this.#secrets() };
    }
    if (contents.has('records')) {
      const lines = recordLines(this.#queries as unknown as RecordQueries);
      yield { name: 'records', content: this.#each('records', lines) };
    }
    if (contents.has('audit') && auditLog !== undefined) yield* auditSections(auditLog);
  }

  async *#each(
    counted: 'rotations' | 'records',
    lines: AsyncIterable<Buffer>,
  ): AsyncGenerator<Buffer, void, undefined> {
    for await (const line of lines) {
      this.#summary[counted] += 1;
      yield line;
    }
  }

  async *#secrets(): AsyncGenerator<Buffer, void, undefined> {
    const namespaces = await this.#queries
      .selectFrom('namespace')
      .select(['id', 'revision'])
      .orderBy('id')
      .execute();
    this.#summary.revisions = namespaces.map(({ id, revision }) => ({ id, revision }));
    yield* encodeRows(this.#counted(exportRows(this.#queries, this.#keys)));
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

/** @throws ServiceError `payload_too_large` */
export async function* upTo(
  content: AsyncIterable<Uint8Array>,
  maxBytes: number,
  file: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  let bytes = 0;
  for await (const piece of content) {
    bytes += piece.byteLength;
    if (bytes > maxBytes) {
      throw new ServiceError('payload_too_large', {
        detail: `${file} has more than the ${maxBytes} bytes that a configuration may have`,
      });
    }
    yield piece;
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
