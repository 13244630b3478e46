/**
 * The outside of a Cedar text: where one policy ends and the next begins, and whether it is too deep
 * or too long to be shown to the parser at all. What it means is Cedar's own business.
 */
import { limits } from './limits.ts';
import { type Problem, placeOf } from './problems.ts';

export interface Piece {
  text: string;
  /** Of its first character, in UTF-16 units of the whole. */
  offset: number;
}

// A comment, a string, a word or number, an operator of two signs, or any other sign.
const token =
  /\/\/[^\n]*|"(?:[^"\\\n]|\\[\s\S])*"|"|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|&&|\|\||::|==|!=|<=|>=|[^\s]/gy;
const spaces = /\s*/gy;

/** The policies of a text, each with its place; or what makes it unfit for the parser. */
export function splitPolicies(
  text: string,
): { ok: true; pieces: Piece[] } | { ok: false; problems: Problem[] } {
  const refuse = (offset: number, what: string, suggestion?: string) => ({
    ok: false as const,
    problems: [
      {
        severity: 'error' as const,
        where: placeOf(text, offset),
        what,
        ...(suggestion === undefined ? {} : { suggestion }),
      },
    ],
  });
  if (!text.isWellFormed()) return refuse(0, 'the text is not valid Unicode');
  const pieces: Piece[] = [];
  const open: { sign: string; offset: number }[] = [];
  let start = -1;
  let tokens = 0;
  let ifs = 0;
  let at = 0;
  while (at < text.length) {
    spaces.lastIndex = at;
    spaces.exec(text);
    at = spaces.lastIndex;
    if (at >= text.length) break;
    token.lastIndex = at;
    const sign = token.exec(text)?.[0] ?? '';
    if (sign.startsWith('//')) {
      at += sign.length;
      continue;
    }
    if (sign === '"') return refuse(at, 'a text in quotes does not end', 'close it with `"`');
    if (start < 0) {
      start = at;
      tokens = 0;
      ifs = 0;
    }
    tokens += 1;
    if (tokens > limits.tokensMax) {
      return refuse(
        at,
        `a policy has at most ${limits.tokensMax} words and signs`,
        'split it into several policies',
      );
    }
    if (sign === 'if') ifs += 1;
    if (ifs > limits.ifsMax) return refuse(at, `a policy has at most ${limits.ifsMax} \`if\``);
    if (sign === '(' || sign === '[' || sign === '{') {
      open.push({ sign, offset: at });
      if (open.length > limits.bracketDepthMax) {
        return refuse(at, `brackets nest at most ${limits.bracketDepthMax} deep`);
      }
    } else if (sign === ')' || sign === ']' || sign === '}') {
      const opened = open.pop();
      const wanted = opened && { '(': ')', '[': ']', '{': '}' }[opened.sign];
      if (wanted === undefined) return refuse(at, `\`${sign}\` closes nothing`, 'remove it');
      if (wanted !== sign) {
        return refuse(
          at,
          `\`${sign}\` stands where \`${wanted}\` is missing`,
          `write \`${wanted}\``,
        );
      }
    }
    at += sign.length;
    if (sign === ';' && open.length === 0) {
      pieces.push({ text: text.slice(start, at), offset: start });
      if (at - start > limits.policyTextMaxLength) {
        return refuse(start, `a policy has at most ${limits.policyTextMaxLength} characters`);
      }
      start = -1;
    }
  }
  const unclosed = open.at(-1);
  if (unclosed) {
    return refuse(unclosed.offset, `\`${unclosed.sign}\` is not closed before the text ends`);
  }
  if (start >= 0) {
    return refuse(
      text.trimEnd().length,
      'the last policy does not end with `;`',
      'add `;` at its end',
    );
  }
  return { ok: true, pieces };
}
