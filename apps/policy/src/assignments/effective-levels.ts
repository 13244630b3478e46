/** The policies of a signed set that hold for a vault or one of its namespaces, by level. No I/O. */
import type { Output } from '@keystead/contracts/operation';
import type { effectivePolicies, PolicyLevel } from '@keystead/contracts/policy';
import { namedPolicy } from '../policy-sets/set-content.ts';

type ShownLevel = Output<typeof effectivePolicies>['levels'][number];

interface StoredLevel {
  otherwise?: 'deny' | 'permit';
  policies?: Record<string, unknown>[];
}

/** @param namespace the one that is asked for; null: every one that has policies of its own */
export function effectiveLevels(
  set: Record<string, unknown>,
  namespace: string | null,
): ShownLevel[] {
  const { organization, vault, namespaces } = set as {
    organization?: StoredLevel;
    vault?: StoredLevel;
    namespaces?: Record<string, StoredLevel>;
  };
  const levels: ShownLevel[] = [];
  const add = (level: PolicyLevel, name: string | null, stored: StoredLevel | undefined) => {
    if (stored === undefined) return;
    levels.push({
      level,
      namespace: name,
      otherwise: stored.otherwise ?? 'deny',
      policies: (stored.policies ?? []).map(showPolicy),
    });
  };
  add('organization', null, organization);
  add('vault', null, vault);
  for (const [name, stored] of Object.entries(namespaces ?? {})) {
    if (namespace === null || namespace === name) add('namespace', name, stored);
  }
  return levels;
}

function showPolicy({ id, ...rest }: Record<string, unknown>): ShownLevel['policies'][number] {
  const named = namedPolicy(String(id));
  return {
    policyId: (named?.id ?? null) as ShownLevel['policies'][number]['policyId'],
    version: named?.version ?? null,
    source:
      typeof rest.cedar === 'string'
        ? { format: 'cedar', text: rest.cedar }
        : { format: 'document', text: JSON.stringify(rest, null, 2) },
  };
}
