/** The routes that are offered, to tell a wrong method from a wrong path. */
export class RouteTable {
  readonly #routes: { segments: string[]; methods: Set<string> }[] = [];

  /** @param pattern as the router writes it, e.g. `/v1/vaults/:id` */
  add(methods: readonly string[], pattern: string): void {
    const segments = pattern.split('/');
    const same = this.#routes.find((route) => route.segments.join('/') === pattern);
    const route = same ?? { segments, methods: new Set<string>() };
    for (const method of methods) route.methods.add(method);
    if (!same) this.#routes.push(route);
  }

  /** The methods that a path is offered with, sorted; empty where there is no such path. */
  methodsOf(target: string): string[] {
    const segments = (target.split('?')[0] ?? '').split('/');
    const methods = new Set<string>();
    for (const route of this.#routes) {
      if (!fits(route.segments, segments)) continue;
      for (const method of route.methods) methods.add(method);
    }
    return [...methods].sort();
  }
}

function fits(pattern: readonly string[], segments: readonly string[]): boolean {
  const rest = pattern.at(-1) === '*';
  if (rest ? segments.length < pattern.length : segments.length !== pattern.length) return false;
  return pattern.every(
    (part, index) =>
      part === '*' || (part.startsWith(':') ? segments[index] !== '' : part === segments[index]),
  );
}
