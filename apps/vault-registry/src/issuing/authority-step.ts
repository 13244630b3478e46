/** What the authority's rows ask for now. */
const dayMs = 86_400_000;

/** Longer than any leaf lives, and long enough for people to bring an offline root's key. */
export const rotateBeforeMs = 90 * dayMs;

export interface AuthorityState {
  kind: 'root' | 'intermediate';
  expiresAtMs: number;
  hasKey: boolean;
}

/**
 * `create`: root and intermediate; `rotate`: a further intermediate; `use`: the newest;
 * `use_and_warn`: it should be rotated, and the root's key is away; `blocked`: it must be.
 */
export type AuthorityStep = 'create' | 'rotate' | 'use' | 'use_and_warn' | 'blocked';

/** @param states by generation, oldest first */
export function nextAuthorityStep(states: readonly AuthorityState[], nowMs: number): AuthorityStep {
  const root = states.findLast(({ kind }) => kind === 'root');
  if (!root) return 'create';
  const newest = states.findLast(({ kind }) => kind === 'intermediate');
  const restMs = newest?.hasKey ? newest.expiresAtMs - nowMs : 0;
  // An intermediate never outlives its root: near the root's end a new one would gain nothing.
  const gains = newest === undefined || newest.expiresAtMs < root.expiresAtMs;
  if (restMs > rotateBeforeMs) return 'use';
  if (root.hasKey && root.expiresAtMs > nowMs && gains) return 'rotate';
  return restMs > 0 ? 'use_and_warn' : 'blocked';
}
