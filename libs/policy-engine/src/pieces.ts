/** Long work in pieces, between which the event loop is given back. */
import { setImmediate } from 'node:timers/promises';
import { limits } from './limits.ts';

export class Pieces {
  #since = performance.now();

  /** Gives the loop back when enough time has passed since it was last given back. */
  async rest(): Promise<void> {
    if (performance.now() - this.#since < limits.pieceMs) return;
    await setImmediate();
    this.#since = performance.now();
  }
}
