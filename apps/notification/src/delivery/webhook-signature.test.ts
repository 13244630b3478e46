import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { Webhook } from 'standardwebhooks';
import { describe, expect, it } from 'vitest';
import { generateWebhookSecret, signWebhook } from './webhook-signature.ts';

const nowSeconds = () => Math.floor(Date.now() / 1_000);
const newSecret = () => generateWebhookSecret((bytes) => randomBytes(bytes.length));
const id = 'dlv_01h455vb4pex5vsknk084sn02q';

describe('webhook signatures', () => {
  it('are accepted by the standardwebhooks library for any body', () => {
    fc.assert(
      fc.property(fc.json(), (body) => {
        const secret = newSecret();
        const headers = signWebhook(id, nowSeconds(), Buffer.from(body), [secret]);
        expect(new Webhook(secret).verify(body, { ...headers })).toEqual(JSON.parse(body));
      }),
    );
  });

  it('cover the exact bytes: a re-encoded body is refused', () => {
    const secret = newSecret();
    const headers = signWebhook(id, nowSeconds(), Buffer.from('{"a": 1}'), [secret]);
    expect(() => new Webhook(secret).verify('{"a":1}', { ...headers })).toThrow();
  });

  it('equal those of the standardwebhooks library byte by byte', () => {
    const secret = newSecret();
    const at = new Date(1_790_000_000_000);
    const headers = signWebhook(id, 1_790_000_000, Buffer.from('héllo 🗝'), [secret]);
    expect(headers['webhook-signature']).toBe(new Webhook(secret).sign(id, at, 'héllo 🗝'));
  });

  it('are accepted with either secret during a rotation, and with no other', () => {
    const [fresh, old, foreign] = [newSecret(), newSecret(), newSecret()];
    const body = '{"type":"vault.offline"}';
    const headers = signWebhook(id, nowSeconds(), Buffer.from(body), [fresh, old]);
    expect(headers['webhook-signature'].split(' ')).toHaveLength(2);
    expect(headers['webhook-signature'].split(' ')[0]).toBe(
      signWebhook(id, Number(headers['webhook-timestamp']), Buffer.from(body), [fresh])[
        'webhook-signature'
      ],
    );
    expect(new Webhook(fresh).verify(body, { ...headers })).toBeDefined();
    expect(new Webhook(old).verify(body, { ...headers })).toBeDefined();
    expect(() => new Webhook(foreign).verify(body, { ...headers })).toThrow();
  });

  it('bind the id and the time', () => {
    const secret = newSecret();
    const headers = signWebhook(id, nowSeconds(), Buffer.from('{}'), [secret]);
    const verify = (changed: object) => () =>
      new Webhook(secret).verify('{}', { ...headers, ...changed });
    expect(verify({})).not.toThrow();
    expect(verify({ 'webhook-id': `${id}x` })).toThrow();
    expect(verify({ 'webhook-timestamp': String(nowSeconds() + 1) })).toThrow();
  });

  it('refuse ids, times and secrets that could not be signed unambiguously', () => {
    const secret = newSecret();
    for (const bad of ['', 'a.b', 'a b', 'a\nb', 'x'.repeat(129)]) {
      expect(() => signWebhook(bad, 1, Buffer.of(), [secret])).toThrow(TypeError);
    }
    for (const bad of [1.5, -1, Number.NaN]) {
      expect(() => signWebhook(id, bad, Buffer.of(), [secret])).toThrow(TypeError);
    }
    for (const bad of [[], [''], ['whsec_'], ['whsec_c2hvcnQ='], [secret.slice(6)], ['whsec_§']]) {
      expect(() => signWebhook(id, 1, Buffer.of(), bad)).toThrow(TypeError);
    }
  });
});

describe('webhook secrets', () => {
  it('are whsec_ and 256 bits of the given randomness', () => {
    const secret = generateWebhookSecret((bytes) => bytes.fill(7));
    expect(secret).toBe(`whsec_${Buffer.alloc(32, 7).toString('base64')}`);
    expect(newSecret()).not.toBe(newSecret());
  });
});
