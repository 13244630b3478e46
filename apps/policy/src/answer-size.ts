/** How much of a list fits into one answer: the bus carries no more. */
import { limits } from '@keystead/contracts/limits';

// Whatever stands around the list, and the quotes that a text in a text needs.
const answerMaxLength = limits.busPayloadMaxBytes * 0.7;

/** The first of the items, as many as fit, and one at least. */
export function thoseThatFit<T>(items: readonly T[]): T[] {
  let length = 0;
  const fitting: T[] = [];
  for (const item of items) {
    length += Buffer.byteLength(JSON.stringify(item));
    if (length > answerMaxLength && fitting.length > 0) break;
    fitting.push(item);
  }
  return fitting;
}
