/**
 * What is to be told to one agent, and what is known of it then: given what its vault should hold,
 * what it says that it holds, and what was known before. No I/O.
 */
export interface Held {
  number: number;
  digest: string;
}

export type AgentState = 'pending' | 'delivered' | 'active' | 'rejected' | 'drifted';

export interface KnownAgent {
  state: AgentState;
  /** The set that the state is about. */
  number: number | null;
  deliveredAtMs: number | null;
  updatedAtMs: number;
}

export interface Delivery {
  /** null: nothing is assigned, nothing is kept. */
  state: AgentState | null;
  send: boolean;
}

/** A command that was not followed is sent again after this. */
export const resendAfterMs = 30_000;
/** A set that was rejected is offered again after this: the agent may have been mended. */
export const offerAgainAfterMs = 3_600_000;

export function nextDelivery(
  assigned: Held | null,
  held: Held | null,
  known: KnownAgent | undefined,
  nowMs: number,
): Delivery {
  if (assigned === null) return { state: null, send: false };
  if (held !== null && held.digest === assigned.digest) return { state: 'active', send: false };
  const same = known !== undefined && known.number === assigned.number ? known : undefined;
  switch (same?.state) {
    case 'active':
      // It held the set and holds it no more, though nobody told it so.
      return { state: 'drifted', send: true };
    case 'rejected':
      return { state: 'rejected', send: nowMs - same.updatedAtMs >= offerAgainAfterMs };
    case 'drifted':
      return { state: 'drifted', send: isDue(same, nowMs) };
    case 'delivered':
      return { state: 'delivered', send: isDue(same, nowMs) };
    default:
      return { state: 'delivered', send: true };
  }
}

const isDue = ({ deliveredAtMs }: KnownAgent, nowMs: number) =>
  deliveredAtMs === null || nowMs - deliveredAtMs >= resendAfterMs;
