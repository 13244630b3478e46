/** The policies of a signed set that hold for a vault, a namespace or one secret, by level. No I/O. */

import { thoseThatFit } from '@keystead/access/answer-size';
import type { Output } from '@keystead/contracts/operation';
import type { effectivePolicies, PolicyLevel } from '@keystead/contracts/policy';
import { concerning, type SecretPlace } from '@keystead/policy-engine/concerning';
import { namedPolicy } from '../policy-sets/set-content.ts';

type ShownLevel = Output<typeof effectivePolicies>['levels'][number];
type ShownPolicy = Omit<ShownLevel['policies'][number], 'name'>;
export type EffectiveLevel = Omit<ShownLevel, 'policies'> & { policies: ShownPolicy[] };

interface StoredLevel {
  otherwise?: 'deny' | 'permit';
  policies?: Record<string, unknown>[];
}

/**
 * @param namespace the one that is asked for; null: every one that has policies of its own
 * @param place the secret that is asked for: policies that can never apply to it are left out
 */
export async function effectiveLevels(
  set: Record<string, unknown>,
  namespace: string | null,
  place: SecretPlace | null = null,
): Promise<EffectiveLevel[]> {
  const { organization, vault, namespaces } = set as {
    organization?: StoredLevel;
    vault?: StoredLevel;
    namespaces?: Record<string, StoredLevel>;
  };
  const levels: EffectiveLevel[] = [];
  const add = async (level: PolicyLevel, name: string | null, stored: StoredLevel | undefined) => {
    if (stored === undefined) return;
    const policies = stored.policies ?? [];
    const concerns = place === null ? null : await concerning(policies, place);
    levels.push({
      level,
      namespace: name,
      otherwise: stored.otherwise ?? 'deny',
      policies: policies.filter((_, at) => concerns === null || concerns[at]).map(showPolicy),
    });
  };
  await add('organization', null, organization);
  await add('vault', null, vault);
  for (const [name, stored] of Object.entries(namespaces ?? {})) {
    if (namespace === null || namespace === name) await add('namespace', name, stored);
  }
  return levels;
}

/** Every level with those of its policies that are on the page. */
export function pageOf(
  levels: readonly EffectiveLevel[],
  after: number,
  limit: number,
): { levels: EffectiveLevel[]; total: number; nextAfter: number | null } {
  const all = levels.flatMap((level) => level.policies.map((policy) => ({ level, policy })));
  const page = thoseThatFit(all.slice(after, after + limit).map(({ policy }) => policy));
  const shown = new Set(page);
  const end = after + page.length;
  return {
    levels: levels.map((level) => ({
      ...level,
      policies: level.policies.filter((policy) => shown.has(policy)),
    })),
    total: all.length,
    nextAfter: end < all.length ? end : null,
  };
}

function showPolicy({ id, ...rest }: Record<string, unknown>): ShownPolicy {
  const named = namedPolicy(String(id));
  return {
    policyId: (named?.id ?? null) as ShownPolicy['policyId'],
    version: named?.version ?? null,
    source:
      typeof rest.cedar === 'string'
        ? { format: 'cedar', text: rest.cedar }
        : { format: 'document', text: JSON.stringify(rest, null, 2) },
  };
}
