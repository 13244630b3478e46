/** A vault has no state of its own: it is what its living agents make of it. */
import type { VaultStatus } from '@keystead/contracts/registry';

/** Agents that are neither revoked nor deleted, by state. */
export interface AgentCounts {
  total: number;
  online: number;
  late: number;
  offline: number;
  stopped: number;
  pending: number;
}

/**
 * Late agents still serve. Stopped and pending ones neither serve nor are gone, so they decide
 * only where no other agent does.
 */
export function vaultStatusOf(agents: AgentCounts): VaultStatus {
  if (agents.total === 0) return 'empty';
  const serving = agents.online + agents.late;
  if (agents.offline > 0) return serving > 0 ? 'degraded' : 'offline';
  if (serving > 0) return 'online';
  return agents.stopped > 0 ? 'stopped' : 'pending';
}
