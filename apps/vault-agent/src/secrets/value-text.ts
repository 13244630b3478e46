/** Values as JSON carries them, and their bytes. */
import { isUtf8 } from 'node:buffer';
import type { ValueEncoding } from '@keystead/contracts/agent-api/secrets';
import { ServiceError } from '@keystead/contracts/errors';

/**
 * @throws ServiceError `invalid_request` for text that UTF-8 cannot write and for what is no base64,
 * `payload_too_large` beyond `maxBytes`
 */
export function valueBytes(value: string, encoding: ValueEncoding, maxBytes: number): Buffer {
  let bytes: Buffer;
  if (encoding === 'text') {
    if (!value.isWellFormed()) throw invalid('must be well-formed Unicode; send bytes as base64');
    bytes = Buffer.from(value, 'utf8');
  } else {
    bytes = Buffer.from(value, 'base64');
    // Node takes anything for base64; what does not come back as it was is a mistake.
    if (bytes.toString('base64') !== value) throw invalid('must be base64 (RFC 4648, padded)');
  }
  if (bytes.length > maxBytes) {
    const { length } = bytes;
    bytes.fill(0);
    throw new ServiceError('payload_too_large', {
      detail: `The value has ${length} bytes; at most ${maxBytes} are kept here`,
    });
  }
  return bytes;
}

export function valueText(bytes: Buffer, encoding: ValueEncoding): string {
  if (encoding === 'base64') return bytes.toString('base64');
  return bytes.toString('utf8');
}

/**
 * Text where it was asked for and the bytes are not: what was written as base64 may be anything.
 * @throws ServiceError `unprocessable`
 */
export function requireText(bytes: Buffer): void {
  if (bytes.length > 0 && !isUtf8(bytes)) {
    throw new ServiceError('unprocessable', {
      detail: 'The value is not text; ask for it with encoding=base64',
    });
  }
}

function invalid(message: string): ServiceError {
  return new ServiceError('invalid_request', {
    detail: `body /value: ${message}`,
    errors: [{ in: 'body', path: '/value', message }],
  });
}
