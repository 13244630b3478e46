/**
 * Whether this gateway can hear: a beat that is not committed was not heard, whatever came over the
 * wire. Time is monotonic, in ms.
 */
export class Hearing {
  readonly #goneAfterMs: number;
  #acknowledgedAtMs: number;

  constructor(goneAfterMs: number, nowMs: number) {
    this.#goneAfterMs = goneAfterMs;
    this.#acknowledgedAtMs = nowMs;
  }

  /** A batch or tick is committed. */
  acknowledged(nowMs: number): void {
    this.#acknowledgedAtMs = nowMs;
  }

  /** Nothing was acknowledged for so long that agents are better off elsewhere. */
  isDeaf(nowMs: number): boolean {
    return nowMs - this.#acknowledgedAtMs > this.#goneAfterMs;
  }

  silentForMs(nowMs: number): number {
    return nowMs - this.#acknowledgedAtMs;
  }
}
