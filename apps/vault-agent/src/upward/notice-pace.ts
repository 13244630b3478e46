/** How often people are told the same: at once the first time, then with a count. */
import { upwardLimits } from './upward-limits.ts';

interface Told {
  atMs: number;
  /** Times since it was told. */
  since: number;
}

export class NoticePace<Key extends string> {
  readonly #told = new Map<Key, Told>();

  /** How often to say that it happened: 0 for not now. */
  count(key: Key, nowMs: number): number {
    const told = this.#told.get(key);
    if (told === undefined) {
      this.#forget(nowMs);
      this.#told.set(key, { atMs: nowMs, since: 0 });
      return 1;
    }
    told.since += 1;
    return 0;
  }

  /** What came again since it was told, and is due to be told with its count. */
  due(nowMs: number): { key: Key; count: number }[] {
    const due: { key: Key; count: number }[] = [];
    for (const [key, told] of this.#told) {
      if (nowMs - told.atMs < upwardLimits.noticesApartMs) continue;
      if (told.since === 0) {
        this.#told.delete(key);
        continue;
      }
      due.push({ key, count: told.since });
      told.atMs = nowMs;
      told.since = 0;
    }
    return due;
  }

  /** Keeps the number of keys bounded: those that are quiet the longest go. */
  #forget(nowMs: number): void {
    if (this.#told.size < upwardLimits.noticesCounted) return;
    for (const [key, { atMs, since }] of this.#told) {
      if (since === 0 && nowMs - atMs >= upwardLimits.noticesApartMs) this.#told.delete(key);
    }
    const [oldest] = this.#told.keys();
    if (this.#told.size >= upwardLimits.noticesCounted && oldest !== undefined) {
      this.#told.delete(oldest);
    }
  }
}
