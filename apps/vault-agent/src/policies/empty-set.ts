/** A set without policies: rolled out to vaults that are to have none any more. Roles decide alone under it. */
import type { CompiledSet } from '@keystead/policy-engine/compile';

export function isEmpty({ levels, refusal }: CompiledSet): boolean {
  return levels.length === 0 && refusal === undefined;
}
