import { createHash } from 'node:crypto';

/**
 * The chain of what commands do beside a running agent, by the chain of that agent: 16 bytes each. Whoever
 * gets heads of both can tell a second log from one that took the place of the first.
 */
export function commandsChainOf(chainId: Uint8Array): Buffer {
  return createHash('sha256')
    .update('keystead.audit-commands.v1\0')
    .update(chainId)
    .digest()
    .subarray(0, 16);
}
