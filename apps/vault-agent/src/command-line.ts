/** The commands of keystead-agent. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not running. */
import { join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { destination, pino } from 'pino';
import { ConfigurationError, loadConfiguration } from './configuration.ts';
import { EnrollmentRefused, enrollAgent } from './enrollment.ts';
import { readStatus } from './status.ts';
import { VaultAgent } from './vault-agent.ts';
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
      const enrolled = await enrollAgent(options);
      process.stdout.write(
        options.json
          ? `${JSON.stringify(enrolled)}\n`
          : `Enrolled ${enrolled.agentId} for the vault ${JSON.stringify(enrolled.vaultName)} (${enrolled.vaultId}).\n` +
              `Start it: keystead-agent run --config ${enrolled.configurationFile}\n`,
      );
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
      const status = await readStatus(config ?? join(data ?? '.', 'vault.yaml'));
      process.stdout.write(json ? `${JSON.stringify(status.facts)}\n` : `${status.text}\n`);
      process.exitCode = status.running ? 0 : 3;
    });

  return program;
}

/** Parses and runs; whatever goes wrong is one line on standard error and an exit code. */
export async function main(argv: string[]): Promise<void> {
  try {
    await commandLine().parseAsync(argv);
  } catch (error) {
    const known = error instanceof EnrollmentRefused || error instanceof ConfigurationError;
    const message = known || error instanceof Error ? (error as Error).message : String(error);
    process.stderr.write(`keystead-agent: ${message}\n`, () => process.exit(1));
  }
}

async function run(config: string): Promise<void> {
  const loaded = loadConfiguration(config);
  const log = pino(
    { level: loaded.configuration.monitoring.log_level, base: { service: 'vault-agent' } },
    destination({ fd: 1, sync: true }),
  );
  const agent = new VaultAgent(loaded, log);
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
  if (!/^\d{1,5}$/.test(text) || port > 65_535) throw new InvalidArgumentError('not a port');
  return port;
}
