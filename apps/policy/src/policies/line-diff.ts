/** What changed between two texts, line by line: the shortest list of lines out and in. No I/O. */
export interface DiffLine {
  change: 'same' | 'added' | 'removed';
  text: string;
}

/** Beyond this product of line counts the middle is shown as replaced: time stays bounded. */
const cellsMax = 4_000_000;

export function lineDiff(before: string, after: string): DiffLine[] {
  const from = before === '' ? [] : before.split('\n');
  const to = after === '' ? [] : after.split('\n');
  let head = 0;
  while (head < from.length && head < to.length && from[head] === to[head]) head += 1;
  let tail = 0;
  while (
    tail < from.length - head &&
    tail < to.length - head &&
    from[from.length - 1 - tail] === to[to.length - 1 - tail]
  ) {
    tail += 1;
  }
  const line = (change: DiffLine['change']) => (text: string) => ({ change, text });
  return [
    ...from.slice(0, head).map(line('same')),
    ...middle(from.slice(head, from.length - tail), to.slice(head, to.length - tail)),
    ...from.slice(from.length - tail).map(line('same')),
  ];
}

function middle(from: string[], to: string[]): DiffLine[] {
  if (from.length * to.length > cellsMax || from.length === 0 || to.length === 0) {
    return [
      ...from.map((text) => ({ change: 'removed' as const, text })),
      ...to.map((text) => ({ change: 'added' as const, text })),
    ];
  }
  const width = to.length + 1;
  // Lengths of the longest common rest, from the end.
  const common = new Uint32Array((from.length + 1) * width);
  for (let i = from.length - 1; i >= 0; i -= 1) {
    for (let j = to.length - 1; j >= 0; j -= 1) {
      common[i * width + j] =
        from[i] === to[j]
          ? (common[(i + 1) * width + j + 1] as number) + 1
          : Math.max(common[(i + 1) * width + j] as number, common[i * width + j + 1] as number);
    }
  }
  const lines: DiffLine[] = [];
  let i = 0;
  let j = 0;
  while (i < from.length || j < to.length) {
    if (i < from.length && j < to.length && from[i] === to[j]) {
      lines.push({ change: 'same', text: from[i] as string });
      i += 1;
      j += 1;
    } else if (
      j >= to.length ||
      (i < from.length &&
        (common[(i + 1) * width + j] as number) >= (common[i * width + j + 1] as number))
    ) {
      lines.push({ change: 'removed', text: from[i] as string });
      i += 1;
    } else {
      lines.push({ change: 'added', text: to[j] as string });
      j += 1;
    }
  }
  return lines;
}
