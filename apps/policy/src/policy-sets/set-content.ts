/** What a set says, put together from policies and settings. No I/O. */

import { ServiceError } from '@keystead/contracts/errors';
import type { PolicyLevel, PolicySetSettings, PolicySource } from '@keystead/contracts/policy';
import { type PolicySetContent, policySetContent } from '@keystead/contracts/policy-set-content';
import { compile } from '@keystead/policy-engine/compile';

export interface ChosenPolicy {
  /** Public id. */
  id: string;
  name: string;
  version: number;
  level: PolicyLevel;
  namespace: string | null;
  source: PolicySource;
}

type Level = { otherwise: 'deny' | 'permit'; policies: Record<string, unknown>[] };

/** As the policy engine reads it. A level without policies is left out: it asks for nothing. */
export function engineSet(
  chosen: readonly ChosenPolicy[],
  { networks, otherwise }: PolicySetSettings,
): Record<string, unknown> {
  const levelOf = (policies: readonly ChosenPolicy[], level: PolicyLevel): Level => ({
    otherwise: otherwise[level],
    policies: policies.map(enginePolicy),
  });
  const ofLevel = (level: PolicyLevel) => chosen.filter((policy) => policy.level === level);
  const [organization, vault] = [ofLevel('organization'), ofLevel('vault')];
  const namespaces = Map.groupBy(ofLevel('namespace'), ({ namespace }) => namespace ?? '');
  return {
    networks,
    ...(organization.length > 0 ? { organization: levelOf(organization, 'organization') } : {}),
    ...(vault.length > 0 ? { vault: levelOf(vault, 'vault') } : {}),
    namespaces: Object.fromEntries(
      [...namespaces]
        .sort(([one], [other]) => (one < other ? -1 : 1))
        .map(([name, policies]) => [name, levelOf(policies, 'namespace')]),
    ),
  };
}

/** `pol_…:v3`: what audits and explanations name. */
export const policyName = ({ id, version }: Pick<ChosenPolicy, 'id' | 'version'>) =>
  `${id}:v${version}`;

export function namedPolicy(name: string): { id: string; version: number } | undefined {
  const [, id, version] = /^(pol_[0-9a-z]{26}):v(\d{1,10})/.exec(name) ?? [];
  return id === undefined ? undefined : { id, version: Number(version) };
}

/** How people call what the policy engine names. */
export function policyNames(
  chosen: readonly ChosenPolicy[],
): (policyId: string) => string | undefined {
  const names = new Map(chosen.map(({ id, name }) => [id, name]));
  return (policyId) => names.get(namedPolicy(policyId)?.id ?? '');
}

/** Refuses settings that no set could be signed with, before somebody chooses policies for them. */
export async function checkSettings(settings: PolicySetSettings): Promise<void> {
  const compiled = await compile(engineSet([], settings));
  if (compiled.ok) return;
  const errors = compiled.problems.slice(0, 20).map(({ where, what }) => ({
    in: 'body' as const,
    path: `/settings${'path' in where ? where.path : ''}`,
    message: what.trim(),
  }));
  const [first] = errors;
  throw new ServiceError('invalid_request', {
    detail: `body ${first?.path ?? '/settings'}: ${first?.message ?? 'cannot be signed'}`,
    errors,
  });
}

/** The first of what hinders policies to be one set. */
export function hindrance(
  chosen: readonly ChosenPolicy[],
  problems: readonly { policyId?: string | undefined; what: string }[],
): string {
  const [{ policyId = '', what } = { what: '' }] = problems;
  const name = policyNames(chosen)(policyId);
  const called = name === undefined ? policyId : `"${name}" (${policyId})`;
  return `the policies do not go together: ${`${called} ${what}`.trim()}`;
}

function enginePolicy(policy: ChosenPolicy): Record<string, unknown> {
  const id = policyName(policy);
  return policy.source.format === 'cedar'
    ? { id, cedar: policy.source.text }
    : { ...(JSON.parse(policy.source.text) as Record<string, unknown>), id };
}

export function contentBytes(content: PolicySetContent): Buffer {
  return Buffer.from(JSON.stringify(content));
}

/** @throws where the bytes are no set of a form that this program knows */
export function readContent(bytes: Uint8Array): PolicySetContent {
  return policySetContent.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
}
