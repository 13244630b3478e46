/** `keystead-agent audit verify|tail|heads|export`: reads the log's files alone, whether or not the agent runs. */
import { createWriteStream, existsSync } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { auditResults, type TrustedHead, trustedHead } from '@keystead/contracts/agent-api/audit';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { z } from 'zod';
import { readNamedFile, requireNewFile } from '../named-file.ts';
import { type OperationLine, parseLine } from './audit-entry.ts';
import { closedFiles, readLines } from './audit-files.ts';
import { auditLimits } from './audit-limits.ts';
import { type AuditFilter, AuditSearch, matches } from './audit-search.ts';
import { readPublicKey } from './audit-signer.ts';
import { verifyAudit } from './audit-verification.ts';

/** Where the logs of a vault.yaml are: the agent's, and that of commands beside a running agent. */
export type FindLogs = (configurationFile: string) => string[];

export function addAuditCommands(program: Command, findLogs: FindLogs): void {
  const audit = program
    .command('audit')
    .description('Verify, show and export what was done, from the files of this machine');

  audit
    .command('verify')
    .description(
      'Verify the chain and name the first entry that is wrong; exit 1 where there is one',
    )
    .requiredOption('--config <file>', 'vault.yaml')
    .option('--heads <file>', 'heads that were kept elsewhere: JSON of "audit heads" or of the API')
    .option('--signer-key <key...>', 'keys that may have signed, in base64 (default: the one here)')
    .option('--json', 'answer in JSON', false)
    .action(async ({ config, heads, signerKey, json }) => {
      const trustedHeads = heads === undefined ? [] : readHeads(heads);
      const logs = findLogs(config).filter((log, index) => index === 0 || existsSync(log));
      for (const [index, log] of logs.entries()) {
        const own = readPublicKey(`${log}.key`)?.toString('base64');
        const verified = await verifyAudit(log, {
          trustedHeads: index === 0 ? trustedHeads : [],
          signerKeys: signerKey ?? (own === undefined ? undefined : [own]),
        });
        process.stdout.write(
          json ? `${JSON.stringify({ log, ...verified })}\n` : verificationText(log, verified),
        );
        if (!verified.ok) process.exitCode = 1;
      }
    });

  filtered(audit.command('tail').description('Show the last entries'))
    .option('-n, --lines <count>', 'how many', readCount, 20)
    .option('--json', 'a line of JSON for each', false)
    .action(async (options) => {
      const { config, lines, json } = options;
      const [log = ''] = findLogs(config);
      const search = new AuditSearch(log);
      const found: OperationLine[] = [];
      let cursor: string | undefined;
      do {
        const page = await search.operations(filterOf(options), {
          limit: Math.min(1_000, lines - found.length),
          cursor,
        });
        found.push(...page.items);
        cursor = page.nextCursor ?? undefined;
      } while (found.length < lines && cursor !== undefined);
      for (const entry of found.reverse()) {
        process.stdout.write(json ? `${JSON.stringify(entry)}\n` : entryText(entry));
      }
    });

  audit
    .command('heads')
    .description('Show the last signed heads: keep them elsewhere to find a log that was rewritten')
    .requiredOption('--config <file>', 'vault.yaml')
    .option('-n, --lines <count>', 'how many', readCount, 1)
    .option('--json', 'answer in JSON, as "audit verify --heads" reads it', false)
    .action(async ({ config, lines, json }) => {
      const [log = ''] = findLogs(config);
      const { items } = await new AuditSearch(log).heads({ limit: lines });
      process.stdout.write(
        json
          ? `${JSON.stringify(items)}\n`
          : items.map(({ at, sequence, hash }) => `${at}  ${sequence}  ${hash}\n`).join(''),
      );
    });

  filtered(audit.command('export').description('Write entries out, oldest first'))
    .option('--format <format>', 'jsonl (as logged, with hashes) or csv', readFormat, 'jsonl')
    .option('--output <file>', 'a new file instead of the standard output')
    .option('--most <entries>', 'how many at most', readExportCount, auditLimits.exportMax)
    .action(async (options) => {
      const { config, format, output, most } = options;
      const [log = ''] = findLogs(config);
      if (output !== undefined) requireNewFile(output);
      const out: Writable =
        output === undefined
          ? process.stdout
          : createWriteStream(output, { flags: 'wx', mode: 0o600 });
      let count = 0;
      let next: string | undefined;
      const failed = new Promise<never>((_, reject) => {
        out.once('error', reject);
      });
      const write = async () => {
        if (format === 'csv') out.write(`${csvFields.join(',')}\r\n`);
        for await (const { entry, text } of readOperations(log, filterOf(options))) {
          if (count === most) {
            next = entry.at;
            break;
          }
          const isFull = !out.write(format === 'csv' ? csvLine(entry) : `${text}\n`);
          if (isFull) await new Promise((resolve) => out.once('drain', resolve));
          count += 1;
        }
        if (output !== undefined) {
          out.end();
          await finished(out);
          process.stderr.write(`${count} entries written to ${output}\n`);
        }
      };
      await Promise.race([write(), failed]);
      if (next === undefined) return;
      process.stderr.write(`stopped after ${count} entries: the next one is of ${next} (--from)\n`);
      process.exitCode = 1;
    });
}

/** Oldest first, over all files. */
export async function* readOperations(
  logFile: string,
  filter: AuditFilter,
): AsyncGenerator<{ entry: OperationLine; text: string }> {
  const { fromMs = Number.NEGATIVE_INFINITY, toMs = Number.POSITIVE_INFINITY } = filter;
  const files = [...(await closedFiles(logFile)).map(({ path }) => path), logFile];
  for (const path of files) {
    const handle = await open(path, 'r');
    try {
      for await (const piece of readLines(handle, 0, (await handle.stat()).size)) {
        if (piece.isUnfinished) break;
        for (const text of piece.bytes.toString().split('\n').slice(0, -1)) {
          const entry = parseLine(text);
          if (entry?.type !== 'operation' || !matches(entry, filter)) continue;
          const atMs = Date.parse(entry.at);
          if (atMs >= fromMs && atMs < toMs) yield { entry, text };
        }
      }
    } finally {
      await handle.close();
    }
  }
}

function filtered(command: Command): Command {
  return command
    .requiredOption('--config <file>', 'vault.yaml')
    .option('--from <time>', 'from this time on, like 2026-01-31T00:00:00Z', readTime)
    .option('--to <time>', 'before this time', readTime)
    .option('--identity <id or name>', 'who')
    .option('--action <action>', 'what, like secret.read-value')
    .option('--namespace <name>', 'in which namespace')
    .option('--secret <name>', 'on which secret')
    .addOption(new Option('--result <result>', 'with what result').choices(auditResults))
    .option('--request <id>', 'in which request');
}

function filterOf(options: {
  from?: number;
  to?: number;
  identity?: string;
  action?: string;
  namespace?: string;
  secret?: string;
  result?: string;
  request?: string;
}): AuditFilter {
  const { from, to, request, identity, action, namespace, secret, result } = options;
  return {
    fromMs: from,
    toMs: to,
    requestId: request,
    ...{ identity, action, namespace, secret, result },
  };
}

// A head of the agent's API, of "audit heads", or of the control plane's API, with more beside it.
const givenHead = z.union([
  z.object(trustedHead.shape),
  z
    .object({ chainId: trustedHead.shape.chain, ...trustedHead.omit({ chain: true }).shape })
    .transform(({ chainId, ...rest }) => ({ chain: chainId, ...rest })),
]);
const givenHeads = z.union([z.array(givenHead), z.object({ items: z.array(givenHead) })]);

const headsMaxBytes = 64 * 1024 * 1024;

function readHeads(file: string): TrustedHead[] {
  const bytes = readNamedFile(file, headsMaxBytes);
  let parsed: unknown;
  try {
    parsed = JSON.parse(bytes.toString('utf8'));
  } catch {
    throw new Error(`${file} is not JSON`);
  }
  const heads = givenHeads.safeParse(parsed);
  if (!heads.success) throw new Error(`${file} holds no heads of an audit`);
  return Array.isArray(heads.data) ? heads.data : heads.data.items;
}

type Verified = Awaited<ReturnType<typeof verifyAudit>>;

function verificationText(log: string, verified: Verified): string {
  const { problem, trustedHeads } = verified;
  const unsigned = verified.lastSequence - verified.signedThrough;
  const lines = [
    `log        ${log}`,
    `chain      ${verified.chain ?? 'none'}`,
    `entries    ${verified.entries} in ${verified.files} files, ${verified.firstSequence} to ${verified.lastSequence}`,
    `signed     through ${verified.signedThrough} by ${verified.heads} heads; ${unsigned} entries after the last`,
  ];
  if (trustedHeads.given > 0) {
    lines.push(
      `kept heads ${trustedHeads.confirmed} of ${trustedHeads.given} agree, ${trustedHeads.retired} are of retired entries`,
    );
  }
  if (verified.mended > 0)
    lines.push(`crashes    ${verified.mended} unfinished lines were cut off`);
  if (verified.tornBytes > 0) {
    lines.push(`unfinished ${verified.tornBytes} bytes at the end: being written, or a crash`);
  }
  lines.push(
    problem === null
      ? 'result     the log is whole'
      : `result     WRONG at entry ${problem.sequence}${problem.file === '' ? '' : ` (${problem.file}${problem.line === 0 ? '' : `, line ${problem.line}`})`}: ${problem.message}`,
  );
  return `${lines.join('\n')}\n`;
}

// What terminals would act on does not reach them.
const printable = (text: string) => text.replaceAll(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, '?');

/** One line for a person: when, what came of it, what, on what, by whom, why, and what decided. */
export function entryText(entry: OperationLine): string {
  const about = [entry.namespace, entry.secret].filter((part) => part !== undefined).join(':');
  return `${printable(
    [
      entry.at,
      String(entry.sequence).padStart(8),
      entry.result.padEnd(9),
      entry.action.padEnd(20),
      about || (entry.other ?? '-'),
      `by ${entry.identity.name || entry.identity.id || entry.identity.kind}`,
      entry.address === '' ? '' : `from ${entry.address}`,
      entry.code ?? '',
      typeof entry.context?.reason === 'string' ? `(${entry.context.reason})` : '',
      entry.decidedBy?.length ? `decided by ${entry.decidedBy.join(', ')}` : '',
    ]
      .filter((part) => part !== '')
      .join('  '),
  )}\n`;
}

const csvFields = [
  'sequence',
  'at',
  'requestId',
  'identityKind',
  'identityId',
  'identityName',
  'address',
  'action',
  'operation',
  'namespace',
  'secret',
  'other',
  'phase',
  'result',
  'code',
  'decidedBy',
  'hash',
] as const;

function csvLine(entry: OperationLine): string {
  const { identity } = entry;
  const cells = [
    entry.sequence,
    entry.at,
    entry.requestId,
    identity.kind,
    identity.id,
    identity.name,
    entry.address,
    entry.action,
    entry.operation,
    entry.namespace,
    entry.secret,
    entry.other,
    entry.phase,
    entry.result,
    entry.code,
    entry.decidedBy?.join('; '),
    entry.hash,
  ];
  return `${cells.map((cell) => csvCell(String(cell ?? ''))).join(',')}\r\n`;
}

/** Quoted, and never a formula for the program that opens it. */
function csvCell(text: string): string {
  const harmless = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n']/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}

function readCount(text: string): number {
  const count = Number(text);
  if (!/^\d{1,7}$/.test(text) || count < 1) {
    throw new InvalidArgumentError('must be a whole number from 1 to 9999999');
  }
  return count;
}

function readExportCount(text: string): number {
  const count = Number(text);
  if (!/^\d{1,8}$/.test(text) || count < 1 || count > auditLimits.exportMax) {
    throw new InvalidArgumentError(`must be a whole number from 1 to ${auditLimits.exportMax}`);
  }
  return count;
}

function readTime(text: string): number {
  const ms = Date.parse(text);
  if (!/^\d{4}-/.test(text) || Number.isNaN(ms)) {
    throw new InvalidArgumentError('must be a time, like 2027-01-31T00:00:00Z');
  }
  return ms;
}

function readFormat(text: string): string {
  if (text !== 'jsonl' && text !== 'csv')
    throw new InvalidArgumentError('must be one of: jsonl, csv');
  return text;
}
