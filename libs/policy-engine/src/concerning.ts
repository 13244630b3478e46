/** Which policies can apply to one secret at all, whoever asks and whatever is to be done to it. */
import type { Facts } from './facts.ts';
import type { Alternative, Study } from './study.ts';
import { policiesOfDocument, policiesOfText, studyAll } from './validate.ts';
import { principalTypeNames, resourceTypesOf } from './vocabulary.ts';

export interface SecretPlace {
  namespace: string;
  secret: string;
}

/**
 * For each policy of a set, as it is stored there. Errs on the side of "can": what is not understood, or
 * depends on more than the names, is in.
 */
export async function concerning(
  stored: readonly Record<string, unknown>[],
  place: SecretPlace,
): Promise<boolean[]> {
  const sources = stored.map((policy) => {
    const read =
      typeof policy.cedar === 'string'
        ? policiesOfText(String(policy.id), policy.cedar)
        : policiesOfDocument(policy);
    return read.ok ? read.policies : undefined;
  });
  const studied = await studyAll(sources.flatMap((policies) => policies ?? []));
  let next = 0;
  return sources.map((policies) => {
    if (policies === undefined) return true;
    const own = studied.slice(next, next + policies.length);
    next += policies.length;
    return own.some((one) => !one.ok || canConcern(one.study, place));
  });
}

function canConcern({ actions, resource, guards }: Study, place: SecretPlace): boolean {
  if (actions && !actions.some((action) => isOfSecrets(action))) return false;
  if (resource && !resource.some((one) => fits(one, place))) return false;
  return principalTypeNames.some((principalType) => {
    // Whatever is not known of the request leaves a guard undecided.
    const facts = {
      principalType,
      resourceType: 'Secret',
      resourceName: place.secret,
      namespaceName: place.namespace,
    } as Facts;
    return guards.every((guard) => guard(facts) !== false);
  });
}

const isOfSecrets = (action: string) =>
  resourceTypesOf(action as Parameters<typeof resourceTypesOf>[0]).includes('Secret');

function fits({ type, entity }: Alternative, { namespace, secret }: SecretPlace): boolean {
  if (type !== undefined && type !== 'Secret') return false;
  switch (entity?.type) {
    case 'Secret':
      return entity.id === `${namespace}:${secret}`;
    case 'Namespace':
      return entity.id === namespace;
    default:
      return true;
  }
}
