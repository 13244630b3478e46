/** Says what is wrong with a policy, where, and what was probably meant. */
import { type Piece, splitPolicies } from './cedar-text.ts';
import { documentToCedar } from './document-to-cedar.ts';
import { limits } from './limits.ts';
import { Pieces } from './pieces.ts';
import { parsePolicyDocument } from './policy-document.ts';
import { type Problem, placeOf, problemAt } from './problems.ts';
import { judge, read, type Studied, type Unjudged } from './study.ts';

/** One policy of Cedar's text, with where it came from. */
export interface SourcePolicy {
  id: string;
  piece: Piece;
  /** Makes of a problem in the text one in what was handed in. */
  locate: (problem: Problem) => Problem;
}

/** The policies of a text. Ids are those of `@id`; where there is none, `id`, or `id#1`, `id#2`, … */
export function policiesOfText(
  id: string,
  text: string,
  path?: string,
): { ok: true; policies: SourcePolicy[] } | { ok: false; problems: Problem[] } {
  const inSet = (problem: Problem): Problem => ({
    ...problem,
    policyId: problem.policyId ?? id,
    ...(path === undefined ? {} : { where: { ...problem.where, path } }),
  });
  const split = splitPolicies(text);
  if (!split.ok) return { ok: false, problems: split.problems.map(inSet) };
  if (split.pieces.length === 0) {
    return {
      ok: false,
      problems: [
        inSet({
          severity: 'error',
          where: { line: 1, column: 1 },
          what: 'there is no policy in the text',
          suggestion: 'write `permit(principal, action, resource);` or `forbid(…);`',
        }),
      ],
    };
  }
  const start = (piece: Piece) => placeOf(text, piece.offset);
  return {
    ok: true,
    policies: split.pieces.map((piece, at) => {
      const named =
        /^\s*(?:@[a-z_]+(?:\("(?:[^"\\]|\\.)*"\))?\s*)*?@id\("([A-Za-z0-9][A-Za-z0-9._:#-]{0,123})"\)/.exec(
          piece.text,
        )?.[1];
      const own = named ?? (split.pieces.length === 1 ? id : `${id}#${at + 1}`);
      return {
        id: own,
        piece,
        locate: (problem) => {
          const from = start(piece);
          const line = problem.where.line ?? 1;
          const column = problem.where.column ?? 1;
          return inSet({
            ...problem,
            policyId: own,
            where: {
              line: (from.line ?? 1) + line - 1,
              column: line === 1 ? (from.column ?? 1) + column - 1 : column,
            },
          });
        },
      };
    }),
  };
}

/** The policies that a document becomes; problems are told by a pointer into the document. */
export function policiesOfDocument(
  input: unknown,
  path = '',
):
  | { ok: true; id: string; enabled: boolean; policies: SourcePolicy[] }
  | { ok: false; problems: Problem[] } {
  const parsed = parsePolicyDocument(input, path);
  if (!parsed.ok) {
    const id = (input as { id?: unknown } | null)?.id;
    return {
      ok: false,
      problems: parsed.problems.map((problem) => ({
        ...problem,
        ...(typeof id === 'string' ? { policyId: id.slice(0, limits.nameMaxLength) } : {}),
      })),
    };
  }
  const policies: SourcePolicy[] = [];
  for (const written of documentToCedar(parsed.document)) {
    const where = { path: `${path}${written.path}` };
    const split = splitPolicies(written.text);
    if (!split.ok) {
      return {
        ok: false,
        problems: split.problems.map((problem) => ({ ...problem, where, policyId: written.id })),
      };
    }
    policies.push({
      id: written.id,
      piece: { text: written.text, offset: 0 },
      locate: (problem) => ({ ...problem, where, policyId: written.id }),
    });
  }
  return { ok: true, id: parsed.document.id, enabled: parsed.document.enabled, policies };
}

/** What was found about each policy, in pieces that leave the event loop room. */
export async function studyAll(policies: readonly SourcePolicy[]): Promise<Studied[]> {
  const pieces = new Pieces();
  const found = new Map<string, Studied>();
  const waiting = new Map<string, Map<string, Unjudged>>();
  for (const { piece } of policies) {
    if (found.has(piece.text)) continue;
    const one = read(piece.text);
    if ('ok' in one) found.set(piece.text, one);
    else {
      const key = JSON.stringify(one.environments);
      const group = waiting.get(key) ?? new Map<string, Unjudged>();
      group.set(piece.text, one);
      waiting.set(key, group);
    }
    await pieces.rest();
  }
  for (const group of waiting.values()) {
    let batch: Unjudged[] = [];
    let nodes = 0;
    const flush = async () => {
      for (const [at, studied] of judge(batch).entries()) {
        found.set((batch[at] as Unjudged).text, studied);
      }
      batch = [];
      nodes = 0;
      await pieces.rest();
    };
    for (const one of group.values()) {
      batch.push(one);
      nodes += one.study.nodes;
      if (batch.length >= limits.validationBatch || nodes > limits.validationBatchNodes) {
        await flush();
      }
    }
    if (batch.length > 0) await flush();
  }
  return policies.map(({ piece }) => found.get(piece.text) as Studied);
}

/**
 * All that is wrong with a policy: a Cedar text, a policy document as JSON text, or as an object.
 * Nothing is wrong when no problem of severity `error` is in the list.
 */
export async function validate(input: unknown): Promise<Problem[]> {
  const given = typeof input === 'string' ? readText(input) : { document: input };
  if ('problems' in given) return given.problems;
  const read =
    'cedar' in given ? policiesOfText('policy', given.cedar) : policiesOfDocument(given.document);
  if (!read.ok) return read.problems;
  if (read.policies.length > limits.policiesPerSet) {
    return [problemAt('', `a set has at most ${limits.policiesPerSet} policies`)];
  }
  const problems: Problem[] = [];
  const ids = new Set<string>();
  const studied = await studyAll(read.policies);
  read.policies.forEach((policy, at) => {
    if (ids.has(policy.id)) {
      problems.push(
        policy.locate({
          severity: 'error',
          where: { line: 1, column: 1 },
          what: `the id ${policy.id} stands twice`,
          suggestion: 'give each policy an `@id` of its own',
        }),
      );
    }
    ids.add(policy.id);
    const one = studied[at] as Studied;
    for (const problem of one.ok ? one.warnings : one.problems) {
      if (problems.length < limits.problemsPerSet) problems.push(policy.locate(problem));
    }
  });
  return problems;
}

function readText(
  text: string,
): { cedar: string } | { document: unknown } | { problems: Problem[] } {
  if (text.length > limits.setTextMaxLength) {
    return {
      problems: [problemAt('', `a text has at most ${limits.setTextMaxLength} characters`)],
    };
  }
  if (!/^\s*[{[]/.test(text)) return { cedar: text };
  if (text.length > limits.policyTextMaxLength) {
    return {
      problems: [problemAt('', `a document has at most ${limits.policyTextMaxLength} characters`)],
    };
  }
  try {
    return { document: JSON.parse(text) as unknown };
  } catch (error) {
    const message = error instanceof Error ? error.message : '';
    const [, offset] = /position (\d+)/.exec(message) ?? [];
    const [, line, column] = /line (\d+) column (\d+)/.exec(message) ?? [];
    const place =
      line !== undefined
        ? { line: Number(line), column: Number(column) }
        : placeOf(text, offset === undefined ? text.length : Number(offset));
    return {
      problems: [
        {
          severity: 'error',
          where: place,
          what: 'the document is not JSON',
          suggestion: 'a document begins with `{`; a Cedar policy with `permit` or `forbid`',
        },
      ],
    };
  }
}
