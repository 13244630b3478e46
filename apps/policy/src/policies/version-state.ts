/**
 * Which way a version of a policy may go, and who may take it there. No I/O.
 *
 * Four eyes are those of two people. An API key has none: whoever made it may be the one who wrote. So
 * people alone review and publish, and what a key has written needs two of them.
 */
import { idPrefixes } from '@keystead/contracts/ids';

export type VersionState = 'draft' | 'reviewed' | 'published' | 'superseded';

export interface VersionFacts {
  state: VersionState;
  authorId: string;
  reviewerId: string | null;
}

export type Step = { may: true } | { may: false; because: string };

const no = (because: string): Step => ({ may: false, because });
const isPerson = (id: string) => !id.startsWith(`${idPrefixes.apiKey}_`);

export function mayReview({ state, authorId }: VersionFacts, by: string, fourEyes: boolean): Step {
  if (state !== 'draft' && state !== 'reviewed') return no(`the version is ${state} already`);
  if (!fourEyes) return { may: true };
  if (!isPerson(by)) return no('a person reviews it, and no API key');
  if (by === authorId) return no('somebody else than the author reviews it');
  return { may: true };
}

export function mayPublish(version: VersionFacts, by: string, fourEyes: boolean): Step {
  const { state, authorId, reviewerId } = version;
  if (state === 'published') return no('the version is published already');
  if (!fourEyes) return { may: true };
  if (!isPerson(by)) return no('a person publishes it, and no API key');
  if (reviewerId === null) return no('somebody else than the author has to review it first');
  if (reviewerId === authorId) return no("the review was the author's own");
  if (!isPerson(reviewerId)) return no('the review was made with an API key');
  if (by === authorId) return no('somebody else than the author publishes it');
  if (!isPerson(authorId) && by === reviewerId) {
    return no('it was written with an API key: somebody else than who reviewed it publishes it');
  }
  return { may: true };
}

/** Whoever is held by four eyes does not take them away and put them back. */
export function mayAskForFewerEyes(role: string | null): Step {
  return role === 'owner' ? { may: true } : no('four eyes are switched off by an owner alone');
}
