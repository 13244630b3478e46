/** How much of a list fits into one answer: the bus carries no more. */
import { limits } from '@keystead/contracts/limits';

// Whatever stands around the list, and the quotes that a text in a text needs.
const answerMaxLength = limits.busPayloadMaxBytes * 0.7;

/** The first of the items, as many as fit, and one at least. */
export function thoseThatFit<T>(items: readonly T[]): T[] {
  const room = new AnswerRoom();
  const fitting: T[] = [];
  for (const item of items) {
    const fits = room.takes(item);
    if (fits || fitting.length === 0) fitting.push(item);
    if (!fits) break;
  }
  return fitting;
}

/** What is left of an answer that is put together out of parts. */
export class AnswerRoom {
  #left: number;

  constructor(bytes: number = answerMaxLength) {
    this.#left = bytes;
  }

  /** Whether the part still fits; one that does takes its room. */
  takes(part: unknown): boolean {
    const length = Buffer.byteLength(JSON.stringify(part, plainNumber));
    if (length > this.#left) return false;
    this.#left -= length;
    return true;
  }
}

const plainNumber = (_: string, value: unknown) =>
  typeof value === 'bigint' ? String(value) : value;
