/**
 * `keystead-agent export` and `import`: a namespace as an encrypted archive, with the files of this machine,
 * also without an agent running. How far it is goes to the standard error.
 */
import { createWriteStream, linkSync, readFileSync, rmSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  exportNamespace,
  type ImportResult,
  importNamespace,
} from '@keystead/contracts/agent-api/namespaces';
import { parseIdentity, type StreamIdentity } from '@keystead/envelope/sealed-stream';
import type { Command } from 'commander';
import type { Caller } from '../access/caller.ts';
import type { Door } from '../access/door.ts';
import { checkOptions, toldOfOptions } from '../command-options.ts';
import { ConfigurationError } from '../configuration.ts';
import { readNamedFile, requireNewFile, streamNamedFile } from '../named-file.ts';
import type { ImportCounts } from './archive-import.ts';
import { recipientOf } from './archive-keys.ts';
import type { ArchiveRow } from './archive-rows.ts';
import { exportErrand, importErrand } from './namespaces.http.ts';
import type { Transfer } from './transfer.ts';

/** Opens the vault that a configuration describes, for one command. */
export type WithTransfer = <T>(
  configurationFile: string,
  work: (parts: { door: Door; vault: { transfer: Transfer } }, caller: Caller) => Promise<T>,
) => Promise<T>;

const standard = '-';
const sealingOptions = { passphrase: 'the passphrase', recipient: '--recipient' };
const progressEveryMs = 1_000;

export function addArchiveCommands(program: Command, withTransfer: WithTransfer): void {
  program
    .command('export')
    .description('Write a namespace into an encrypted archive')
    .requiredOption('--config <file>', 'vault.yaml')
    .requiredOption('--namespace <name>', 'which one')
    .requiredOption('--output <file>', 'a new file; - for the standard output')
    .option('--passphrase-file <file>', 'what seals it; - for the standard input')
    .option('--recipient <key>', 'a keystead-recipient-…: whoever has its identity opens it')
    .option('--json', 'answer in JSON', false)
    .action(async ({ config, namespace, output, passphraseFile, recipient, json }) => {
      requireOne({ '--passphrase-file': passphraseFile, '--recipient': recipient });
      if (output !== standard) requireNewFile(output);
      const body = checkOptions(
        exportNamespace.body,
        recipient === undefined ? { passphrase: readText(passphraseFile) } : { recipient },
        sealingOptions,
      );
      const sealedFor = sealedBy(body);
      const counts = { secrets: 0, versions: 0 };
      const progress = new Progress(
        () => `exporting: ${counts.secrets} secrets, ${counts.versions} versions`,
      );
      const count = ({ kind }: ArchiveRow) => {
        if (kind === 'secret') counts.secrets += 1;
        if (kind === 'version') counts.versions += 1;
        progress.tell();
      };
      await withTransfer(config, ({ door, vault }, caller) =>
        // The audit holds that it was begun before the first byte is written.
        door.perform(caller, exportErrand(namespace), async () => {
          await writeWhole(await vault.transfer.export(namespace, sealedFor, count), output);
        }),
      );
      const result = { namespace, output, ...counts };
      const text = json
        ? JSON.stringify(result)
        : `${counts.secrets} secrets of ${namespace} with ${counts.versions} versions are in ${output}`;
      (output === standard ? process.stderr : process.stdout).write(`${text}\n`);
    });

  program
    .command('import')
    .description('Read an encrypted archive into a namespace, all or nothing')
    .requiredOption('--config <file>', 'vault.yaml')
    .requiredOption('--namespace <name>', 'what the namespace is called here')
    .requiredOption('--input <file>', 'the archive; - for the standard input')
    .option('--passphrase-file <file>', 'what opens it; - for the standard input')
    .option('--identity-file <file>', 'a keystead-identity-…, likewise')
    .option('--existing <what>', 'fail, skip or replace what is there already', 'fail')
    .option('--create-namespace', 'make it as the archive describes it, if it is missing', false)
    .option('--dry-run', 'check everything and write nothing', false)
    .option('--json', 'answer in JSON', false)
    .action(async (options) => {
      const { config, namespace, input, passphraseFile, identityFile, json } = options;
      requireOne({ '--passphrase-file': passphraseFile, '--identity-file': identityFile });
      if (input === standard && [passphraseFile, identityFile].includes(standard)) {
        throw new ConfigurationError(['the archive and what opens it cannot both come by -']);
      }
      const { existing } = checkOptions(
        importNamespace.query,
        {
          existing: options.existing,
          createNamespace: String(options.createNamespace),
          dryRun: String(options.dryRun),
        },
        { existing: '--existing' },
      );
      const identity: StreamIdentity =
        identityFile === undefined
          ? { kind: 'passphrase', passphrase: readText(passphraseFile) }
          : { kind: 'x25519', privateKey: readIdentity(identityFile) };
      const archive = input === standard ? process.stdin : streamNamedFile(input);
      let told: { phase: string; counts: Readonly<ImportCounts> } | undefined;
      const progress = new Progress(() => {
        const { created = 0, replaced = 0, skipped = 0, versions = 0 } = told?.counts ?? {};
        return `${told?.phase}: ${created + replaced + skipped} secrets, ${versions} versions`;
      });
      const result = await withTransfer(config, ({ door, vault }, caller) =>
        door.perform(caller, importErrand(namespace, options.createNamespace), () =>
          vault.transfer.import(caller, namespace, archive, identity, {
            existing,
            createNamespaces: options.createNamespace,
            dryRun: options.dryRun,
            onProgress: (phase, counts) => {
              const isNew = told?.phase !== phase;
              told = { phase, counts };
              progress.tell(isNew);
            },
          }),
        ),
      );
      process.stdout.write(json ? `${JSON.stringify(result)}\n` : importText(result));
    });
}

function importText({ namespace, dryRun, created, replaced, skipped, versions }: ImportResult) {
  const would = dryRun ? 'would be ' : '';
  return `${namespace}: ${created} secrets ${would}created, ${replaced} ${would}replaced, ${skipped} left alone; ${versions} versions\n`;
}

/** A line on the standard error, not more often than somebody reads it. */
class Progress {
  readonly #text: () => string;
  #toldAtMs = performance.now();

  constructor(text: () => string) {
    this.#text = text;
  }

  tell(isNew = false): void {
    const nowMs = performance.now();
    if (!isNew && nowMs - this.#toldAtMs < progressEveryMs) return;
    this.#toldAtMs = nowMs;
    process.stderr.write(`${this.#text()}\n`);
  }
}

/** Under its name only when it is whole, and over nothing. */
async function writeWhole(archive: Readable, output: string): Promise<void> {
  if (output === standard) {
    await pipeline(archive, process.stdout, { end: false });
    return;
  }
  const unfinished = `${output}.part`;
  try {
    await pipeline(archive, createWriteStream(unfinished, { mode: 0o600, flush: true }));
    // Unlike renaming it replaces nothing.
    linkSync(unfinished, output);
  } finally {
    rmSync(unfinished, { force: true });
  }
}

function sealedBy(body: Parameters<typeof recipientOf>[0]): ReturnType<typeof recipientOf> {
  try {
    return recipientOf(body);
  } catch (error) {
    throw toldOfOptions(error, sealingOptions);
  }
}

function requireOne(options: Record<string, string | undefined>): void {
  const given = Object.values(options).filter((value) => value !== undefined);
  if (given.length === 1) return;
  throw new ConfigurationError([`give one of ${Object.keys(options).join(' and ')}`]);
}

function readText(file: string): string {
  const bytes = file === standard ? readFileSync(0) : readNamedFile(file);
  return bytes.toString('utf8').replace(/\r?\n$/, '');
}

function readIdentity(file: string) {
  const text = readText(file).trim();
  try {
    return parseIdentity(text);
  } catch (error) {
    throw new ConfigurationError([`${file}: ${(error as Error).message}`]);
  }
}
