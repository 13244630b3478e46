/** What the engine says of a policy's text, in the words of the contract. */
import { ServiceError } from '@keystead/contracts/errors';
import type { PolicyProblem, PolicySource } from '@keystead/contracts/policy';
import type { Problem } from '@keystead/policy-engine/problems';
import { validate } from '@keystead/policy-engine/validate';

export async function checkSource({ format, text }: PolicySource): Promise<PolicyProblem[]> {
  const looksLikeDocument = /^\s*[{[]/.test(text);
  if (looksLikeDocument !== (format === 'document')) {
    return [
      {
        severity: 'error',
        where: { line: 1, column: 1 },
        what: looksLikeDocument ? 'the text is a document' : 'the text is no document',
        suggestion: `write \`"format": "${looksLikeDocument ? 'document' : 'cedar'}"\``,
      },
    ];
  }
  return (await validate(text)).map(shownProblem);
}

export function shownProblem({
  severity,
  where,
  what,
  suggestion,
  policyId,
}: Problem): PolicyProblem {
  const { line, column, path } = where;
  return {
    severity,
    where: {
      ...(line === undefined ? {} : { line }),
      ...(column === undefined ? {} : { column }),
      ...(path === undefined ? {} : { path }),
    },
    what,
    ...(suggestion === undefined ? {} : { suggestion }),
    ...(policyId === undefined ? {} : { policyId }),
  };
}

export const isValid = (problems: readonly PolicyProblem[]) =>
  !problems.some(({ severity }) => severity === 'error');

/** Why files cannot be applied: which of them, and what is wrong first in each; undefined when they can. */
export function whyNotApplied(
  files: readonly { name: string }[],
  problemsOf: (file: { name: string }) => readonly PolicyProblem[],
): ServiceError | undefined {
  const errors = files.flatMap((file, index) => {
    const wrong = problemsOf(file).find(({ severity }) => severity === 'error');
    if (!wrong) return [];
    return [{ in: 'body' as const, path: `/files/${index}/source/text`, message: wrong.what }];
  });
  const [first] = errors;
  if (!first) return undefined;
  const { name } = files.find((_, index) => first.path.startsWith(`/files/${index}/`)) ?? {};
  return new ServiceError('unprocessable', {
    detail: `the file "${name}" is not valid: ${first.message}; the plan shows all problems`,
    errors: errors.slice(0, 20),
  });
}
