/**
 * Who may be the second person of a rollout. No I/O.
 *
 * An API key has no eyes of its own: whoever made it stands behind what it begins, and it approves nothing.
 */
import type { Step } from '../policies/version-state.ts';

const no = (because: string): Step => ({ may: false, because });

/** @param begunById the person behind the rollout */
export function mayApprove(begunById: string | null, by: { kind: string; id: string }): Step {
  if (by.kind !== 'person') return no('a person approves it, and no API key');
  if (begunById === null) return no('nobody knows who began it: stop it, and begin it anew');
  if (by.id === begunById) return no('somebody else than who began it approves it');
  return { may: true };
}
