/** What a worker thread of a rekey runs. */
import { move, transferableSymbol, valueSymbol } from 'piscina';
import type { PackedPage } from './packed-page.ts';
import { resealPage } from './reseal-page.ts';

export default function work(page: PackedPage): unknown {
  const resealed = resealPage(page);
  return move({
    get [transferableSymbol]() {
      return [resealed.states.buffer, resealed.lengths.buffer, resealed.values.buffer];
    },
    get [valueSymbol]() {
      return resealed;
    },
  });
}
