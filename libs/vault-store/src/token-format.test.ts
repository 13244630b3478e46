import { systemRandom } from '@keystead/envelope/keys';
import { expect, test } from 'vitest';
import { vaultLimits } from './limits.ts';
import {
  defaultTokenShape,
  generateToken,
  isGeneratedToken,
  type TokenShape,
} from './token-format.ts';
import { cheapCost, passwords } from './vault.fixture.ts';
import { openVault, type Vault } from './vault.ts';

const many = 50_000;

const ways: [name: string, shape: TokenShape][] = [
  ['as they come', { prefix: 'tok', bits: 160 }],
  ['with another prefix', { prefix: 'billing', bits: 160 }],
  ['as short as allowed', { prefix: 'tok', bits: vaultLimits.minTokenBits }],
  ['with 256 bits', { prefix: 'tok', bits: 256 }],
];

test.each(ways)('fifty thousand tokens %s pass their check and differ', (_name, shape) => {
  const tokens = new Set<string>();
  for (let index = 0; index < many; index += 1) {
    const token = generateToken(shape);
    if (!isGeneratedToken(token, shape.prefix)) throw new Error(`${token} fails its check`);
    tokens.add(token);
  }
  expect(tokens.size).toBe(many);
});

const secret = { value: 'a value', password: passwords.one };
const doors: [name: string, shape: TokenShape, create: (vault: Vault) => Promise<string>][] = [
  [
    'tokens.create',
    defaultTokenShape,
    ({ tokens }) => tokens.create(secret.value, { password: secret.password }),
  ],
  [
    'records.create',
    { prefix: 'billing', bits: vaultLimits.minTokenBits },
    async ({ records }) => (await records.create(secret)).token,
  ],
];
const isFull = process.env.KEYSTEAD_PROVE === 'full';

test.each(doors)(
  'tokens that %s generates pass their check and differ',
  async (_, shape, create) => {
    // In full as many as above: each is sealed and inserted.
    const count = isFull ? many : 500;
    await using vault = await openVault({
      sql: { kind: 'sqlite', file: ':memory:' },
      passwordCost: cheapCost,
      tokenShape: shape,
    });
    const tokens = new Set<string>();
    for (let at = 0; at < count; at += 50) {
      for (const token of await Promise.all(Array.from({ length: 50 }, () => create(vault)))) {
        if (!isGeneratedToken(token, shape.prefix)) throw new Error(`${token} fails its check`);
        tokens.add(token);
      }
    }
    expect(tokens.size).toBe(count);
    expect(await vault.records.count()).toBe(count);
    const [token = ''] = tokens;
    expect(await vault.tokens.read(token, secret.password)).toBe(secret.value);
  },
);

test('a generated token carries at least 128 random bits', () => {
  let drawn = 0;
  const token = generateToken({ prefix: 'tok', bits: 128 }, (bytes) => {
    drawn += bytes.length;
    systemRandom(bytes);
  });
  // Five bits of each byte drawn reach the token, each as a character.
  expect(drawn * 5).toBeGreaterThanOrEqual(128);
  expect(token).toHaveLength('tok_'.length + drawn + 7);
  expect(() => generateToken({ prefix: 'tok', bits: 120 })).toThrow(RangeError);
  // Each bit is both, over many tokens.
  const counts = new Map<string, number>();
  for (let index = 0; index < 4_000; index += 1) {
    for (const [place, character] of [...generateToken().slice(4, 36)].entries()) {
      const seen = `${place} ${character}`;
      counts.set(seen, (counts.get(seen) ?? 0) + 1);
    }
  }
  expect(counts.size).toBe(32 * 32);
  for (const count of counts.values()) expect(count).toBeGreaterThan(50);
});

test('a wrong character and two neighbours in the wrong order are found', () => {
  const token = generateToken();
  for (let place = 0; place < token.length; place += 1) {
    for (const character of '0123456789abcdefghjkmnpqrstvwxyz_') {
      const changed = token.slice(0, place) + character + token.slice(place + 1);
      expect(isGeneratedToken(changed)).toBe(changed === token);
    }
    const swapped =
      token.slice(0, place) +
      (token[place + 1] ?? '') +
      (token[place] ?? '') +
      token.slice(place + 2);
    expect(isGeneratedToken(swapped)).toBe(swapped === token);
  }
  for (const text of ['', 'tok_', token.slice(0, -1), `${token}0`, token.toUpperCase()]) {
    expect(isGeneratedToken(text)).toBe(false);
  }
});

test.each(['', 'Tok', '1tok', 'to_k', 'x'.repeat(17)])('the prefix "%s" is refused', (prefix) => {
  expect(() => generateToken({ prefix, bits: 160 })).toThrow(RangeError);
});
