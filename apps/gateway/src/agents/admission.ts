/**
 * How fast agents are let in: a token bucket, with a waiting line of a few seconds behind it. Who
 * finds the line full is told when there will be room, so that a storm of returning agents becomes
 * a steady stream instead of a race.
 */
export class Admission {
  readonly #perMs: number;
  readonly #burst: number;
  readonly #lineMs: number;
  #tokens: number;
  #atMs: number;
  /** The end of the times handed out to those who were sent away. */
  #promisedUntilMs = 0;

  constructor(perSecond: number, nowMs: number, burst = perSecond, lineMs = 3_000) {
    this.#perMs = perSecond / 1_000;
    this.#burst = burst;
    this.#lineMs = lineMs;
    this.#tokens = burst;
    this.#atMs = nowMs;
  }

  /** How many may pass now; that many are taken. */
  take(wanted: number, nowMs: number): number {
    this.#refill(nowMs);
    const taken = Math.min(wanted, Math.floor(this.#tokens));
    this.#tokens -= taken;
    return taken;
  }

  /**
   * Whether one more may wait behind `waiting` others: 0, or the delay in ms after which it should
   * come back. Delays follow one another at the pace of admission.
   */
  delayFor(waiting: number, nowMs: number): number {
    if (waiting < this.#lineMs * this.#perMs + this.#burst) return 0;
    const from = Math.max(this.#promisedUntilMs, nowMs + this.#lineMs);
    this.#promisedUntilMs = from + 1 / this.#perMs;
    return Math.ceil(from - nowMs);
  }

  #refill(nowMs: number): void {
    this.#tokens = Math.min(this.#burst, this.#tokens + (nowMs - this.#atMs) * this.#perMs);
    this.#atMs = nowMs;
  }
}
