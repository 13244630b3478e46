/**
 * What an archive of namespaces holds, one JSON object a line: a namespace, then its secrets by name, each
 * followed by its versions. The last line is the manifest: how many there are, and the SHA-256 of every
 * byte before it.
 *
 * Values are in here in the clear: the lines exist only inside a sealed archive and in memory.
 */
import { createHash, type Hash } from 'node:crypto';
import { apiLimits } from '@keystead/contracts/agent-api/api-limits';
import {
  description,
  metadata,
  namespaceName,
  secretName,
  tags,
} from '@keystead/contracts/agent-api/fields';
import { secretLimits } from '@keystead/contracts/agent-api/secret-limits';
import { ServiceError } from '@keystead/contracts/errors';
import { inOurWords, leafIssues } from '@keystead/contracts/issue-text';
import { z } from 'zod';

const time = z.number().int().min(0).max(8.64e15);
const number = z.number().int().min(0).max(2_147_483_647);
const identity = z
  .string()
  .max(300)
  .regex(/^[\x20-\x7e]*$/);

const namespaceRow = z.strictObject({
  kind: z.literal('namespace'),
  name: namespaceName,
  description,
  owner: z.string().max(apiLimits.nameMaxLength),
  tags,
  secretsMax: z.number().int().min(1).max(secretLimits.secretsPerNamespaceMost),
  valueMaxBytes: z.number().int().min(1).max(apiLimits.valueMaxBytes),
  createdAtMs: time,
  createdBy: identity,
});

const secretRow = z.strictObject({
  kind: z.literal('secret'),
  name: secretName,
  isDeleted: z.boolean(),
  currentVersion: number.min(1),
  lastVersion: number.min(1),
  maxVersions: z.number().int().min(1).max(secretLimits.maxVersionsMost),
  expiresAtMs: time.nullable(),
  description,
  metadata,
  tags,
  createdAtMs: time,
  createdBy: identity,
  updatedAtMs: time,
});

const versionRow = z.strictObject({
  kind: z.literal('version'),
  version: number.min(1),
  state: z.enum(['active', 'deleted', 'destroyed']),
  encoding: z.enum(['text', 'base64']),
  origin: z
    .string()
    .max(32)
    .regex(/^[\x20-\x7e]*$/),
  createdAtMs: time,
  createdBy: identity,
  /** Base64; empty where the version is destroyed. */
  value: z.string().max(Math.ceil(apiLimits.valueMaxBytes / 3) * 4),
});

const manifestRow = z.strictObject({
  kind: z.literal('manifest'),
  format: z.literal(1),
  namespaces: number,
  secrets: z.number().int().min(0),
  versions: z.number().int().min(0),
  bytes: z.number().int().min(0),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});

const archiveLine = z.discriminatedUnion('kind', [
  namespaceRow,
  secretRow,
  versionRow,
  manifestRow,
]);

export type NamespaceArchiveRow = z.output<typeof namespaceRow>;
export type SecretArchiveRow = z.output<typeof secretRow>;
export type VersionArchiveRow = z.output<typeof versionRow>;
export type ArchiveRow = NamespaceArchiveRow | SecretArchiveRow | VersionArchiveRow;
export type Manifest = Omit<z.output<typeof manifestRow>, 'kind'>;

/** The longest line: a full value in base64, or full metadata. */
const lineMaxBytes = 2 * 1_024 * 1_024;

/** The lines of an archive, the manifest last. */
export async function* encodeRows(
  rows: AsyncIterable<ArchiveRow>,
): AsyncGenerator<Buffer, void, undefined> {
  const tally = new Tally();
  for await (const row of rows) {
    const line = Buffer.from(`${JSON.stringify(row)}\n`);
    tally.add(row, line);
    yield line;
  }
  yield Buffer.from(`${JSON.stringify({ kind: 'manifest', ...tally.manifest() })}\n`);
}

/**
 * The rows of an archive, each checked by itself and against what came before it. Whole only when the
 * iteration ends without an error: then the manifest was there and agreed.
 * @throws ServiceError `invalid_request`
 */
export async function* decodeRows(
  bytes: AsyncIterable<Uint8Array>,
): AsyncGenerator<ArchiveRow, void, undefined> {
  const tally = new Tally();
  const order = new RowOrder();
  let hasManifest = false;
  let lineNumber = 0;
  for await (const line of lines(bytes)) {
    lineNumber += 1;
    if (hasManifest) throw malformed(lineNumber, 'something follows the manifest');
    const row = decodeLine(line, lineNumber);
    if (row.kind !== 'manifest') {
      const wrong = order.next(row);
      if (wrong !== undefined) throw malformed(lineNumber, wrong);
      tally.add(row, line);
      yield row;
      continue;
    }
    const { kind: _kind, ...manifest } = row;
    if (JSON.stringify(manifest) !== JSON.stringify(tally.manifest())) {
      throw malformed(lineNumber, 'the manifest says something else than the archive holds');
    }
    const wrong = order.end();
    if (wrong !== undefined) throw malformed(lineNumber, wrong);
    hasManifest = true;
  }
  if (!hasManifest) throw malformed(lineNumber, 'the manifest is missing');
}

function decodeLine(line: Buffer, lineNumber: number): z.output<typeof archiveLine> {
  let content: unknown;
  try {
    content = JSON.parse(line.toString('utf8'));
  } catch {
    throw malformed(lineNumber, 'it is no JSON');
  }
  const parsed = archiveLine.safeParse(content, inOurWords);
  if (!parsed.success) {
    const [issue] = leafIssues(parsed.error.issues);
    // The path names a field, the message a rule: neither holds a value.
    throw malformed(lineNumber, `${issue?.path.join('.') ?? ''} ${issue?.message ?? ''}`.trim());
  }
  const row = parsed.data;
  if (row.kind === 'version') {
    if (Buffer.from(row.value, 'base64').toString('base64') !== row.value) {
      throw malformed(lineNumber, 'a value is no base64');
    }
    if (row.state === 'destroyed' && row.value !== '') {
      throw malformed(lineNumber, 'a destroyed version has a value');
    }
  }
  return row;
}

/** What must stand where: names ascend, so that none comes twice; a secret has its current version. */
class RowOrder {
  #namespace = '';
  #secret: SecretArchiveRow | undefined;
  #versions = 0;
  #lastVersion = 0;
  #hasCurrent = false;

  /** @returns what is wrong */
  next(row: ArchiveRow): string | undefined {
    if (row.kind === 'version') {
      if (this.#secret === undefined) return 'a version stands without a secret';
      if (row.version <= this.#lastVersion) return 'versions do not ascend';
      if (row.version > this.#secret.lastVersion) return 'a version is beyond the last one';
      if (this.#versions === this.#secret.maxVersions) {
        return 'a secret has more versions than its maximum';
      }
      this.#versions += 1;
      this.#lastVersion = row.version;
      if (row.version === this.#secret.currentVersion) this.#hasCurrent = true;
      return undefined;
    }
    const unfinished = this.end();
    if (unfinished !== undefined) return unfinished;
    const previous = this.#secret?.name ?? '';
    this.#versions = 0;
    this.#lastVersion = 0;
    this.#hasCurrent = false;
    if (row.kind === 'secret') {
      if (this.#namespace === '') return 'a secret stands without a namespace';
      if (row.name <= previous) return 'secrets do not ascend by name';
      this.#secret = row;
      return undefined;
    }
    if (row.name <= this.#namespace) return 'namespaces do not ascend by name';
    this.#namespace = row.name;
    this.#secret = undefined;
    return undefined;
  }

  end(): string | undefined {
    if (this.#secret === undefined || this.#hasCurrent) return undefined;
    return 'a secret has no current version';
  }
}

class Tally {
  readonly #hash: Hash = createHash('sha256');
  #counts = { namespaces: 0, secrets: 0, versions: 0, bytes: 0 };

  add(row: ArchiveRow, line: Buffer): void {
    this.#hash.update(line);
    if (row.kind === 'namespace') this.#counts.namespaces += 1;
    if (row.kind === 'secret') this.#counts.secrets += 1;
    if (row.kind === 'version') {
      this.#counts.versions += 1;
      this.#counts.bytes += bytesOfBase64(row.value);
    }
  }

  /** At the end, once. */
  manifest(): Manifest {
    return { format: 1, ...this.#counts, sha256: this.#hash.digest('hex') };
  }
}

/** How many bytes a padded base64 text stands for. */
export function bytesOfBase64(text: string): number {
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0;
  return (text.length / 4) * 3 - padding;
}

/** Lines with their line feed. */
async function* lines(source: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer, void, undefined> {
  let parts: Buffer[] = [];
  let length = 0;
  for await (const chunk of source) {
    let rest = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    for (;;) {
      const end = rest.indexOf(0x0a);
      if (end < 0) break;
      yield Buffer.concat([...parts, rest.subarray(0, end + 1)]);
      parts = [];
      length = 0;
      rest = rest.subarray(end + 1);
    }
    if (rest.length === 0) continue;
    length += rest.length;
    if (length > lineMaxBytes) throw malformed(0, 'a line is too long');
    parts.push(Buffer.from(rest));
  }
  if (length > 0) throw malformed(0, 'the last line has no end');
}

function malformed(lineNumber: number, what: string): ServiceError {
  return new ServiceError('invalid_request', {
    detail: `The archive is not well-formed${lineNumber > 0 ? `, line ${lineNumber}` : ''}: ${what}`,
  });
}
