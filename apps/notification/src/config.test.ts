import { describe, expect, it } from 'vitest';
import { readConfig } from './config.ts';

const base = {
  KEYSTEAD_SERVICE_DATABASE_URL: 'postgresql://x',
  KEYSTEAD_ACROSS_DATABASE_URL: 'postgresql://x',
  KEYSTEAD_REDIS_URL: 'redis://x',
  KEYSTEAD_NATS_URL: 'nats://x',
  KEYSTEAD_SIGNING_KEY_FILE: '/x',
  KEYSTEAD_PUBLIC_KEYS_DIR: '/x',
  KEYSTEAD_INSTALLATION_KEY_FILE: '/x',
  KEYSTEAD_SMTP_URL: 'smtp://127.0.0.1:1025',
  KEYSTEAD_MAIL_FROM: 'Keystead <alerts@example.com>',
  KEYSTEAD_PUBLIC_URL: 'https://keystead.example',
};

describe('the environment', () => {
  it('is read into what the service uses', () => {
    const config = readConfig({
      ...base,
      KEYSTEAD_WEBHOOK_ALLOW: '10.0.0.0/8,::1',
      KEYSTEAD_OPERATOR_EMAILS: 'One@example.com, two@example.com',
    });
    expect(config.KEYSTEAD_MAIL_FROM).toEqual({ name: 'Keystead', address: 'alerts@example.com' });
    expect(config.KEYSTEAD_SMTP_URL).toMatchObject({ host: '127.0.0.1', port: 1_025 });
    expect(config.KEYSTEAD_WEBHOOK_ALLOW).toHaveLength(2);
    expect(config.KEYSTEAD_OPERATOR_EMAILS).toEqual(['one@example.com', 'two@example.com']);
  });

  it('needs neither an allow list nor operators', () => {
    const config = readConfig({ ...base, KEYSTEAD_MAIL_FROM: 'alerts@example.com' });
    expect(config.KEYSTEAD_WEBHOOK_ALLOW).toEqual([]);
    expect(config.KEYSTEAD_OPERATOR_EMAILS).toEqual([]);
    expect(config.KEYSTEAD_MAIL_FROM).toEqual({ name: 'Keystead', address: 'alerts@example.com' });
  });

  it.each([
    ['KEYSTEAD_SMTP_URL', 'http://mail'],
    ['KEYSTEAD_MAIL_FROM', 'nobody'],
    ['KEYSTEAD_MAIL_FROM', 'a@b, c@d'],
    ['KEYSTEAD_WEBHOOK_ALLOW', 'everything'],
    ['KEYSTEAD_PUBLIC_URL', 'javascript:alert(1)'],
    ['KEYSTEAD_OPERATOR_EMAILS', 'one@example.com,two'],
  ])('that is wrong in %s (%s) is named before anything starts', (name, value) => {
    expect(() => readConfig({ ...base, [name]: value })).toThrow(name);
  });
});
