/**
 * A clock that knows when it was moved. The wall clock decides about office hours and ages, and whoever
 * can set it could open what is closed; the monotonic clock cannot be set. When the two disagree, the
 * time is not trusted, and what depends on it is denied:
 * - moved back: until it is again where it was, or somebody who knows the time confirms it;
 * - moved ahead: until it ran evenly for ten minutes (a machine that slept), or it is confirmed.
 */
import { limits } from './limits.ts';

export interface ClockReading {
  atMs: number;
  trusted: boolean;
}

export class TrustedClock {
  readonly #wall: () => number;
  readonly #monotonic: () => number;
  #lastWall: number;
  #lastMonotonic: number;
  /** The latest time that was trusted. */
  #latest: number;
  /** Since when it runs evenly after a jump; undefined while it is trusted. */
  #evenSince: number | undefined;
  #jumps = 0;

  /**
   * @param wall milliseconds since 1970
   * @param monotonic milliseconds that only grow
   * @param notBeforeMs a time that is surely past, e.g. when the policy set was signed
   */
  constructor(wall: () => number, monotonic: () => number, notBeforeMs = 0) {
    this.#wall = wall;
    this.#monotonic = monotonic;
    this.#lastWall = wall();
    this.#lastMonotonic = monotonic();
    this.#latest = Math.max(this.#lastWall, notBeforeMs);
    if (this.#lastWall < notBeforeMs - limits.clockToleranceMs) {
      this.#evenSince = this.#lastMonotonic;
      this.#jumps = 1;
    }
  }

  /** How often the clock was moved since the start. */
  get jumps(): number {
    return this.#jumps;
  }

  /** The time now. Each call compares the clocks, so call it at least every few seconds. */
  read(): ClockReading {
    const wall = this.#wall();
    const monotonic = this.#monotonic();
    const jumped = wall - this.#lastWall - (monotonic - this.#lastMonotonic);
    this.#lastWall = wall;
    this.#lastMonotonic = monotonic;
    if (Math.abs(jumped) > limits.clockToleranceMs) {
      this.#jumps += 1;
      this.#evenSince = monotonic;
    }
    if (this.#evenSince !== undefined) {
      const isBack = wall < this.#latest - limits.clockToleranceMs;
      const ranEvenly = monotonic - this.#evenSince >= limits.clockSettlesAfterMs;
      if (isBack || !ranEvenly) return { atMs: wall, trusted: false };
      this.#evenSince = undefined;
    }
    if (wall < this.#latest - limits.clockToleranceMs) {
      // It crept back by less than the tolerance at a time.
      this.#evenSince = monotonic;
      this.#jumps += 1;
      return { atMs: wall, trusted: false };
    }
    this.#latest = Math.max(this.#latest, wall);
    return { atMs: wall, trusted: true };
  }

  /** A time that is surely past: before it the clock is not trusted. */
  notBefore(atMs: number): void {
    this.#latest = Math.max(this.#latest, atMs);
  }

  /** As {@link confirm}, by somebody whose own clock may be wrong: who differs makes nothing worse. */
  agree(atMs: number): void {
    this.read();
    if (Math.abs(this.#lastWall - atMs) <= limits.clockToleranceMs) this.confirm(atMs);
  }

  /** Somebody who knows says what time it is; true when the clock agrees and is trusted from now on. */
  confirm(atMs: number): boolean {
    this.read();
    if (Math.abs(this.#lastWall - atMs) > limits.clockToleranceMs) {
      this.#evenSince = this.#lastMonotonic;
      return false;
    }
    this.#latest = this.#lastWall;
    this.#evenSince = undefined;
    return true;
  }
}
