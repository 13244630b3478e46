/**
 * Patterns for names: `*` stands for any characters, everything else for itself. The parts between the
 * stars are looked for from left to right and never again, so that no pattern takes long.
 */
export type NameMatcher = (name: string) => boolean;

export function nameMatcher(pattern: string): NameMatcher {
  const parts = pattern.split('*');
  const first = parts[0] ?? '';
  if (parts.length === 1) return (name) => name === first;
  if (pattern === '*') return () => true;
  const last = parts.at(-1) ?? '';
  const between = parts.slice(1, -1).filter((part) => part !== '');
  const shortest = parts.reduce((sum, part) => sum + part.length, 0);
  if (between.length === 0) {
    return (name) => name.length >= shortest && name.startsWith(first) && name.endsWith(last);
  }
  return (name) => {
    if (name.length < shortest || !name.startsWith(first) || !name.endsWith(last)) return false;
    const end = name.length - last.length;
    let at = first.length;
    for (const part of between) {
      const found = name.indexOf(part, at);
      if (found === -1 || found + part.length > end) return false;
      at = found + part.length;
    }
    return true;
  };
}

/** Matches where one of the patterns does. */
export function anyNameMatcher(patterns: readonly string[]): NameMatcher {
  if (patterns.includes('*')) return () => true;
  const exact = new Set(patterns.filter((pattern) => !pattern.includes('*')));
  const others = patterns.filter((pattern) => pattern.includes('*')).map(nameMatcher);
  if (others.length === 0) return (name) => exact.has(name);
  return (name) => exact.has(name) || others.some((matches) => matches(name));
}
