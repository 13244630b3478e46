/** What opens an archive, as a request carries it. */
import { ServiceError } from '@keystead/contracts/errors';
import {
  parseIdentity,
  parseRecipient,
  type StreamIdentity,
  type StreamRecipient,
} from '@keystead/envelope/sealed-stream';

const header = 'keystead-archive-key';

/** @throws ServiceError `invalid_request` */
export function recipientOf(body: { passphrase: string } | { recipient: string }): StreamRecipient {
  if ('passphrase' in body) return { kind: 'passphrase', passphrase: body.passphrase };
  try {
    return { kind: 'x25519', publicKey: parseRecipient(body.recipient) };
  } catch (error) {
    throw new ServiceError('invalid_request', {
      detail: `body /recipient: ${(error as Error).message}`,
      errors: [{ in: 'body', path: '/recipient', message: (error as Error).message }],
    });
  }
}

/**
 * An identity as it is, or a passphrase in base64, because headers carry no other alphabets.
 * @throws ServiceError `invalid_request`
 */
export function identityOf(headers: Readonly<Record<string, string>>): StreamIdentity {
  const text = headers[header]?.trim() ?? '';
  if (text.startsWith('keystead-identity-')) {
    try {
      return { kind: 'x25519', privateKey: parseIdentity(text) };
    } catch {
      throw invalidHeader('is no identity: a character is wrong or missing');
    }
  }
  const passphrase = Buffer.from(text, 'base64').toString('utf8');
  if (text === '' || Buffer.from(passphrase, 'utf8').toString('base64') !== text) {
    throw invalidHeader('must be keystead-identity-… or a passphrase in base64');
  }
  return { kind: 'passphrase', passphrase };
}

function invalidHeader(message: string): ServiceError {
  return new ServiceError('invalid_request', {
    detail: `header ${header}: ${message}`,
    errors: [{ in: 'header', path: `/${header}`, message }],
  });
}
