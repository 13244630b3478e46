/** Policies made ready to decide: checked, indexed, and with bytes that can be hashed and signed. */
import { createHash } from 'node:crypto';
import { agentActions } from '@keystead/contracts/agent-api/actions';
import { inOurWords } from '@keystead/contracts/issue-text';
import { z } from 'zod';
import { bench } from './cedar.ts';
import type { Decision } from './decide.ts';
import { limits } from './limits.ts';
import { Memory } from './memory.ts';
import { Networks } from './networks.ts';
import { Pieces } from './pieces.ts';
import {
  cedarSource,
  type LevelName,
  type PolicySet,
  type PolicySetInput,
  parsePolicySet,
} from './policy-set.ts';
import { type Checked, meant, type Problem, problemAt } from './problems.ts';
import { type CompiledLevel, type CompiledPolicy, Slices } from './slices.ts';
import type { Studied } from './study.ts';
import { policiesOfDocument, policiesOfText, type SourcePolicy, studyAll } from './validate.ts';
import { builtInNetworks } from './vocabulary.ts';

/** Why a set denies everything. */
export type Refusal = 'corrupt_set' | 'no_set';

export interface DecisionCounts {
  decided: number;
  remembered: number;
  evaluated: number;
  failed: number;
}

/** Policies ready to decide. Immutable; the same sources give the same bytes and the same hash. */
export class CompiledSet {
  /** Canonical: what is hashed, signed, sent and stored. Cedar's text is the only form inside. */
  readonly bytes: Uint8Array;
  /** Of `bytes`, in hexadecimal. */
  readonly sha256: string;
  readonly levels: readonly CompiledLevel[];
  readonly networks: Networks;
  readonly slices: Slices;
  readonly refusal: Refusal | undefined;
  readonly memory = new Memory<Decision>(limits.decisionsKept);
  /** Of things in lists, of which there are many at a time. */
  readonly listMemory = new Memory<Decision>(limits.decisionsKept);
  readonly counts: DecisionCounts = { decided: 0, remembered: 0, evaluated: 0, failed: 0 };

  constructor(
    bytes: Uint8Array,
    levels: readonly CompiledLevel[],
    networks: PolicySet['networks'],
    refusal?: Refusal,
  ) {
    this.bytes = bytes;
    this.sha256 = createHash('sha256').update(bytes).digest('hex');
    this.levels = levels;
    this.networks = new Networks(networks);
    this.slices = new Slices(levels);
    this.refusal = refusal;
  }

  get policies(): readonly CompiledPolicy[] {
    return this.levels.flatMap((level) => level.policies);
  }

  /** Gives back what the engine keeps for it. Deciding with it still works, and prepares anew. */
  close(): void {
    this.slices.close();
    this.memory.clear();
    this.listMemory.clear();
  }
}

/** In the place of a set that cannot be trusted: it denies everything and says why. */
export function refusingSet(refusal: Refusal): CompiledSet {
  return new CompiledSet(new Uint8Array(), [], {}, refusal);
}

const format = 'keystead-policy-set-1';

interface LevelSource {
  level: LevelName;
  namespace: string | undefined;
  otherwise: 'deny' | 'permit';
  policies: { source: SourcePolicy; enabled: boolean }[];
}

const escaped = (part: string) => part.replaceAll('~', '~0').replaceAll('/', '~1');
const byText = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);

/** Reads, checks and indexes the policies of a set. Whatever is wrong with any of them is reported. */
export async function compile(input: PolicySetInput | unknown): Promise<Checked<CompiledSet>> {
  const frame = parsePolicySet(input);
  if (!frame.ok) return frame;
  const { set } = frame;
  const problems: Problem[] = [];
  const complain = (found: readonly Problem[]) => {
    for (const problem of found)
      if (problems.length < limits.problemsPerSet) problems.push(problem);
  };
  const sources: LevelSource[] = [];
  const given: [LevelName, string | undefined, PolicySet['vault'], string][] = [
    ['organization', undefined, set.organization, '/organization'],
    ['vault', undefined, set.vault, '/vault'],
    ...Object.entries(set.namespaces)
      .sort(([a], [b]) => byText(a, b))
      .map(([name, level]): [LevelName, string, PolicySet['vault'], string] => [
        'namespace',
        name,
        level,
        `/namespaces/${escaped(name)}`,
      ]),
  ];
  const pieces = new Pieces();
  let letters = 0;
  let many = 0;
  for (const [level, namespace, content, path] of given) {
    if (content === undefined) continue;
    const source: LevelSource = { level, namespace, otherwise: content.otherwise, policies: [] };
    const ids = new Set<string>();
    for (const [at, policy] of content.policies.entries()) {
      await pieces.rest();
      const here = `${path}/policies/${at}`;
      const read = readSource(policy, here);
      if (!read.ok) {
        complain(read.problems);
        continue;
      }
      for (const one of read.policies) {
        many += 1;
        letters += one.piece.text.length;
        if (ids.has(one.id)) {
          complain([
            {
              ...problemAt(
                here,
                `the id ${one.id} stands twice at this level`,
                'give each policy an id of its own',
              ),
              policyId: one.id,
            },
          ]);
        }
        ids.add(one.id);
        source.policies.push({ source: one, enabled: read.enabled });
      }
      if (many > limits.policiesPerSet) {
        return {
          ok: false,
          problems: [problemAt(here, `a set has at most ${limits.policiesPerSet} policies`)],
        };
      }
      if (letters > limits.setTextMaxLength) {
        return {
          ok: false,
          problems: [
            problemAt(
              here,
              `the policies of a set have at most ${limits.setTextMaxLength} characters`,
            ),
          ],
        };
      }
    }
    sources.push(source);
  }
  const all = sources.flatMap((source) => source.policies.map((policy) => policy.source));
  const studied = await studyAll(all);
  const warnings: Problem[] = [];
  const compiled: CompiledLevel[] = [];
  const networks = [...Object.keys(set.networks), ...builtInNetworks];
  let next = 0;
  for (const source of sources) {
    const policies: CompiledPolicy[] = [];
    for (const { source: one, enabled } of source.policies) {
      await pieces.rest();
      const result = studied[next] as Studied;
      next += 1;
      if (!result.ok) {
        complain(result.problems.map(one.locate));
        continue;
      }
      if (warnings.length < limits.problemsPerSet)
        warnings.push(...result.warnings.map(one.locate));
      for (const name of result.study.networks) {
        if (networks.includes(name)) continue;
        const suggestion = meant(name, networks);
        complain([
          one.locate({
            severity: 'error',
            where: { line: 1, column: 1 },
            what: `\`${name}\` is no network of this set`,
            ...(suggestion === undefined ? {} : { suggestion }),
          }),
        ]);
      }
      policies.push({
        id: one.id,
        level: source.level,
        namespace: source.namespace,
        enabled,
        priority: result.priority,
        obligations: result.obligations.map((obligation) =>
          Object.freeze({ ...obligation, policyId: one.id }),
        ),
        study: result.study,
      });
    }
    policies.sort((a, b) => byText(a.id, b.id));
    if (
      source.otherwise === 'deny' &&
      !policies.some((policy) => policy.enabled && policy.study.effect === 'permit')
    ) {
      warnings.push({
        ...problemAt(
          source.namespace === undefined
            ? `/${source.level}`
            : `/namespaces/${escaped(source.namespace)}`,
          'no policy of this level permits anything, so everything is denied',
          'for a level that only forbids write `"otherwise": "permit"`',
        ),
        severity: 'warning',
      });
    }
    compiled.push({
      level: source.level,
      namespace: source.namespace,
      otherwise: source.otherwise,
      policies,
    });
  }
  if (problems.length > 0) return { ok: false, problems };
  // The engine is loaded now and not by the first decision.
  bench.run((cedar) => cedar.getCedarVersion());
  const result = new CompiledSet(canonicalBytes(compiled, set.networks), compiled, set.networks);
  for (const action of agentActions) {
    const unavoidable = result.slices.unbounded(action);
    if (unavoidable > limits.policiesPerDecision) {
      return {
        ok: false,
        problems: [
          problemAt(
            '',
            `${unavoidable} policies would have to be evaluated for every ${action}; at most ${limits.policiesPerDecision} may`,
            'name principals or resources in the policies',
          ),
        ],
      };
    }
  }
  return { ok: true, value: result, warnings };
}

function readSource(
  policy: Record<string, unknown>,
  path: string,
): { ok: true; enabled: boolean; policies: SourcePolicy[] } | { ok: false; problems: Problem[] } {
  if (!Object.hasOwn(policy, 'cedar')) {
    const document = policiesOfDocument(policy, path);
    return document.ok ? document : { ok: false, problems: document.problems };
  }
  const parsed = cedarSource.safeParse(policy, inOurWords);
  if (!parsed.success) {
    return {
      ok: false,
      problems: parsed.error.issues
        .slice(0, limits.problemsPerPolicy)
        .map((issue) =>
          problemAt(
            `${path}${issue.path.map((part) => `/${escaped(String(part))}`).join('')}`,
            issue.message,
          ),
        ),
    };
  }
  const read = policiesOfText(parsed.data.id, parsed.data.cedar, `${path}/cedar`);
  return read.ok ? { ok: true, enabled: parsed.data.enabled, policies: read.policies } : read;
}

/** The same policies give the same bytes, in whatever order or form they were written. */
function canonicalBytes(
  compiled: readonly CompiledLevel[],
  networks: PolicySet['networks'],
): Uint8Array {
  const sortedNetworks = Object.fromEntries(
    Object.entries(networks)
      .map(([name, ranges]): [string, string[]] => [name, [...new Set(ranges)].sort()])
      .sort(([a], [b]) => byText(a, b)),
  );
  const lines = [JSON.stringify({ format, networks: sortedNetworks })];
  for (const { level, namespace, otherwise, policies } of compiled) {
    lines.push(
      JSON.stringify({ level, ...(namespace === undefined ? {} : { namespace }), otherwise }),
    );
    for (const { id, enabled, study } of policies) {
      lines.push(JSON.stringify({ id, ...(enabled ? {} : { enabled }), cedar: study.text }));
    }
  }
  return Buffer.from(`${lines.join('\n')}\n`);
}

const head = z.strictObject({
  format: z.literal(format),
  networks: z.record(z.string(), z.array(z.string())),
});
const levelLine = z.strictObject({
  level: z.enum(['organization', 'vault', 'namespace']),
  namespace: z.string().optional(),
  otherwise: z.enum(['deny', 'permit']),
});
const policyLine = z.strictObject({
  id: z.string(),
  enabled: z.literal(false).optional(),
  cedar: z.string(),
});

/** Why bytes are no set: not those that were expected, or not such as `compile` writes. */
export type OpenResult =
  | { ok: true; value: CompiledSet; warnings: Problem[] }
  | { ok: false; refusal: 'corrupt_set'; problems: Problem[] };

/**
 * Makes a set of canonical bytes, as they were stored or received. Everything is checked again, and
 * compiling what they say must give the same bytes.
 */
export async function openSet(bytes: Uint8Array, expectedSha256: string): Promise<OpenResult> {
  const corrupt = (what: string): OpenResult => ({
    ok: false,
    refusal: 'corrupt_set',
    problems: [problemAt('', what)],
  });
  if (bytes.byteLength > 4 * limits.setTextMaxLength) return corrupt('the set is too large');
  const hash = createHash('sha256').update(bytes).digest('hex');
  if (hash !== expectedSha256.toLowerCase())
    return corrupt('the bytes are not those that were signed');
  const read = readBytes(bytes);
  if (read === undefined) return corrupt('the bytes are no policy set');
  const compiled = await compile(read);
  if (!compiled.ok) return { ok: false, refusal: 'corrupt_set', problems: compiled.problems };
  if (compiled.value.sha256 !== hash) {
    compiled.value.close();
    return corrupt('the set is not in its canonical form');
  }
  return compiled;
}

function readBytes(bytes: Uint8Array): PolicySetInput | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const [first = '', ...lines] = text.trimEnd().split('\n');
    const { networks } = head.parse(JSON.parse(first));
    const set: { networks: Record<string, string[]>; namespaces: Record<string, unknown> } & Record<
      string,
      unknown
    > = {
      networks,
      namespaces: {},
    };
    let current: unknown[] | undefined;
    for (const line of lines) {
      const entry = JSON.parse(line) as Record<string, unknown>;
      if (Object.hasOwn(entry, 'level')) {
        const { level, namespace, otherwise } = levelLine.parse(entry);
        current = [];
        const content = { otherwise, policies: current };
        if (level === 'namespace') set.namespaces[namespace as string] = content;
        else set[level] = content;
      } else {
        current?.push(policyLine.parse(entry));
      }
    }
    return set as PolicySetInput;
  } catch {
    return undefined;
  }
}
