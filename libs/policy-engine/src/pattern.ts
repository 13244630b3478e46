/**
 * Regular expressions in policies. Cedar has none, on purpose; so a policy asks whether its request
 * is among those that match, by a literal that says all there is to say:
 *
 *   context.matches.contains("resource.name ~ ^db-[0-9]+$")
 *
 * The text of the policy stays the only thing that is evaluated. Before an evaluation the patterns
 * that stand in it are matched in time linear in the text (RE2), and those that match are the set.
 * A pattern looks for itself anywhere in the text, unless `^` and `$` bind it.
 */
import { RE2JS } from 're2js';
import { limits } from './limits.ts';
import { meant, quoted } from './problems.ts';
import { namedPaths, readableHeaders } from './vocabulary.ts';

export interface Match {
  /** The literal as it stands in the policy. */
  literal: string;
  path: string;
  pattern: RE2JS;
  /** Bounds the steps of one match: this for each character read. */
  programSize: number;
}

const textPaths = Object.entries(namedPaths)
  .filter(([, type]) => type.startsWith('String'))
  .map(([path]) => path);

/** What a pattern can be matched with: named texts, attributes, metadata and headers. */
export function isTextPath(path: string): boolean {
  if (textPaths.includes(path)) return true;
  const [, root, key] =
    /^(principal\.attributes|resource\.metadata|namespace\.metadata|headers)\.(.+)$/.exec(path) ??
    [];
  if (key === undefined) return false;
  return root !== 'headers' || (readableHeaders as readonly string[]).includes(key);
}

export const textPathExamples = [...textPaths, 'resource.metadata.KEY', 'headers.user-agent'];

const compiled = new Map<
  string,
  { ok: true; match: Match } | { ok: false; what: string; suggestion?: string }
>();

let compiledSteps = 0;

/** Reads the literal of a match. */
export function parseMatch(literal: string) {
  let known = compiled.get(literal);
  if (known === undefined) {
    known = readMatch(literal);
    const weight = literal.length + (known.ok ? known.match.programSize : 0);
    compiledSteps += weight;
    if (compiledSteps > limits.patternStepsKept) {
      compiled.clear();
      compiledSteps = weight;
    }
    compiled.set(literal, known);
  }
  return known;
}

function readMatch(
  literal: string,
): { ok: true; match: Match } | { ok: false; what: string; suggestion?: string } {
  const at = literal.indexOf(' ~ ');
  if (at < 0) {
    return {
      ok: false,
      what: `${quoted(literal)} does not say what is matched with which pattern`,
      suggestion: 'write context.matches.contains("resource.name ~ ^db-[0-9]+$")',
    };
  }
  const path = literal.slice(0, at);
  const source = literal.slice(at + 3);
  if (!isTextPath(path)) {
    const near = meant(path, [...textPaths, ...readableHeaders.map((name) => `headers.${name}`)]);
    return {
      ok: false,
      what: `${quoted(path)} is no text that a pattern can be matched with`,
      suggestion: near ?? `for example \`${textPathExamples.join('`, `')}\``,
    };
  }
  const checked = compilePattern(source);
  return checked.ok
    ? { ok: true, match: { literal, path, pattern: checked.pattern, programSize: checked.size } }
    : checked;
}

/** Compiles a pattern of RE2's language, if it is short and its program small. */
export function compilePattern(
  source: string,
): { ok: true; pattern: RE2JS; size: number } | { ok: false; what: string; suggestion?: string } {
  if (source.length > limits.patternMaxLength) {
    return { ok: false, what: `a pattern has at most ${limits.patternMaxLength} characters` };
  }
  if (source === '') {
    return { ok: false, what: 'the pattern is empty and would match everything' };
  }
  const expected = expectedSize(source);
  if (expected > limits.patternProgramMax) {
    return tooLarge;
  }
  try {
    const pattern = RE2JS.compile(source);
    const size = pattern.programSize();
    if (size > limits.patternProgramMax) return tooLarge;
    return { ok: true, pattern, size };
  } catch (error) {
    const message = error instanceof Error ? error.message : 'it cannot be read';
    return {
      ok: false,
      what: `the pattern ${quoted(source)} cannot be used: ${message.replace(/^error parsing regexp: /, '')}`,
      suggestion: /Perl syntax|escape/.test(message)
        ? 'patterns are those of RE2: no look-around and no back references'
        : 'patterns are those of RE2; escape signs that stand for themselves with `\\`',
    };
  }
}

const tooLarge = {
  ok: false as const,
  what: 'the pattern repeats too much: its program would be too large',
  suggestion: 'repeat less, or use `*` and `+`',
};

/** Instructions to expect, told before compiling, which alone can take long: repeats multiply. */
function expectedSize(source: string): number {
  const outer: number[] = [];
  let total = 0;
  let atom = 0;
  const pieces = /\\[\s\S]|\[(?:\\[\s\S]|\[:[^\]]*\]|[^\]\\])*\]?|\{(\d+)(?:,(\d*))?\}|[\s\S]/g;
  for (const [piece, least, most] of source.matchAll(pieces)) {
    if (least !== undefined) {
      total += atom * Math.max(0, Number(least) - 1, Number(most || 0) - 1);
      atom *= Math.max(1, Number(least), Number(most || 0));
    } else if (piece === '(') {
      outer.push(total);
      total = 0;
    } else if (piece === ')') {
      atom = total + 2;
      total = (outer.pop() ?? 0) + atom;
    } else {
      atom = 1;
      total += 1;
    }
  }
  return total + outer.reduce((sum, size) => sum + size, 0);
}
