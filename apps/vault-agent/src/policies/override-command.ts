/**
 * `keystead-agent override`: the owner of the vault lets the policies be, with the master key in hand. Opening
 * the vault's keys on this machine is the proof.
 */
import { type Command, InvalidArgumentError } from 'commander';
import type { Caller } from '../access/caller.ts';
import type { GuardedVault } from '../guarded-vault.ts';
import { policyLimits } from './policy-limits.ts';

export type WithVault = <T>(
  configurationFile: string,
  work: (guarded: GuardedVault, caller: Caller) => Promise<T>,
) => Promise<T>;

export function addOverrideCommand(program: Command, withVault: WithVault): void {
  program
    .command('override')
    .description('Let the policies be for a time, in an emergency; it is audited and reported')
    .requiredOption('--config <file>', 'vault.yaml')
    .option('--reason <text>', 'why; everybody who is told sees it')
    .option('--minutes <number>', 'how long', readMinutes, 60)
    .option('--end', 'end the one that is in force', false)
    .option('--json', 'answer in JSON', false)
    .action(async ({ config, reason, minutes, end, json }) => {
      const answer = (facts: object, text: string) =>
        process.stdout.write(json ? `${JSON.stringify(facts)}\n` : `${text}\n`);
      if (end) {
        const ended = await withVault(config, endOverride);
        answer({ ended }, ended ? 'The override has ended.' : 'No override is in force.');
        return;
      }
      if (reason === undefined) throw new InvalidArgumentError('give a --reason, or --end');
      const override = await withVault(config, (guarded, caller) =>
        beginOverride(guarded, caller, reason, minutes),
      );
      const until = new Date(override.untilMs).toISOString();
      answer(
        { id: override.id, reason: override.reason, by: override.by, until },
        `Policies decide nothing until ${until} (${override.id}). Roles still do.`,
      );
    });
}

function errandOf(operation: string) {
  return {
    action: 'override.activate',
    operation,
    resource: { other: 'override' },
    effect: 'write',
  } as const;
}

export function beginOverride(
  guarded: GuardedVault,
  caller: Caller,
  reason: string,
  minutes: number,
) {
  return guarded.door.perform(caller, errandOf('override.activate'), () =>
    guarded.policies.overrides.activate(caller, reason, minutes),
  );
}

export function endOverride(guarded: GuardedVault, caller: Caller): Promise<boolean> {
  return guarded.door.perform(caller, errandOf('override.revoke'), () =>
    guarded.policies.overrides.revoke(),
  );
}

function readMinutes(text: string): number {
  const minutes = Number(text);
  if (!/^\d{1,6}$/.test(text) || minutes < 1 || minutes > policyLimits.overrideMaxMinutes) {
    throw new InvalidArgumentError(
      `must be a whole number from 1 to ${policyLimits.overrideMaxMinutes}`,
    );
  }
  return minutes;
}
