/** `keystead-agent key`: what guards the keys of the vault, the master key's replacement and its move. */
import { readKeys, rotateMasterKey } from '@keystead/contracts/agent-api/keys';
import { KeyProviderError } from '@keystead/envelope/key-provider';
import type { KeyProviderConfiguration } from '@keystead/envelope/key-provider-configuration';
import { openKeyProvider } from '@keystead/envelope/open-key-provider';
import type { Command } from 'commander';
import type { Caller } from '../access/caller.ts';
import type { Door } from '../access/door.ts';
import { loadConfiguration } from '../configuration.ts';
import { keyProviderOf, type ReadVariable } from '../key-management.ts';
import type { KeyRing } from './key-ring.ts';

export interface KeyCommandParts {
  door: Door;
  vault: { keys: KeyRing };
}

/** Opens the vault that a configuration describes, for one command. */
export type WithKeys = <T>(
  configurationFile: string,
  work: (parts: KeyCommandParts, caller: Caller) => Promise<T>,
  more?: { keyProvider?: KeyProviderConfiguration },
) => Promise<T>;

const resource = { other: 'master-key' };

export function addKeyCommands(
  program: Command,
  withKeys: WithKeys,
  readVariable: ReadVariable,
): void {
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

  key
    .command('move')
    .description('Give the master key to another key provider')
    .requiredOption('--config <file>', 'vault.yaml, as it is')
    .requiredOption('--to <file>', 'a vault.yaml whose section encryption names the new provider')
    .option('--json', 'answer in JSON', false)
    .action(async ({ config, to, json }) => {
      const { configuration, locate } = loadConfiguration(to);
      const target = keyProviderOf(configuration.encryption, locate);
      const move = async ({ door, vault }: KeyCommandParts, caller: Caller) => {
        const provider = await openKeyProvider(target, readVariable);
        try {
          return await door.perform(
            caller,
            {
              action: 'key.rotate',
              operation: 'keys.move',
              resource,
              effect: 'write',
              context: { to: target.provider },
            },
            async () => {
              await vault.keys.moveTo(provider);
              return { ...(await vault.keys.describe()), moved: true };
            },
          );
        } finally {
          await provider.close();
        }
      };
      const facts = await withKeys(config, move).catch(async (error: unknown) => {
        if (!(error instanceof KeyProviderError)) throw error;
        // Moved by a command that was killed before it could say so?
        const show = async ({ vault }: KeyCommandParts) => vault.keys.describe();
        const found = await withKeys(config, show, { keyProvider: target }).catch(() => undefined);
        if (found === undefined) throw error;
        return { ...found, moved: false };
      });
      process.stdout.write(
        json
          ? `${JSON.stringify(facts)}\n`
          : `The master key is ${facts.moved ? 'now' : 'already'} guarded by ${facts.provider}, ${facts.location}.\n` +
              `Put the section encryption of ${to} into ${config} on every agent, and start them anew.\n`,
      );
    });
}
