/**
 * The commands of keystead-agent. Each loads what it needs when it is called, so that none waits for what
 * another one needs. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not running.
 */
import { join } from 'node:path';
import type { ApiKey } from '@keystead/contracts/agent-api/access';
import { Command, InvalidArgumentError } from 'commander';
import { destination, pino } from 'pino';
import type { Caller } from './access/caller.ts';
import { addAuditCommands } from './audit/audit-commands.ts';
import { addBackupCommands } from './backup/backup-commands.ts';
import { ConfigurationError, loadConfiguration } from './configuration.ts';
import type { GuardedVault, GuardedVaultOptions } from './guarded-vault.ts';
import { addKeyCommands } from './keys/key-commands.ts';
import { addArchiveCommands } from './namespaces/archive-commands.ts';
import { addOverrideCommand } from './policies/override-command.ts';
import { agentVersion } from './version.ts';

export function commandLine(): Command {
  const program = new Command('keystead-agent')
    .description('Serves a vault on this machine and reports its health to the control plane')
    .version(agentVersion)
    .showHelpAfterError()
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));

  program
    .command('enroll')
    .description('Turn an enrolment token into the identity of this agent')
    .requiredOption('--endpoint <host:port>', 'the agent link of the control plane')
    .requiredOption('--token <token>', 'the enrolment token')
    .requiredOption('--ca-fingerprint <sha256>', 'SHA-256 of the root certificate')
    .option('--name <name>', 'name of the vault, where the token does not give one')
    .option('--agent-name <name>', 'what to call this agent (default: the host name)')
    .requiredOption('--data <folder>', 'where the identity and vault.yaml go')
    .option('--port <port>', "the agent's own HTTP port, written into vault.yaml", readPort, 8200)
    .option('--force', 'replace an identity that is there', false)
    .option('--json', 'answer in JSON', false)
    .action(async (options) => {
      const { enrollAgent } = await import('./enrollment.ts');
      const enrolled = await enrollAgent(options);
      process.stdout.write(
        options.json
          ? `${JSON.stringify(enrolled)}\n`
          : `Enrolled ${enrolled.agentId} for the vault ${JSON.stringify(enrolled.vaultName)} (${enrolled.vaultId}).\n` +
              `Start it: keystead-agent run --config ${enrolled.configurationFile}\n`,
      );
    });

  program
    .command('init')
    .description('Make the vault: its configuration, store, keys, and the first API key, told once')
    .option('--data <folder>', 'where vault.yaml goes, for a vault without a control plane')
    .option('--config <file>', 'a vault.yaml that is there')
    .option('--port <port>', "the agent's own HTTP port, for a new vault.yaml", readPort, 8200)
    .option('--json', 'answer in JSON', false)
    .action(async ({ data, config, port, json }) => {
      if ((data === undefined) === (config === undefined)) {
        throw new ConfigurationError(['give either --data or --config']);
      }
      const { initialize } = await import('./local-commands.ts');
      const made = await initialize({ data, config, port }, readVariable);
      const text =
        made.key === null
          ? 'The vault has API keys already; "keystead-agent api-key create" makes another.'
          : `The first API key, with the role admin. It is shown this once:\n\n  ${made.key}\n`;
      process.stdout.write(
        json
          ? `${JSON.stringify(made)}\n`
          : `${text}\nStart it: keystead-agent run --config ${made.configurationFile}\n`,
      );
    });

  program
    .command('check-config')
    .description('Say what is wrong with a vault.yaml, by line and column')
    .requiredOption('--config <file>', 'vault.yaml')
    .action(async ({ config }) => {
      const { checkConfiguration } = await import('./agent-http.ts');
      const { effectiveConfiguration, settledByFile } = await import(
        './policies/rolled-out-configuration.ts'
      );
      const loaded = loadConfiguration(config);
      checkConfiguration(loaded, readVariable);
      process.stdout.write(`${config} is in order\n`);
      const effective = effectiveConfiguration(loaded, {});
      const own = settledByFile(effective);
      if (own.length > 0) {
        process.stdout.write(`No policy set changes what it says itself: ${own.join(', ')}\n`);
      }
      const off = Object.entries(effective.forwarding).filter(([, { value }]) => !value);
      if (off.length > 0) {
        const names = off.map(([name]) => name).join(', ');
        process.stdout.write(`A policy set may have the audit forwarded to: ${names}\n`);
      }
    });

  addApiKeyCommands(program);
  addBackupCommands(program, (config, work) =>
    withVault(
      config,
      (guarded, caller) => work({ backup: guarded.backup, door: guarded.door, caller }),
      { backups: 'command' },
    ),
  );
  addArchiveCommands(program, withVault);
  addKeyCommands(program, withVault, readVariable);
  addAuditCommands(program, auditLogsOf);
  addOverrideCommand(program, withVault);

  program
    .command('unlock')
    .description('Open what suspicious activity has locked: every identity, and the agent')
    .requiredOption('--config <file>', 'vault.yaml')
    .action(async ({ config }) => {
      const { lockoutsFileOf } = await import('./agent-reporting.ts');
      const { unlockAll } = await import('./local-commands.ts');
      const file = lockoutsFileOf(loadConfiguration(config));
      const count = await withVault(config, (guarded, caller) => unlockAll(guarded, caller, file));
      process.stdout.write(count === 0 ? 'Nothing is locked.\n' : `${count} unlocked.\n`);
    });

  program
    .command('run')
    .description('Serve the vault until SIGTERM or SIGINT')
    .requiredOption('--config <file>', 'vault.yaml')
    .action(({ config }) => run(config));

  program
    .command('status')
    .description('Show how the agent on this machine is doing')
    .option('--config <file>', 'vault.yaml')
    .option('--data <folder>', 'the folder with vault.yaml')
    .option('--json', 'answer in JSON', false)
    .action(async ({ config, data, json }) => {
      const { readStatus } = await import('./status.ts');
      const status = await readStatus(config ?? join(data ?? '.', 'vault.yaml'));
      process.stdout.write(json ? `${JSON.stringify(status.facts)}\n` : `${status.text}\n`);
      process.exitCode = status.running ? 0 : 3;
    });

  return program;
}

function addApiKeyCommands(program: Command): void {
  const keys = program
    .command('api-key')
    .description('Make, list and revoke API keys with the files of this machine');
  const list = (text: string, before: string[] = []) => [...before, ...text.split(',')];
  keys
    .command('create')
    .description('Make a key and show it this once')
    .requiredOption('--config <file>', 'vault.yaml')
    .requiredOption('--name <name>', 'what it is for')
    .requiredOption('--role <roles>', 'a role, or several with commas', list)
    .option('--namespace <patterns>', 'narrows the roles to namespaces', list)
    .option('--expires <time>', 'when it ends, like 2027-01-31T00:00:00Z')
    .option('--json', 'answer in JSON', false)
    .action(async ({ config, name, role, namespace, expires, json }) => {
      const wanted = {
        name,
        roles: role,
        ...(namespace === undefined ? {} : { namespaces: namespace }),
        ...(expires === undefined ? {} : { expiresAt: expires }),
      };
      const { createKey } = await import('./local-commands.ts');
      const made = await withVault(config, (guarded, caller) => createKey(guarded, caller, wanted));
      process.stdout.write(json ? `${JSON.stringify(made)}\n` : `${made.key}\n`);
    });
  keys
    .command('list')
    .description('List the keys, without what is secret of them')
    .requiredOption('--config <file>', 'vault.yaml')
    .option('--json', 'answer in JSON', false)
    .action(async ({ config, json }) => {
      const { allKeys } = await import('./local-commands.ts');
      const found = await withVault(config, allKeys);
      process.stdout.write(json ? `${JSON.stringify(found)}\n` : keyTable(found));
    });
  keys
    .command('revoke')
    .description('Revoke a key; within a second no agent accepts it')
    .requiredOption('--config <file>', 'vault.yaml')
    .argument('<id>', 'key_…')
    .action(async (id, { config }) => {
      const { revokeKey } = await import('./local-commands.ts');
      const key = await withVault(config, (guarded, caller) => revokeKey(guarded, caller, id));
      process.stdout.write(`${key.id} (${key.name}) is revoked since ${key.revokedAt}\n`);
    });
}

function keyTable(keys: readonly ApiKey[]): string {
  if (keys.length === 0) return 'There are no API keys.\n';
  const state = (key: ApiKey) => {
    if (key.revokedAt !== null) return 'revoked';
    return key.expiresAt !== null && key.expiresAt <= new Date().toISOString()
      ? 'expired'
      : 'active';
  };
  return keys
    .map((key) =>
      [
        key.id,
        key.prefix,
        state(key).padEnd(7),
        key.roles.join(','),
        key.namespaces.join(','),
        JSON.stringify(key.name),
        `last used ${key.lastUsedAt ?? 'never'}`,
      ].join('  '),
    )
    .join('\n')
    .concat('\n');
}

function auditLogsOf(config: string): string[] {
  const { configuration, locate } = loadConfiguration(config);
  const logFile = locate(configuration.audit.log_file);
  return [logFile, `${logFile}.commands`];
}

const readVariable = (name: string) => process.env[name];

/** Opens the vault of a configuration for one command. */
async function withVault<T>(
  file: string,
  work: (guarded: GuardedVault, caller: Caller) => Promise<T>,
  more?: Pick<GuardedVaultOptions, 'backups' | 'keyProvider'>,
): Promise<T> {
  const loaded = loadConfiguration(file);
  const commands = await import('./local-commands.ts');
  return commands.withVault(loaded, readVariable, work, more);
}

/** Parses and runs; whatever goes wrong is one line on standard error and an exit code. */
export async function main(argv: string[]): Promise<void> {
  // Whoever reads the output may go early, as head does: the command ends as it would have.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
  try {
    await commandLine().parseAsync(argv);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    process.stderr.write(`keystead-agent: ${message}\n`, () => process.exit(1));
  }
}

async function run(config: string): Promise<void> {
  const loaded = loadConfiguration(config);
  const log = pino(
    { level: loaded.configuration.monitoring.log_level, base: { service: 'vault-agent' } },
    destination({ fd: 1, sync: true }),
  );
  const { VaultAgent } = await import('./vault-agent.ts');
  const agent = new VaultAgent(loaded, log, readVariable);
  let stopping = false;
  const stop = (signal: string) => {
    if (stopping) return;
    stopping = true;
    log.info({ signal }, 'stopping');
    // Whatever hangs, the process is gone within two seconds.
    setTimeout(() => process.exit(0), 1_900).unref();
    agent.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ error: String(error) }, 'the end was not orderly');
        process.exit(1);
      },
    );
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop(signal));
  process.on('SIGHUP', () => {
    try {
      const needStart = agent.reload(loadConfiguration(config));
      log.info({ needStart }, 'the configuration was read again');
    } catch (error) {
      log.error({ reason: (error as Error).message }, 'the configuration stays as it was');
    }
  });
  // A limit on the size of files is a full disk, not the end.
  process.on('SIGXFSZ', () => log.error('a file may not grow: the limit on its size is reached'));
  process.on('uncaughtException', (error) =>
    log.error({ error: String(error) }, 'unexpected error'),
  );
  process.on('unhandledRejection', (error) =>
    log.error({ error: String(error) }, 'unexpected error'),
  );
  stopWithParent();
  await agent.start();
}

/** Started through an older Node.js, which cannot hand a SIGKILL on: its end is ours. */
function stopWithParent(): void {
  const parent = Number(process.env.KEYSTEAD_AGENT_PARENT ?? '0');
  if (parent === 0 || parent !== process.ppid) return;
  setInterval(() => {
    if (process.ppid !== parent) process.exit(1);
  }, 250).unref();
}

function readPort(text: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > 65_535)
    throw new InvalidArgumentError('must be a whole number from 0 to 65535');
  return port;
}
