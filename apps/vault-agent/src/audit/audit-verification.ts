/**
 * Whether a log is what the agent wrote: every line chains on the one before it, every head in it is
 * signed by the log's key, nothing is missing but what was retired, and what somebody kept of the
 * chain elsewhere agrees with it.
 *
 * The chain alone finds whatever was changed, removed, added or swapped. Who can write the whole log
 * anew can make a chain that holds; that is found by the heads: those in the log by who has not the
 * key, those outside by who has.
 */
import { constants } from 'node:fs';
import { access, type FileHandle, open } from 'node:fs/promises';
import { basename } from 'node:path';
import { isAuditHeadSignedBy } from '@keystead/agent-protocol/audit-head';
import type {
  AuditVerification,
  auditProblemKinds,
  TrustedHead,
} from '@keystead/contracts/agent-api/audit';
import {
  type AuditLine,
  hashOf,
  noHash,
  parseLine,
  type RetiredLine,
  sequenceOf,
  splitLine,
} from './audit-entry.ts';
import { closedFiles, damagedFiles, readLines } from './audit-files.ts';
import { auditLimits } from './audit-limits.ts';
import { isRetirementSignedBy } from './audit-signer.ts';

const dayMs = 86_400_000;

export interface VerificationOptions {
  /** Heads that were kept where whoever writes the log does not reach. */
  trustedHeads?: readonly TrustedHead[];
  /** The keys that may have signed the heads, SubjectPublicKeyInfo in base64; without them, one key for all. */
  signerKeys?: readonly string[] | undefined;
  /** Called with the bytes that were read, for who waits for a large log. */
  onProgress?: (bytes: number) => void;
}

type ProblemKind = (typeof auditProblemKinds)[number];
type Problem = NonNullable<AuditVerification['problem']>;

class Wrong extends Error {
  readonly problem: Problem;
  constructor(problem: Problem) {
    super(problem.message);
    this.problem = problem;
  }
}

/** @throws where the folder cannot be read at all */
export async function verifyAudit(
  logFile: string,
  options: VerificationOptions = {},
): Promise<AuditVerification> {
  const chain = new ChainCheck(options);
  let problem: Problem | null = null;
  try {
    const [damaged] = await damagedFiles(logFile);
    await readWholeLog(logFile, chain, options);
    chain.finish();
    if (damaged !== undefined) {
      throw new Wrong({
        kind: 'damaged_file',
        sequence: chain.lastSequence,
        file: basename(damaged),
        line: 0,
        message: `${basename(damaged)} was put aside because it was no audit log`,
      });
    }
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    problem = error.problem;
  }
  return { ok: problem === null, ...chain.summary(), problem };
}

/** Follows the files by the entries they begin with, also while the agent closes one. */
async function readWholeLog(
  logFile: string,
  chain: ChainCheck,
  options: VerificationOptions,
): Promise<void> {
  const isThere = (path: string) =>
    access(path, constants.F_OK).then(
      () => true,
      () => false,
    );
  const done = new Set<string>();
  for (;;) {
    const next = (await closedFiles(logFile)).find(({ path }) => !done.has(path));
    if (next === undefined) break;
    done.add(next.path);
    await readWholeFile(next.path, chain, true, options);
  }
  if (!(await isThere(logFile))) return;
  const handle = await open(logFile, 'r');
  try {
    // Closed between the last look and now: it is read as such, and the one after it follows.
    const late = (await closedFiles(logFile)).filter(({ path }) => !done.has(path));
    for (const { path } of late) await readWholeFile(path, chain, true, options);
    if (late.length === 0) await checkFile(handle, basename(logFile), chain, false, options);
    else await readWholeFile(logFile, chain, false, options);
  } finally {
    await handle.close();
  }
}

async function readWholeFile(
  path: string,
  chain: ChainCheck,
  isClosed: boolean,
  options: VerificationOptions,
): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await checkFile(handle, basename(path), chain, isClosed, options);
  } finally {
    await handle.close();
  }
}

async function checkFile(
  handle: FileHandle,
  file: string,
  chain: ChainCheck,
  isClosed: boolean,
  options: VerificationOptions,
): Promise<void> {
  const { size } = await handle.stat();
  chain.beginFile(file);
  for await (const { bytes, isUnfinished } of readLines(handle, 0, size, 256 * 1024)) {
    options.onProgress?.(bytes.length);
    if (isUnfinished) {
      chain.unfinished(bytes, isClosed);
      continue;
    }
    let at = 0;
    while (at < bytes.length) {
      const end = bytes.indexOf(0x0a, at);
      chain.line(bytes.subarray(at, end));
      at = end + 1;
    }
  }
  chain.endFile(isClosed);
}

/** The state of a verification: fed with lines in order. */
class ChainCheck {
  readonly #trusted: Map<number, TrustedHead[]>;
  readonly #given: number;
  readonly #signerKeys: readonly string[] | undefined;
  #chain: string | null = null;
  #signerKey = '';
  #signerKeyBytes = Buffer.alloc(0);
  #file = '';
  #lineInFile = 0;
  #files = 0;
  #entries = 0;
  #firstSequence = 0;
  #previousHash = noHash;
  #heads = 0;
  #signedThrough = 0;
  #confirmed = 0;
  #confirmedThrough = 0;
  #retiredThrough = 0;
  /** Of a line that no head covers yet. */
  #retiringThrough = 0;
  #firstAt = '';
  #firstPrevious = noHash;
  #mended = 0;
  #tornBytes = 0;
  lastSequence = 0;

  constructor({ trustedHeads = [], signerKeys }: VerificationOptions) {
    this.#given = trustedHeads.length;
    this.#trusted = Map.groupBy(trustedHeads, ({ sequence }) => sequence);
    this.#signerKeys = signerKeys;
  }

  beginFile(file: string): void {
    this.#file = file;
    this.#lineInFile = 0;
    this.#files += 1;
  }

  endFile(isClosed: boolean): void {
    if (this.#lineInFile === 0 && (isClosed || this.#tornBytes === 0)) {
      this.#wrong('unreadable', this.lastSequence + 1, `${this.#file} holds no entry`);
    }
  }

  line(line: Buffer): void {
    this.#lineInFile += 1;
    const expected = this.lastSequence + 1;
    const parts = splitLine(line);
    const sequence = sequenceOf(line);
    if (parts === undefined || sequence === undefined) {
      this.#wrong('not_an_entry', expected, 'this line has not the form of an entry');
    }
    const isFirst = this.#lineInFile === 1;
    const isOperation = line.indexOf('"type":"operation"') > 0 && !isFirst;
    const parsed = isOperation ? undefined : parseLine(line);
    if (isFirst) this.#firstLine(parsed, sequence);
    else if (sequence !== expected) {
      this.#wrong(
        sequence > expected ? 'missing_entries' : 'wrong_sequence',
        expected,
        `the entry ${expected} should be here, and ${sequence} is`,
      );
    }
    if (hashOf(this.#previousHash, parts.open) !== parts.hash) {
      this.#wrong(
        'wrong_hash',
        sequence,
        'its hash is not that of its content and of the chain before it',
      );
    }
    if (!isOperation) this.#bookkeeping(parsed, sequence);
    this.#previousHash = parts.hash;
    this.lastSequence = sequence;
    this.#entries += 1;
    this.#compare(sequence, parts.hash);
  }

  /** What a crash leaves is at the very end of the file that is written to, and nowhere else. */
  unfinished(bytes: Buffer, isClosed: boolean): void {
    if (isClosed || bytes.length > auditLimits.batchBytes) {
      this.#lineInFile += 1;
      this.#wrong('not_an_entry', this.lastSequence + 1, 'this line has no end');
    }
    this.#tornBytes = bytes.length;
  }

  finish(): void {
    this.#file = '';
    this.#lineInFile = 0;
    if (this.#firstSequence > 1 && this.#retiredThrough < this.#firstSequence - 1) {
      const missing = this.#retiredThrough + 1;
      this.#wrong(
        'missing_entries',
        missing,
        `the entries ${missing} to ${this.#firstSequence - 1} are missing and were not retired`,
      );
    }
    for (const [sequence, heads] of [...this.#trusted].sort(([one], [other]) => one - other)) {
      const [head] = heads;
      if (head === undefined || sequence === 0) continue;
      if (this.#chain !== null && head.chain !== this.#chain) {
        this.#wrong(
          'other_chain',
          1,
          `the log is the chain ${this.#chain}; the head is of ${head.chain}`,
        );
      }
      if (sequence > this.lastSequence) {
        const first = this.lastSequence + 1;
        this.#wrong(
          'missing_entries',
          first,
          `the entries ${first} to ${sequence} are missing: their head is known`,
        );
      }
    }
  }

  summary() {
    const retired = [...this.#trusted.values()]
      .flat()
      .filter(({ sequence }) => sequence < this.#firstSequence).length;
    return {
      chain: this.#chain,
      files: this.#files,
      entries: this.#entries,
      firstSequence: this.#firstSequence,
      lastSequence: this.lastSequence,
      lastHash: this.#entries === 0 ? noHash : this.#previousHash,
      heads: this.#heads,
      signedThrough: this.#signedThrough,
      trustedHeads: { given: this.#given, confirmed: this.#confirmed, retired },
      mended: this.#mended,
      tornBytes: this.#tornBytes,
    };
  }

  #firstLine(parsed: AuditLine | undefined, sequence: number): void {
    if (
      parsed?.type !== 'file' ||
      !/^[0-9a-f]{32}$/.test(parsed.chain) ||
      !/^[0-9a-f]{64}$/.test(parsed.previous) ||
      typeof parsed.signerKey !== 'string'
    ) {
      this.#wrong('not_an_entry', this.lastSequence + 1, 'the file does not begin like one');
    }
    const named = Number(/\.(\d{12,15})$/.exec(this.#file)?.[1] ?? sequence);
    if (sequence !== named) {
      this.#wrong('wrong_sequence', named, `the file begins with the entry ${sequence}`);
    }
    if (this.#entries === 0) {
      this.#chain = parsed.chain;
      this.#firstSequence = sequence;
      this.#firstAt = parsed.at;
      this.#firstPrevious = parsed.previous;
      this.#previousHash = parsed.previous;
      if (sequence === 1 && parsed.previous !== noHash) {
        this.#wrong('wrong_hash', sequence, 'the chain begins with the hash of something');
      }
    } else if (sequence !== this.lastSequence + 1) {
      const first = this.lastSequence + 1;
      this.#wrong(
        'missing_entries',
        first,
        `the entries from ${first} on are missing: the file begins with ${sequence}`,
      );
    } else if (parsed.previous !== this.#previousHash) {
      this.#wrong('wrong_hash', sequence, 'the file does not follow the one before it');
    }
    if (parsed.chain !== this.#chain) {
      this.#wrong('other_chain', sequence, `the file is of the chain ${parsed.chain}`);
    }
    const isExpected =
      this.#signerKeys?.includes(parsed.signerKey) ??
      (this.#entries === 0 || parsed.signerKey === this.#signerKey);
    if (!isExpected) {
      this.#wrong('other_signer', sequence, 'the heads from here on are signed by another key');
    }
    this.#signerKey = parsed.signerKey;
    this.#signerKeyBytes = Buffer.from(parsed.signerKey, 'base64');
  }

  #bookkeeping(parsed: AuditLine | undefined, sequence: number): void {
    switch (parsed?.type) {
      case 'file':
        if (this.#lineInFile > 1)
          this.#wrong('not_an_entry', sequence, 'a file begins inside a file');
        break;
      case 'head':
        this.#head(parsed.head, sequence);
        break;
      case 'retired':
        this.#retired(parsed, sequence);
        break;
      case 'mended':
        this.#mended += 1;
        break;
      case 'resumed':
      case 'operation':
        break;
      default:
        this.#wrong('not_an_entry', sequence, 'there are no entries of this type');
    }
  }

  /**
   * Said before it was done, and covered by a head before it was done: what no line or no head says is not
   * retired. Who has not the key cannot say it; who has cannot say it of what is younger than it states.
   */
  #retired(line: RetiredLine, sequence: number): void {
    const { through, lastHash, before, retentionDays, signature } = line;
    const isSigned = isRetirementSignedBy(
      { chain: this.#chain ?? '', through, lastHash, before, retentionDays },
      Buffer.from(String(signature), 'base64'),
      this.#signerKeyBytes,
    );
    const wrong = (what: string) =>
      this.#wrong('wrong_retirement', sequence, `entries up to ${through} were retired ${what}`);
    if (!isSigned) wrong('without a signature of the key of the log');
    if (!Number.isSafeInteger(through) || through >= sequence) wrong('before they were written');
    const ageMs = Date.parse(line.at) - Date.parse(before);
    if (!(retentionDays > 0 && ageMs >= retentionDays * dayMs)) {
      wrong(`younger than the ${retentionDays} days that they are kept`);
    }
    if (
      through === this.#firstSequence - 1 &&
      (before !== this.#firstAt || lastHash !== this.#firstPrevious)
    ) {
      wrong('that the entries which follow do not follow');
    }
    this.#retiringThrough = through;
  }

  #head(
    head: { sequence: number; hash: string; atUnixMs: number; signature: string },
    sequence: number,
  ): void {
    const holds =
      head?.sequence === sequence - 1 &&
      head.hash === this.#previousHash &&
      Number.isSafeInteger(head.atUnixMs) &&
      head.atUnixMs >= 0 &&
      isAuditHeadSignedBy(
        {
          chainId: Buffer.from(this.#chain ?? '', 'hex'),
          sequence: head.sequence,
          hash: Buffer.from(head.hash, 'hex'),
          atUnixMs: head.atUnixMs,
        },
        Buffer.from(String(head.signature), 'base64'),
        this.#signerKeyBytes,
      );
    if (!holds) {
      const since = this.#signedThrough + 1;
      this.#wrong(
        'wrong_head',
        sequence,
        `the head is not signed by the key of the log: an entry from ${since} on was rewritten`,
      );
    }
    this.#heads += 1;
    this.#signedThrough = head.sequence;
    this.#retiredThrough = Math.max(this.#retiredThrough, this.#retiringThrough);
  }

  #compare(sequence: number, hash: string): void {
    for (const head of this.#trusted.get(sequence) ?? []) {
      if (head.chain !== this.#chain) {
        this.#wrong(
          'other_chain',
          1,
          `the log is the chain ${this.#chain}; the head is of ${head.chain}`,
        );
      }
      if (head.hash !== hash) {
        const since = this.#confirmedThrough + 1;
        this.#wrong(
          'wrong_head',
          sequence,
          `the chain up to here is not the one whose head is known: an entry from ${since} on was rewritten`,
        );
      }
      this.#confirmed += 1;
      this.#confirmedThrough = sequence;
    }
  }

  #wrong(kind: ProblemKind, sequence: number, message: string): never {
    throw new Wrong({ kind, sequence, file: this.#file, line: this.#lineInFile, message });
  }
}
