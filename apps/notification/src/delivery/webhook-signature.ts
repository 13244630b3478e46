/**
 * Signatures of webhooks as in Standard Webhooks 1.0 (https://www.standardwebhooks.com): HMAC
 * SHA-256 over `id.timestamp.body`, the body being the exact bytes sent. While a secret is
 * rotated both secrets sign, so that a receiver verifies with either.
 */
import { createHmac } from 'node:crypto';

const secretPrefix = 'whsec_';
const secretBytes = 32;
const secretMinBytes = 24;
const secretMaxBytes = 64;

export interface WebhookHeaders {
  'webhook-id': string;
  'webhook-timestamp': string;
  'webhook-signature': string;
}

/** A new secret, `whsec_` and 256 random bits in base64. */
export function generateWebhookSecret(random: (bytes: Uint8Array) => Uint8Array): string {
  return secretPrefix + Buffer.from(random(new Uint8Array(secretBytes))).toString('base64');
}

/**
 * The headers that sign `body`. The id stays the same over all attempts of one delivery: it is
 * what receivers deduplicate by. The newest secret comes first.
 * @throws TypeError where an id or a secret could not be signed unambiguously
 */
export function signWebhook(
  id: string,
  timestampSeconds: number,
  body: Uint8Array,
  secrets: readonly string[],
): WebhookHeaders {
  // A full stop in the id would let two different messages have the same signed text.
  if (!/^[A-Za-z0-9_-]{1,128}$/.test(id)) throw new TypeError('not an id that can be signed');
  if (!Number.isSafeInteger(timestampSeconds) || timestampSeconds < 0) {
    throw new TypeError('the timestamp must be whole seconds since 1970');
  }
  if (secrets.length === 0) throw new TypeError('there must be at least one secret');
  const signatures = secrets.map((secret) => {
    const mac = createHmac('sha256', secretKey(secret));
    mac.update(`${id}.${timestampSeconds}.`, 'utf8').update(body);
    return `v1,${mac.digest('base64')}`;
  });
  return {
    'webhook-id': id,
    'webhook-timestamp': String(timestampSeconds),
    'webhook-signature': signatures.join(' '),
  };
}

function secretKey(secret: string): Buffer {
  const text = secret.startsWith(secretPrefix) ? secret.slice(secretPrefix.length) : '';
  const key = Buffer.from(text, 'base64');
  if (
    key.length < secretMinBytes ||
    key.length > secretMaxBytes ||
    key.toString('base64') !== text
  ) {
    throw new TypeError('not a webhook secret');
  }
  return key;
}
