/** Which way a version of a policy may go, and who may take it there. No I/O. */
export type VersionState = 'draft' | 'reviewed' | 'published' | 'superseded';

export interface VersionFacts {
  state: VersionState;
  authorId: string;
  reviewerId: string | null;
}

export type Step = { may: true } | { may: false; because: string };

const no = (because: string): Step => ({ may: false, because });

export function mayReview({ state, authorId }: VersionFacts, by: string, fourEyes: boolean): Step {
  if (state !== 'draft' && state !== 'reviewed') return no(`the version is ${state} already`);
  if (fourEyes && by === authorId) return no('somebody else than the author reviews it');
  return { may: true };
}

export function mayPublish(version: VersionFacts, by: string, fourEyes: boolean): Step {
  const { state, authorId, reviewerId } = version;
  if (state === 'published') return no('the version is published already');
  if (!fourEyes) return { may: true };
  if (reviewerId === null) return no('somebody else than the author has to review it first');
  if (reviewerId === authorId) return no("the review was the author's own");
  if (by === authorId) return no('somebody else than the author publishes it');
  return { may: true };
}
