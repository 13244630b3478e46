/** `keystead-agent backup …`: what is done with backups on the machine itself, also without an agent running. */
import { setTimeout as pause } from 'node:timers/promises';
import {
  type BackupContent,
  type BackupRun,
  backupContents,
  createBackup,
  deleteBackup,
  listBackups,
  restoreBackup,
} from '@keystead/contracts/agent-api/backup';
import {
  formatIdentity,
  formatRecipient,
  generateRecipient,
} from '@keystead/envelope/sealed-stream';
import type { Command } from 'commander';
import type { Caller } from '../access/caller.ts';
import type { Door } from '../access/door.ts';
import { checkOptions } from '../command-options.ts';
import { readNamedFile } from '../named-file.ts';
import type { AgentBackups } from './agent-backups.ts';
import type { OpenedBy } from './backups.ts';

/** Opens the vault of a configuration for the time of the work. */
export type WithBackups = <T>(
  configurationFile: string,
  work: (parts: { backup: AgentBackups; door: Door; caller: Caller }) => Promise<T>,
) => Promise<T>;

interface OpeningOptions {
  passphraseFile?: string;
  identityFile?: string;
}

const restoreOptions = {
  mode: '--full',
  contents: '--contents',
  existing: '--existing',
  namespaces: '--namespace',
  secrets: '--secret',
  records: '--record',
  destination: '--destination',
  openedBy: 'the passphrase or identity',
};

export function addBackupCommands(program: Command, withBackups: WithBackups): void {
  const backup = program
    .command('backup')
    .description('Make, list, verify, restore and drill backups with the files of this machine');
  const list = (text: string, before: string[] = []) => [...before, ...text.split(',')];
  const configured = (name: string, description: string) =>
    backup
      .command(name)
      .description(description)
      .requiredOption('--config <file>', 'vault.yaml')
      .option('--json', 'answer in JSON', false);
  const opening = (command: Command) =>
    command
      .option('--destination <label>', 'where to take it from, as "backup list" shows it')
      .option('--passphrase-file <file>', 'opens it without the key provider')
      .option('--identity-file <file>', 'a keystead-identity-…, likewise');

  configured('create', 'Make a backup now')
    .option('--contents <names>', `some of ${backupContents.join(', ')}`, list)
    .action(async ({ config, contents, json }) => {
      const run = await withBackups(config, async ({ backup: parts, door, caller }) => {
        checkOptions(createBackup.body, { contents }, { contents: '--contents' });
        const errand = errandOf(createBackup.id, 'backup.create');
        const begun = await door.perform(caller, errand, () =>
          parts.backups.request(caller, { contents: contents as BackupContent[] | undefined }),
        );
        // A running agent has the lease, and does it.
        await parts.runner.runWaiting();
        for (;;) {
          const now = await parts.backups.run(begun.id);
          const isLeft = now.state === 'running' || (now.state === 'waiting' && now.attempt === 1);
          if (!isLeft) return now;
          await pause(200);
        }
      });
      tell(run, json);
    });

  configured('list', 'List the backups that the destinations have, the newest first').action(
    async ({ config, json }) => {
      const found = await withBackups(config, ({ backup: parts, door, caller }) =>
        door.perform(caller, errandOf(listBackups.id, 'backup.read'), async () => {
          const { items } = await parts.backups.list({ limit: 10_000 });
          return items;
        }),
      );
      if (json) process.stdout.write(`${JSON.stringify(found)}\n`);
      else if (found.length === 0) process.stdout.write('There are no backups.\n');
      else {
        for (const each of found) {
          process.stdout.write(
            `${each.id}  ${each.createdAt}  ${each.secrets} secrets  ${each.bytes} bytes  ${each.contents.join(',')}  ${each.destinations.join(' ')}\n`,
          );
        }
      }
    },
  );

  opening(configured('verify', 'Read a backup to its end without restoring anything'))
    .argument('<id>', 'bkp_…')
    .action(async (id, options) => {
      const run = await withBackups(options.config, ({ backup: parts, caller }) =>
        parts.backups
          .verify(caller, id, { ...choiceOf(options), waitSeconds: 0 })
          .then((begun) => ended(parts, begun)),
      );
      tell(run, options.json);
    });

  opening(configured('drill', 'Restore into a scratch vault, compare, drop it'))
    .argument('<id>', 'bkp_…')
    .action(async (id, options) => {
      const run = await withBackups(options.config, ({ backup: parts, caller }) =>
        parts.backups
          .drill(caller, id, { ...choiceOf(options), waitSeconds: 0 })
          .then((begun) => ended(parts, begun)),
      );
      tell(run, options.json);
    });

  opening(configured('restore', 'Restore a backup as a whole (--full) or what is selected of it'))
    .argument('<id>', 'bkp_…')
    .option('--full', 'of the contents, the vault holds what the backup holds, nothing else', false)
    .option(
      '--contents <names>',
      `some of ${backupContents.join(', ')}; secrets alone where left out`,
      list,
    )
    .option('--namespace <patterns>', 'with * for anything', list)
    .option('--secret <patterns>', 'with * for anything', list)
    .option('--record <patterns>', 'ids of records, likewise', list)
    .option('--existing <what>', 'fail, skip or replace', 'fail')
    .option('--force', 'also over what is newer than the backup', false)
    .option('--accept-unknown-author', 'also what nobody has signed who is known here', false)
    .option('--dry-run', 'say what it would do', false)
    .action(async (id, options) => {
      const {
        contents,
        namespace,
        secret,
        record,
        existing,
        full,
        force,
        dryRun,
        acceptUnknownAuthor,
      } = options;
      const order = checkOptions(
        restoreBackup.body,
        {
          mode: full ? 'full' : 'selected',
          ...(contents === undefined ? {} : { contents }),
          existing,
          force,
          dryRun,
          acceptUnknownAuthor,
          ...(namespace === undefined ? {} : { namespaces: namespace }),
          ...(secret === undefined ? {} : { secrets: secret }),
          ...(record === undefined ? {} : { records: record }),
          ...choiceOf(options),
        },
        restoreOptions,
      );
      const run = await withBackups(options.config, ({ backup: parts, caller }) =>
        parts.backups.restore(caller, id, order).then((begun) => ended(parts, begun)),
      );
      tell(run, options.json);
    });

  configured('delete', 'Delete a backup from every destination')
    .argument('<id>', 'bkp_…')
    .action(async (id, { config }) => {
      await withBackups(config, ({ backup: parts, door, caller }) =>
        door.perform(caller, errandOf(deleteBackup.id, 'backup.delete', id), () =>
          parts.backups.delete(id),
        ),
      );
      process.stdout.write(`${id} is deleted\n`);
    });

  configured('author', 'Say whose signature the backups of this vault have: for a safe').action(
    async ({ config, json }) => {
      const key = await withBackups(config, async ({ backup: parts }) => parts.backups.authorKey);
      process.stdout.write(json ? `${JSON.stringify({ author: key })}\n` : `${key}\n`);
    },
  );

  backup
    .command('new-recipient')
    .description(
      'Make a pair of keys: the recipient goes into vault.yaml, the identity into a safe',
    )
    .action(() => {
      const pair = generateRecipient();
      process.stdout.write(
        `recipient ${formatRecipient(pair.publicKey)}\nidentity  ${formatIdentity(pair.privateKey)}\n`,
      );
      pair.privateKey.wipe();
    });
}

function errandOf(
  operation: string,
  action: 'backup.create' | 'backup.read' | 'backup.delete',
  id?: string,
) {
  return {
    action,
    operation,
    resource: id === undefined ? {} : { other: `backup:${id}` },
    effect: action === 'backup.read' ? ('read' as const) : ('write' as const),
  };
}

function choiceOf(options: OpeningOptions & { destination?: string }): {
  destination?: string;
  openedBy?: OpenedBy;
} {
  const { destination, passphraseFile, identityFile } = options;
  const read = (file: string) =>
    readNamedFile(file)
      .toString('utf8')
      .replace(/\r?\n$/, '');
  return {
    ...(destination === undefined ? {} : { destination }),
    ...(passphraseFile === undefined ? {} : { openedBy: { passphrase: read(passphraseFile) } }),
    ...(identityFile === undefined ? {} : { openedBy: { identity: read(identityFile).trim() } }),
  };
}

async function ended(parts: AgentBackups, begun: BackupRun): Promise<BackupRun> {
  for (let run = begun; ; run = await parts.backups.run(run.id)) {
    if (run.state !== 'running' && run.state !== 'waiting') return run;
    await pause(50);
  }
}

function shown(value: NonNullable<BackupRun['result']>[keyof NonNullable<BackupRun['result']>]) {
  if (Array.isArray(value)) return value.join(', ');
  if (typeof value !== 'object' || value === null) return String(value);
  const { key, knownBy } = value;
  return `${key ?? 'unsigned'} (${knownBy === null ? 'not known here' : `known by ${knownBy}`})`;
}

function tell(run: BackupRun, json: boolean): void {
  if (run.state !== 'succeeded') process.exitCode = 1;
  if (json) {
    process.stdout.write(`${JSON.stringify(run)}\n`);
    return;
  }
  const { kind, state, backupId, problem, result } = run;
  const facts = Object.entries(result ?? {})
    .filter(([, value]) => !Array.isArray(value) || value.length > 0)
    .map(([name, value]) => `  ${name}: ${shown(value)}`);
  process.stdout.write(
    [
      `${kind} ${backupId ?? ''}: ${state}`,
      ...(problem === null ? [] : [`  ${problem.code}: ${problem.message}`]),
      ...facts,
      '',
    ].join('\n'),
  );
}
