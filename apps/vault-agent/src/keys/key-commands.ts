/** `keystead-agent key`: what guards the keys of the vault, and the master key's replacement. */
import { readKeys, rotateMasterKey } from '@keystead/contracts/agent-api/keys';
import type { Command } from 'commander';
import type { Caller } from '../access/caller.ts';
import type { Door } from '../access/door.ts';
import type { KeyRing } from './key-ring.ts';

export interface KeyCommandParts {
  door: Door;
  vault: { keys: KeyRing };
}

/** Opens the vault that a configuration describes, for one command. */
export type WithKeys = <T>(
  configurationFile: string,
  work: (parts: KeyCommandParts, caller: Caller) => Promise<T>,
) => Promise<T>;

const resource = { other: 'master-key' };

export function addKeyCommands(program: Command, withKeys: WithKeys): void {
  const key = program.command('key').description('The keys of the vault');
  key
    .command('show')
    .description('Say what guards the keys')
    .requiredOption('--config <file>', 'vault.yaml')
    .option('--json', 'answer in JSON', false)
    .action(async ({ config, json }) => {
      const facts = await withKeys(config, ({ door, vault }, caller) =>
        door.perform(
          caller,
          { action: 'key.read', operation: readKeys.id, resource, effect: 'read' },
          () => vault.keys.describe(),
        ),
      );
      process.stdout.write(
        json
          ? `${JSON.stringify(facts)}\n`
          : [
              `guarded by  ${facts.provider}, ${facts.location}`,
              `master key  version ${facts.masterVersion} of ${facts.masterCreatedAt}`,
              `wraps       ${facts.wrappedKeys} keys${facts.isRotating ? ', a replacement is under way' : ''}`,
              '',
            ].join('\n'),
      );
    });
  key
    .command('rotate')
    .description('Replace the master key, or finish a replacement that was begun')
    .requiredOption('--config <file>', 'vault.yaml')
    .option('--json', 'answer in JSON', false)
    .action(async ({ config, json }) => {
      const done = await withKeys(config, ({ door, vault }, caller) =>
        door.perform(
          caller,
          { action: 'key.rotate', operation: rotateMasterKey.id, resource, effect: 'write' },
          () => vault.keys.rotateMaster(),
        ),
      );
      process.stdout.write(
        json
          ? `${JSON.stringify(done)}\n`
          : `The master key has version ${done.masterVersion}; ${done.rewrappedKeys} keys are wrapped under it.\n`,
      );
    });
}
