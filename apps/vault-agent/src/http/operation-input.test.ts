import { namespaceName, secretName } from '@keystead/contracts/agent-api/fields';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { plainCheck } from './operation-input.ts';

const params = z.strictObject({ namespace: namespaceName, name: secretName });
const texts = fc.oneof(
  fc.string({ unit: fc.constantFrom('a', 'Z', '0', '.', '_', '-', '/'), maxLength: 12 }),
  fc.string({ maxLength: 12 }),
  fc.integer({ min: 100, max: 300 }).map((length) => 'n'.repeat(length)),
  fc.constantFrom('..', '.', 'a/..', '../a', 'a//b', '/a', 'a/', 'a\n', 'a/.../b', '', 'é'),
);

test('the quick look at names says what their schemas say', () => {
  const isPlain = plainCheck(params);
  fc.assert(
    fc.property(texts, texts, (namespace, name) => {
      const given = { namespace, name };
      expect(isPlain?.(given), JSON.stringify(given)).toBe(params.safeParse(given).success);
    }),
    { numRuns: 5_000 },
  );
});

test('what is no name is left to its schema', () => {
  expect(plainCheck(z.strictObject({ id: z.string() }))).toBeUndefined();
});
