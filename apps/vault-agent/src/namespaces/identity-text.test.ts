import { expect, test } from 'vitest';
import { identityLength } from '../store/agent-tables.ts';
import { identityText } from './namespace-change.ts';

const textOf = (id: string) => identityText({ kind: 'jwt', id, name: '', roles: [] });

test('identities that ASCII or the length would make alike stay apart', () => {
  expect(textOf('https://issuer.test|ann')).toBe('jwt:https://issuer.test|ann');
  const alike = ['jürgen', 'järgen', 'j?rgen', `${'a'.repeat(400)}b`, `${'a'.repeat(400)}c`];
  const texts = alike.map(textOf);
  expect(new Set(texts).size).toBe(alike.length);
  for (const text of texts) expect(text).toMatch(/^[\x20-\x7e]+$/);
  expect(Math.max(...texts.map(({ length }) => length))).toBe(identityLength);
  expect(textOf(textOf('jürgen').slice('jwt:'.length))).not.toBe(textOf('jürgen'));
  expect(textOf('jürgen')).toBe(textOf('jürgen'));
});
