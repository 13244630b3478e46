/** A new value by rules; whoever uses the secret reads it here, so there is nowhere to put it. */
import type { RotatorSettings } from '@keystead/contracts/agent-api/rotation';
import { generateValue } from '../generated-value.ts';
import type { Rotator } from '../rotator.ts';

const nothing = async () => undefined;

export function generatedRotator(
  settings: Extract<RotatorSettings, { kind: 'generated' }>,
): Rotator {
  return {
    kind: 'generated',
    timeoutMs: 10_000,
    create: async () => ({ value: generateValue(settings.rules), encoding: 'text' }),
    apply: nothing,
    verify: nothing,
    rollBack: nothing,
    retire: nothing,
  };
}
