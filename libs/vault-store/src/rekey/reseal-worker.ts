/** What a worker thread of a rekey runs. */
import { move, transferableSymbol, valueSymbol } from 'piscina';
import type { ResealTask } from './packed-page.ts';
import { resealPage } from './reseal-page.ts';

export default function work(task: ResealTask): unknown {
  const resealed = resealPage(task);
  return move({
    get [transferableSymbol]() {
      const { rows, states, lengths, values } = resealed;
      return [rows.buffer, states.buffer, lengths.buffer, values.buffer];
    },
    get [valueSymbol]() {
      return resealed;
    },
  });
}
