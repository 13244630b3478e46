/** The names an agent enrols under. The token's word on the vault counts before the agent's. */
import { name as nameSchema } from '@keystead/contracts/fields';
import { toId } from '@keystead/contracts/ids';
import { limits } from '@keystead/contracts/limits';

export type EnrollmentNames =
  | { outcome: 'named'; vaultName: string; agentName: string }
  | { outcome: 'refused'; detail: string };

export function enrollmentNames(
  asked: { vaultName: string | null; agentName: string | null },
  tokenVaultName: string | null,
  agentId: string,
): EnrollmentNames {
  const wantedVault = tokenVaultName ?? asked.vaultName;
  if (wantedVault === null) {
    return { outcome: 'refused', detail: 'the token names no vault: say which with --name' };
  }
  const vaultName = nameSchema.safeParse(wantedVault);
  if (!vaultName.success) {
    return { outcome: 'refused', detail: `the vault's name ${vaultName.error.issues[0]?.message}` };
  }
  if (asked.agentName === null) {
    return {
      outcome: 'named',
      vaultName: vaultName.data,
      agentName: defaultAgentName(vaultName.data, agentId),
    };
  }
  const agentName = nameSchema.safeParse(asked.agentName);
  return agentName.success
    ? { outcome: 'named', vaultName: vaultName.data, agentName: agentName.data }
    : { outcome: 'refused', detail: `the agent's name ${agentName.error.issues[0]?.message}` };
}

const suffixLength = 5;

/** The vault's name and the random end of the agent's id. */
function defaultAgentName(vaultName: string, agentId: string): string {
  const suffix = toId('agent', agentId).slice(-suffixLength);
  const room = limits.nameMaxLength - suffixLength - 1;
  const start = vaultName.length > room ? vaultName.slice(0, room).toWellFormed() : vaultName;
  return `${start}-${suffix}`;
}
