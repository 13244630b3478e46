/**
 * Cursors that hold for one caller and one query, and tell nothing: the position in the list, sealed, and
 * bound to who asks, what is asked for and how it is filtered. A position may be the name of something that
 * the caller does not see, so neither it nor its length can be read. A domain's list knows positions alone.
 */
import { createCipheriv, createDecipheriv, type KeyObject, randomFillSync } from 'node:crypto';
import { ServiceError } from '@keystead/contracts/errors';
import type { CallerIdentity } from '../access/caller.ts';

const algorithm = 'aes-256-gcm';
const nonceBytes = 12;
const tagBytes = 16;
/** Positions are filled up to a multiple of it. */
const blockBytes = 64;

export class CursorSeal {
  readonly #key: KeyObject;

  constructor(key: KeyObject) {
    this.#key = key;
  }

  seal(position: string, identity: CallerIdentity, asked: string): string {
    const text = Buffer.from(position);
    const filled = Buffer.alloc(Math.ceil((2 + text.length) / blockBytes) * blockBytes);
    filled.writeUInt16BE(text.length);
    text.copy(filled, 2);
    const nonce = randomFillSync(Buffer.alloc(nonceBytes));
    const cipher = createCipheriv(algorithm, this.#key, nonce, { authTagLength: tagBytes });
    cipher.setAAD(boundTo(identity, asked));
    const sealed = [nonce, cipher.update(filled), cipher.final(), cipher.getAuthTag()];
    return Buffer.concat(sealed).toString('base64url');
  }

  /** The position. @throws ServiceError `invalid_cursor` */
  open(cursor: string, identity: CallerIdentity, asked: string): string {
    const bytes = Buffer.from(cursor, 'base64url');
    const end = bytes.length - tagBytes;
    if (end > nonceBytes && bytes.toString('base64url') === cursor) {
      const nonce = bytes.subarray(0, nonceBytes);
      const decipher = createDecipheriv(algorithm, this.#key, nonce, { authTagLength: tagBytes });
      decipher.setAAD(boundTo(identity, asked)).setAuthTag(bytes.subarray(end));
      try {
        const filled = Buffer.concat([
          decipher.update(bytes.subarray(nonceBytes, end)),
          decipher.final(),
        ]);
        return filled.toString('utf8', 2, 2 + filled.readUInt16BE());
      } catch {
        // Another's, or made up: said below.
      }
    }
    throw new ServiceError('invalid_cursor', {
      detail: 'The cursor is of another list, another query or another caller',
    });
  }
}

const boundTo = ({ kind, id }: CallerIdentity, asked: string): Buffer =>
  Buffer.from(JSON.stringify([kind, id, asked]));

/** What a list was asked for, without where in it: the same for every page. */
export function askedFor(operationId: string, input: { params: unknown; query: unknown }): string {
  const { cursor: _cursor, limit: _limit, ...filters } = input.query as Record<string, unknown>;
  return JSON.stringify([operationId, input.params, Object.entries(filters).sort()]);
}
