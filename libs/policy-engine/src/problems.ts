/** What is wrong with a policy, where, and what was probably meant. */

export interface Place {
  /** Of a Cedar text, counted from one. */
  line?: number;
  column?: number;
  /** JSON pointer into a document or a set. */
  path?: string;
}

export interface Problem {
  severity: 'error' | 'warning';
  /** Where it is; an empty path is the whole. */
  where: Place;
  what: string;
  /** What to write instead, where that can be guessed. */
  suggestion?: string;
  policyId?: string;
}

export type Checked<T> =
  | { ok: true; value: T; warnings: Problem[] }
  | { ok: false; problems: Problem[] };

export const problemAt = (path: string, what: string, suggestion?: string): Problem => ({
  severity: 'error',
  where: { path },
  what,
  ...(suggestion === undefined ? {} : { suggestion }),
});

/** Line and column of a place given as an offset into the text, in UTF-16 units. */
export function placeOf(text: string, offset: number): Place {
  const before = text.slice(0, offset);
  const lastBreak = before.lastIndexOf('\n');
  return {
    line: before.split('\n').length,
    column: offset - lastBreak,
  };
}

/** Cedar counts in bytes of UTF-8; JavaScript in UTF-16 units. */
export function offsetOfByte(text: string, byte: number): number {
  const bytes = Buffer.from(text);
  return bytes.subarray(0, byte).toString('utf8').length;
}

/** How many letters must be typed, deleted, exchanged or swapped; counts up to `most`. */
export function distance(a: string, b: string, most: number): number {
  if (Math.abs(a.length - b.length) > most) return most + 1;
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    let smallest = i;
    for (let j = 1; j <= b.length; j += 1) {
      const same = a[i - 1] === b[j - 1];
      let value = Math.min(
        (last[j] as number) + 1,
        (row[j - 1] as number) + 1,
        (last[j - 1] as number) + (same ? 0 : 1),
      );
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        value = Math.min(value, (beforeLast[j - 2] as number) + 1);
      }
      row.push(value);
      smallest = Math.min(smallest, value);
    }
    if (smallest > most) return most + 1;
    beforeLast = last;
    last = row;
  }
  return last[b.length] as number;
}

/** The known word that was probably meant, if one is near enough. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  if (word.length > 100) return undefined;
  const most = Math.max(1, Math.floor(word.length / 3));
  let best: string | undefined;
  let bestDistance = most + 1;
  for (const candidate of known) {
    const far = distance(word.toLowerCase(), candidate.toLowerCase(), bestDistance - 1);
    if (far < bestDistance) {
      best = candidate;
      bestDistance = far;
    }
  }
  return best;
}

/** "Did you mean …?" or, for a short list, what there is. */
export function meant(word: string, known: readonly string[]): string | undefined {
  const near = nearest(word, known);
  if (near !== undefined) return `did you mean \`${near}\`?`;
  return known.length <= 12 ? `one of ${known.map((name) => `\`${name}\``).join(', ')}` : undefined;
}

/** A piece of foreign text for a message: short, on one line. */
export function quoted(text: string): string {
  const short = text.length > 60 ? `${text.slice(0, 57)}…` : text;
  return `\`${short.replace(/\s+/g, ' ')}\``;
}
