/** ETags: the revision of a row, quoted. A write names the one it was read at, or `*`. */
import { ServiceError } from '@keystead/contracts/errors';

export function etagOf(revision: number): string {
  return `"${revision}"`;
}

/** @throws ServiceError when the row is no longer the one the caller saw, or none was named */
export function checkMatch(ifMatch: string | null, revision: number, required: boolean): void {
  if (ifMatch === null) {
    if (required) throw new ServiceError('precondition_required');
    return;
  }
  const named = ifMatch.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  if (!named.includes('*') && !named.includes(etagOf(revision))) {
    throw new ServiceError('precondition_failed');
  }
}
