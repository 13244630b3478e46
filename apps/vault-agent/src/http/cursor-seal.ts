/**
 * Cursors that hold for one caller and one query: the position in the list, and a MAC over it, who asks,
 * what is asked for and how it is filtered. A domain's list knows positions alone.
 */
import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto';
import { ServiceError } from '@keystead/contracts/errors';
import type { CallerIdentity } from '../access/caller.ts';

const macBytes = 16;

export class CursorSeal {
  readonly #key: KeyObject;

  constructor(key: KeyObject) {
    this.#key = key;
  }

  seal(position: string, identity: CallerIdentity, asked: string): string {
    const mac = this.#mac(position, identity, asked);
    return Buffer.concat([mac, Buffer.from(position)]).toString('base64url');
  }

  /** The position. @throws ServiceError `invalid_cursor` */
  open(cursor: string, identity: CallerIdentity, asked: string): string {
    const bytes = Buffer.from(cursor, 'base64url');
    if (bytes.length > macBytes && bytes.toString('base64url') === cursor) {
      const position = bytes.toString('utf8', macBytes);
      const mac = this.#mac(position, identity, asked);
      if (timingSafeEqual(mac, bytes.subarray(0, macBytes))) return position;
    }
    throw new ServiceError('invalid_cursor', {
      detail: 'The cursor is of another list, another query or another caller',
    });
  }

  #mac(position: string, { kind, id }: CallerIdentity, asked: string): Buffer {
    return createHmac('sha256', this.#key)
      .update(JSON.stringify([position, kind, id, asked]))
      .digest()
      .subarray(0, macBytes);
  }
}

/** What a list was asked for, without where in it: the same for every page. */
export function askedFor(operationId: string, input: { params: unknown; query: unknown }): string {
  const { cursor: _cursor, limit: _limit, ...filters } = input.query as Record<string, unknown>;
  return JSON.stringify([operationId, input.params, Object.entries(filters).sort()]);
}
