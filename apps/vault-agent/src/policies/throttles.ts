/** Counts what a policy limits, in windows that begin with the first of them; in this agent alone. */
export class Throttles {
  readonly #windows = new Map<string, { count: number; endsAtMs: number }>();
  readonly #most: number;
  readonly #monotonicMs: () => number;

  constructor(most: number, monotonicMs: () => number = () => performance.now()) {
    this.#most = most;
    this.#monotonicMs = monotonicMs;
  }

  /** Undefined where it is within the limit, else the seconds until the window ends. */
  take(key: string, limit: number, windowSeconds: number): number | undefined {
    const nowMs = this.#monotonicMs();
    const window = this.#windows.get(key);
    if (window === undefined || window.endsAtMs <= nowMs) {
      // At the end of the order: the first is the one that began longest ago.
      this.#windows.delete(key);
      if (this.#windows.size >= this.#most) this.#forget(nowMs);
      this.#windows.set(key, { count: 1, endsAtMs: nowMs + windowSeconds * 1_000 });
      return undefined;
    }
    if (window.count >= limit) return Math.ceil((window.endsAtMs - nowMs) / 1_000);
    window.count += 1;
    return undefined;
  }

  #forget(nowMs: number): void {
    for (const [key, { endsAtMs }] of this.#windows) {
      if (endsAtMs <= nowMs) this.#windows.delete(key);
    }
    const oldest = this.#windows.keys().next().value;
    if (this.#windows.size >= this.#most && oldest !== undefined) this.#windows.delete(oldest);
  }
}
