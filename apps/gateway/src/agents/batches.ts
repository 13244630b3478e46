/**
 * Gathers what many sessions bring and hands it on in batches: a batch leaves when it is full or a
 * moment after its first entry, and several may be on their way at once. One timer per batch, none
 * per entry.
 */
export interface BatchOptions {
  waitMs: number;
  maxEntries: number;
  /** Batches on their way at once; while that many are, entries wait and the next batch grows. */
  inFlightMax: number;
  /** A batch without an answer by then counts as failed. */
  timeoutMs: number;
}

export class Batches<Entry> {
  readonly #options: BatchOptions;
  readonly #send: (entries: Entry[]) => Promise<void>;
  readonly #failed: (entries: Entry[], error: unknown) => void;
  readonly #inFlight = new Set<Promise<void>>();
  #waiting: Entry[] = [];
  #timer: NodeJS.Timeout | undefined;
  #due = false;

  /** @param send resolves when the batch was dealt with, rejects when it counts as failed */
  constructor(
    options: BatchOptions,
    send: (entries: Entry[]) => Promise<void>,
    failed: (entries: Entry[], error: unknown) => void,
  ) {
    this.#options = options;
    this.#send = send;
    this.#failed = failed;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  add(entry: Entry): void {
    this.#waiting.push(entry);
    if (this.#waiting.length >= this.#options.maxEntries) this.#flush();
    else if (this.#timer === undefined && !this.#due) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        this.#due = true;
        this.#flush();
      }, this.#options.waitMs);
    }
  }

  /** Sends an empty batch, unless as many as may be are on their way. */
  tick(): void {
    if (this.#inFlight.size < this.#options.inFlightMax && this.#waiting.length === 0) {
      this.#dispatch([]);
    }
  }

  /** Resolves when everything that is on its way now was dealt with. */
  async settled(): Promise<void> {
    await Promise.all(this.#inFlight);
  }

  /** Sends what waits and resolves when nothing is left, or after `withinMs`. */
  async finish(withinMs: number): Promise<void> {
    const endMs = performance.now() + withinMs;
    while ((this.#waiting.length > 0 || this.#inFlight.size > 0) && performance.now() < endMs) {
      this.#due = true;
      this.#flush();
      await Promise.race([
        this.settled(),
        new Promise((resolve) => setTimeout(resolve, Math.min(50, withinMs))),
      ]);
    }
    clearTimeout(this.#timer);
  }

  #flush(): void {
    const { maxEntries, inFlightMax } = this.#options;
    while (
      this.#inFlight.size < inFlightMax &&
      (this.#waiting.length >= maxEntries || (this.#due && this.#waiting.length > 0))
    ) {
      const entries =
        this.#waiting.length <= maxEntries ? this.#waiting : this.#waiting.splice(0, maxEntries);
      if (entries === this.#waiting) {
        this.#waiting = [];
        this.#due = false;
        clearTimeout(this.#timer);
        this.#timer = undefined;
      }
      this.#dispatch(entries);
    }
    if (this.#waiting.length === 0) this.#due = false;
  }

  #dispatch(entries: Entry[]): void {
    const work = withTimeout(this.#send(entries), this.#options.timeoutMs)
      .catch((error: unknown) => this.#failed(entries, error))
      .finally(() => {
        this.#inFlight.delete(work);
        this.#flush();
      });
    this.#inFlight.add(work);
  }
}

function withTimeout<T>(work: Promise<T>, timeoutMs: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`no answer within ${timeoutMs} ms`)),
      timeoutMs,
    );
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
