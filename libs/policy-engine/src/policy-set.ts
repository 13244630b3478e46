/**
 * What is compiled: policies on three levels. The organization's guardrails stand over the vault's
 * policies, and those over a namespace's. A lower level narrows and never widens: each level that is
 * there must permit, and what any level forbids is denied.
 */
import { inOurWords } from '@keystead/contracts/issue-text';
import { z } from 'zod';
import { limits } from './limits.ts';
import { addressRange } from './policy-document.ts';
import { nearest, type Problem, problemAt, quoted } from './problems.ts';
import { builtInNetworks } from './vocabulary.ts';

export const levels = ['organization', 'vault', 'namespace'] as const;
export type LevelName = (typeof levels)[number];

const policyId = z
  .string()
  .min(1)
  .max(limits.nameMaxLength + 4)
  .regex(/^[A-Za-z0-9][A-Za-z0-9._:#-]*$/, 'must be letters, digits and . _ : # -');

/** Cedar text. Several policies in one text take their ids from `@id`, or `ID#1`, `ID#2`, … */
export const cedarSource = z.strictObject({
  id: policyId,
  cedar: z.string().min(1).max(limits.setTextMaxLength),
  /** A policy that is switched off decides nothing; its level still has to permit. */
  enabled: z.boolean().default(true),
});

const level = z.strictObject({
  /**
   * What holds at this level when none of its policies applies. `permit` is for guardrails: levels
   * that only forbid. It never permits anything that no policy of another level permits.
   */
  otherwise: z.enum(['deny', 'permit']).default('deny'),
  /** Cedar sources and policy documents; both are checked one by one. */
  policies: z.array(z.record(z.string(), z.unknown())).max(limits.policiesPerSet),
});

const namespaceName = z
  .string()
  .min(1)
  .max(limits.nameMaxLength)
  .regex(/^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/, 'must be the name of a namespace');

export const policySet = z.strictObject({
  /** Named networks, e.g. `{"office": ["192.0.2.0/24"]}`, for `context.networks`. */
  networks: z
    .record(
      z.string().regex(/^[a-z0-9][a-z0-9-]{0,63}$/, 'must be lower case letters, digits and -'),
      z.array(addressRange).min(1).max(limits.networkRangesMax),
    )
    .refine(
      (named) => Object.keys(named).length <= limits.networksPerSet,
      `has at most ${limits.networksPerSet} networks`,
    )
    .refine(
      (named) => !builtInNetworks.some((name) => Object.hasOwn(named, name)),
      `${builtInNetworks.join(', ')} are networks already`,
    )
    .default({}),
  organization: level.optional(),
  vault: level.optional(),
  namespaces: z
    .record(namespaceName, level)
    .refine(
      (named) => Object.keys(named).length <= limits.namespacesPerSet,
      `has at most ${limits.namespacesPerSet} namespaces`,
    )
    .default({}),
});
export type PolicySetInput = z.input<typeof policySet>;
export type PolicySet = z.output<typeof policySet>;

const levelFields = ['otherwise', 'policies'];
const setFields = Object.keys(policySet.shape);
const pointer = (path: readonly PropertyKey[]) =>
  path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');

/** Reads the frame of a set; its policies are read one by one when it is compiled. */
export function parsePolicySet(
  input: unknown,
): { ok: true; set: PolicySet } | { ok: false; problems: Problem[] } {
  const parsed = policySet.safeParse(input, inOurWords);
  if (parsed.success) return { ok: true, set: parsed.data };
  return {
    ok: false,
    problems: parsed.error.issues.slice(0, limits.problemsPerPolicy).flatMap((issue) => {
      if (issue.code !== 'unrecognized_keys')
        return [problemAt(pointer(issue.path), issue.message)];
      return issue.keys.slice(0, 5).map((key) => {
        const near = nearest(key, issue.path.length === 0 ? setFields : levelFields);
        return problemAt(
          pointer([...issue.path, key]),
          `${quoted(key)} is not known here`,
          near === undefined ? 'remove it' : `did you mean \`${near}\`?`,
        );
      });
    }),
  };
}
