import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { readConfig } from './config.ts';

const complete = {
  KEYSTEAD_SERVICE_DATABASE_URL: 'x',
  KEYSTEAD_ACROSS_DATABASE_URL: 'x',
  KEYSTEAD_REDIS_URL: 'x',
  KEYSTEAD_NATS_URL: 'x',
  KEYSTEAD_SIGNING_KEY_FILE: 'x',
  KEYSTEAD_PUBLIC_KEYS_DIR: 'x',
  KEYSTEAD_INSTALLATION_KEY_FILE: 'x',
  KEYSTEAD_CA_KEY: randomBytes(32).toString('base64'),
  KEYSTEAD_AGENT_ENDPOINT: 'agents.example:8443',
};
const read = (some: Record<string, string>) => readConfig({ ...complete, ...some });

describe('the key that seals the authority', () => {
  it('is taken when it is 32 random bytes', () => {
    for (let round = 0; round < 1_000; round += 1) {
      const key = randomBytes(32);
      expect(read({ KEYSTEAD_CA_KEY: key.toString('base64') }).KEYSTEAD_CA_KEY).toEqual(key);
    }
  });

  it.each([
    ['nothing but zeros', Buffer.alloc(32)],
    ['counting up', Buffer.from(Array.from({ length: 32 }, (_, index) => index))],
    ['counting down in steps', Buffer.from(Array.from({ length: 32 }, (_, i) => 255 - 3 * i))],
    ['a repeated word', Buffer.from('deadbeef'.repeat(8), 'hex')],
    ['a sentence', Buffer.from('change-me-change-me-change-me-32')],
    ['hexadecimal digits', Buffer.from('0123456789abcdef0123456789abcdef')],
    ['too short', randomBytes(31)],
    ['too long', randomBytes(33)],
  ])('is refused when it is %s', (_, key) => {
    expect(() => read({ KEYSTEAD_CA_KEY: key.toString('base64') })).toThrow(/KEYSTEAD_CA_KEY/);
  });

  it('is never in the message that refuses it', () => {
    const key = Buffer.from('change-me-change-me-change-me-32').toString('base64');
    expect(() => read({ KEYSTEAD_CA_KEY: key })).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining(key) }),
    );
  });
});

describe('the endpoint that agents dial', () => {
  it.each(['agents.example:8443', '192.0.2.1:1', '[2001:db8::1]:65535', 'localhost:8443'])(
    'may be %s',
    (endpoint) => {
      expect(read({ KEYSTEAD_AGENT_ENDPOINT: endpoint }).KEYSTEAD_AGENT_ENDPOINT).toBe(endpoint);
    },
  );

  it.each(['agents.example', 'https://agents.example:8443', 'a:0', 'a:8443;reboot', 'a b:1', ':1'])(
    'may not be %s',
    (endpoint) => {
      expect(() => read({ KEYSTEAD_AGENT_ENDPOINT: endpoint })).toThrow(/KEYSTEAD_AGENT_ENDPOINT/);
    },
  );
});
