/**
 * A bounded memory that forgets what was not asked for lately: entries are in a young half, and in an
 * old half that is dropped when the young one is full. A hit in the old half makes young again.
 */
export class Memory<T> {
  #young = new Map<string, T>();
  #old = new Map<string, T>();
  readonly #half: number;
  readonly #forget: ((value: T) => void) | undefined;

  constructor(most: number, forget?: (value: T) => void) {
    this.#half = Math.max(1, Math.floor(most / 2));
    this.#forget = forget;
  }

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  get(key: string): T | undefined {
    const young = this.#young.get(key);
    if (young !== undefined) return young;
    const old = this.#old.get(key);
    if (old === undefined) return undefined;
    this.#old.delete(key);
    this.set(key, old);
    return old;
  }

  set(key: string, value: T): void {
    if (this.#young.size >= this.#half) {
      const dropped = this.#old;
      this.#old = this.#young;
      this.#young = new Map();
      if (this.#forget) for (const gone of dropped.values()) this.#forget(gone);
    }
    this.#young.set(key, value);
  }

  clear(): void {
    if (this.#forget) {
      for (const gone of this.#young.values()) this.#forget(gone);
      for (const gone of this.#old.values()) this.#forget(gone);
    }
    this.#young.clear();
    this.#old.clear();
  }
}
