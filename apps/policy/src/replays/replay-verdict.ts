/** Whether what a replay found is too much. No I/O. */
import { ServiceError } from '@keystead/contracts/errors';
import type { PolicyReplaySummary, ReplayThreshold } from '@keystead/contracts/policy';

type Findings = Pick<PolicyReplaySummary, 'id' | 'newlyDenied' | 'newlyDeniedShare'>;

export function isAbove(
  { count, share }: ReplayThreshold,
  { newlyDenied, newlyDeniedShare }: Omit<Findings, 'id'>,
): boolean {
  return (
    (count !== undefined && newlyDenied > count) ||
    (share !== undefined && newlyDeniedShare > share)
  );
}

/** @throws ServiceError `unprocessable`: without a replay nobody can say that it is below */
export function requireBelow(threshold: ReplayThreshold, replay: Findings | null): void {
  if (replay === null) {
    throw new ServiceError('unprocessable', {
      detail: 'stopAboveNewDenials needs a replay of exactly this; there is none',
    });
  }
  if (!isAbove(threshold, replay)) return;
  const percent = Math.round(replay.newlyDeniedShare * 10_000) / 100;
  throw new ServiceError('unprocessable', {
    detail: `the replay ${replay.id} found ${replay.newlyDenied} decisions newly denied, ${percent} %: above stopAboveNewDenials`,
  });
}
