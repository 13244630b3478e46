/**
 * Whether an audit head contradicts what was kept before. No I/O.
 *
 * Heads of one run of an agent come in the order of their events, which may be recorded in another
 * order; between runs the agent's clock has to do.
 */
export interface Head {
  chainId: string;
  sequence: bigint;
  hash: string;
  atMs: number;
  bootId: string;
  eventSequence: bigint;
  signature: string;
}

export type Contradiction = 'signature_invalid' | 'other_hash' | 'went_back' | 'chain_replaced';

export interface KnownHeads {
  /** Of the same chain and sequence. */
  same: readonly Head[];
  /** Of the same chain: those with the highest sequence. */
  furthest: readonly Head[];
  /** Whether another chain of the agent was known, and this one was not. */
  replaces: boolean;
}

export function contradictionOf(head: Head, known: KnownHeads): Contradiction | undefined {
  if (head.signature === 'invalid') return 'signature_invalid';
  if (known.same.some(({ hash }) => hash !== head.hash)) return 'other_hash';
  if (known.furthest.some((other) => other.sequence > head.sequence && isLater(head, other))) {
    return 'went_back';
  }
  return known.replaces ? 'chain_replaced' : undefined;
}

function isLater(head: Head, other: Head): boolean {
  if (head.bootId === other.bootId) return head.eventSequence > other.eventSequence;
  return head.atMs > other.atMs;
}
