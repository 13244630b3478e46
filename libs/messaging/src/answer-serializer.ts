/**
 * Writes answers onto the bus. The bus drops what is larger than it carries without a word, and whoever asked would
 * hear of no service; so an answer that is too large becomes an error that says so.
 */
import type { WireError } from '@keystead/contracts/errors';
import { limits } from '@keystead/contracts/limits';
import type { OutgoingResponse } from '@nestjs/microservices';

const tooLarge: WireError = {
  code: 'unprocessable',
  detail: 'the answer is larger than one answer may be: ask for less at once, by a smaller `limit`',
};

export class AnswerSerializer {
  readonly #noticed: (bytes: number) => void;

  /** @param noticed takes how many bytes an answer has that is not sent */
  constructor(noticed: (bytes: number) => void) {
    this.#noticed = noticed;
  }

  serialize(packet: OutgoingResponse): { data: string } {
    const data = JSON.stringify(packet);
    const bytes = Buffer.byteLength(data);
    if (bytes <= limits.busPayloadMaxBytes) return { data };
    this.#noticed(bytes);
    return { data: JSON.stringify({ ...packet, response: { error: tooLarge } }) };
  }
}
