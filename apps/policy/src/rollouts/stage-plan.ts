/** Which vault belongs to which stage of a rollout. No I/O. */
import type { RolloutStage } from '@keystead/contracts/policy';

/**
 * @param vaultIds uuids, in the order in which shares are counted
 * @param uuidOf the uuid of a public vault id
 * @returns the stage of each vault; vaults that no stage reaches are left out
 */
export function planStages(
  vaultIds: readonly string[],
  stages: readonly RolloutStage[],
  uuidOf: (id: string) => string,
): Map<string, number> {
  const plan = new Map<string, number>();
  const known = new Set(vaultIds);
  stages.forEach(({ vaults }, stage) => {
    if (vaults.kind === 'named') {
      for (const id of vaults.vaultIds.map(uuidOf)) {
        if (known.has(id) && !plan.has(id)) plan.set(id, stage);
      }
      return;
    }
    // A share is of all that are aimed at, those of earlier stages counted in; at least one vault.
    const upTo =
      vaults.kind === 'all'
        ? vaultIds.length
        : Math.min(
            vaultIds.length,
            Math.max(plan.size + 1, Math.ceil((vaultIds.length * vaults.percent) / 100)),
          );
    for (const id of vaultIds) {
      if (plan.size >= upTo) break;
      if (!plan.has(id)) plan.set(id, stage);
    }
  });
  return plan;
}
