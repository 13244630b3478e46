/** Counts what a policy limits, in windows that begin with the first of them; in this agent alone. */

/** What one policy counts one thing by. */
export interface Demand {
  key: string;
  limit: number;
  windowSeconds: number;
}

/** Places that were taken. */
export interface Places {
  /** What they were taken for did not begin. */
  giveBack: () => void;
}

interface Window {
  count: number;
  endsAtMs: number;
}

const lookedAtOnce = 16;

export class Throttles {
  readonly #windows = new Map<string, Window>();
  readonly #most: number;
  readonly #monotonicMs: () => number;

  constructor(most: number, monotonicMs: () => number = () => performance.now()) {
    this.#most = most;
    this.#monotonicMs = monotonicMs;
  }

  /** The demands that have no place now, with the seconds until they have. It counts nothing. */
  late<Asked extends Demand>(demands: readonly Asked[]): (Asked & { retryAfterSeconds: number })[] {
    const nowMs = this.#monotonicMs();
    return demands.flatMap((demand) => {
      const window = this.#running(demand.key, nowMs);
      return window === undefined || window.count < demand.limit
        ? []
        : [{ ...demand, retryAfterSeconds: Math.ceil((window.endsAtMs - nowMs) / 1_000) }];
    });
  }

  /** Takes a place for each, one where two have the same key. None of them is {@link late}. */
  take(demands: readonly Demand[]): Places {
    const nowMs = this.#monotonicMs();
    const taken = new Set<Window>();
    for (const { key, windowSeconds } of demands) {
      const endsAtMs = nowMs + windowSeconds * 1_000;
      taken.add(this.#running(key, nowMs) ?? this.#begin(key, nowMs, endsAtMs));
    }
    for (const window of taken) window.count += 1;
    return {
      giveBack: () => {
        for (const window of taken) window.count -= 1;
      },
    };
  }

  /** A window of nothing has not begun. */
  #running(key: string, nowMs: number): Window | undefined {
    const window = this.#windows.get(key);
    return window === undefined || window.endsAtMs <= nowMs || window.count === 0
      ? undefined
      : window;
  }

  #begin(key: string, nowMs: number, endsAtMs: number): Window {
    const known = this.#windows.get(key);
    // Begun for this very request, by another demand with the same key.
    if (known?.count === 0 && known.endsAtMs === endsAtMs) return known;
    // At the end of the order: the first is the one that began longest ago.
    this.#windows.delete(key);
    if (this.#windows.size >= this.#most) this.#forget(nowMs);
    const window = { count: 0, endsAtMs };
    this.#windows.set(key, window);
    return window;
  }

  /** Looks at a few alone: whoever has many windows begun must not make every request slow. */
  #forget(nowMs: number): void {
    let looked = 0;
    for (const [key, { endsAtMs }] of this.#windows) {
      if (endsAtMs <= nowMs) this.#windows.delete(key);
      looked += 1;
      if (looked >= lookedAtOnce) break;
    }
    const oldest = this.#windows.keys().next().value;
    if (this.#windows.size >= this.#most && oldest !== undefined) this.#windows.delete(oldest);
  }
}
