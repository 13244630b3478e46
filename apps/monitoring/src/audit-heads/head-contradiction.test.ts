import { expect, test } from 'vitest';
import { contradictionOf, type Head } from './head-contradiction.ts';

const head = (changes: Partial<Head> = {}): Head => ({
  chainId: 'chain',
  sequence: 10n,
  hash: 'h10',
  atMs: 1_000,
  bootId: 'one',
  eventSequence: 5n,
  signature: 'certificate',
  ...changes,
});
const nothing = { same: [], furthest: [], replaces: false };

test('a head that goes on is no contradiction, nor is the same one again', () => {
  expect(contradictionOf(head(), nothing)).toBeUndefined();
  expect(contradictionOf(head(), { ...nothing, same: [head()] })).toBeUndefined();
});

test('another hash at the same place contradicts', () => {
  expect(contradictionOf(head(), { ...nothing, same: [head({ hash: 'other' })] })).toBe(
    'other_hash',
  );
});

test('a later head of a shorter chain contradicts; an overtaken one does not', () => {
  const longer = (changes: Partial<Head>) => ({
    ...nothing,
    furthest: [head({ sequence: 20n, ...changes })],
  });
  expect(contradictionOf(head(), longer({ eventSequence: 4n, atMs: 9_000 }))).toBe('went_back');
  expect(contradictionOf(head(), longer({ eventSequence: 6n, atMs: 1 }))).toBeUndefined();
  expect(contradictionOf(head(), longer({ bootId: 'other', atMs: 999 }))).toBe('went_back');
  expect(contradictionOf(head(), longer({ bootId: 'other', atMs: 1_001 }))).toBeUndefined();
});

test('a chain begun anew and a wrong signature are told', () => {
  expect(contradictionOf(head(), { ...nothing, replaces: true })).toBe('chain_replaced');
  expect(contradictionOf(head({ signature: 'invalid' }), nothing)).toBe('signature_invalid');
  expect(contradictionOf(head({ signature: 'other_key' }), nothing)).toBeUndefined();
});
