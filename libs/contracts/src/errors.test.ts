import { expect, test } from 'vitest';
import { z } from 'zod';
import { invalidRequest } from './errors.ts';
import { inOurWords } from './issue-text.ts';

test('a field that is missing is told as missing, one of another kind as what it should be', () => {
  const schema = z.strictObject({ reason: z.string(), by: z.strictObject({ name: z.string() }) });
  const issues = schema.safeParse({ by: { name: 1 } }, inOurWords).error?.issues ?? [];
  expect(invalidRequest('body', issues).errors).toEqual([
    { in: 'body', path: '/reason', message: 'is missing' },
    { in: 'body', path: '/by/name', message: 'must be a string' },
  ]);
});
