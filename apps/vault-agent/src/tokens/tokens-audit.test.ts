import { expect, test } from 'vitest';
import { operationBody } from '../audit/audit-entry.ts';
import { whichTokens } from './tokens.http.ts';

test('an entry of many tokens names as many as it has room for, and all of them by a hash', () => {
  const tokens = Array.from({ length: 1_000 }, (_, index) => `token ${index}`);
  const context = whichTokens({ body: { tokens } });
  const line = operationBody(
    {
      requestId: 'request',
      identity: { kind: 'api_key', id: 'key', name: '' },
      address: '',
      action: 'token.read-value',
      operation: 'tokens.read-values',
      resource: { other: 'tokens' },
      phase: 'outcome',
      result: 'done',
      context,
    },
    0,
  );
  // Nothing was cut.
  expect(JSON.parse(line).context).toEqual(context);
  expect(line.match(/[0-9a-f]{16}(?=[ "])/g)?.length).toBeGreaterThanOrEqual(150);
  expect(line).not.toContain('token 1');
  expect(context.tokens).toBe(1_000);
  const { allTokens } = whichTokens({ body: { tokens: [...tokens].reverse() } });
  expect(allTokens).toBe(context.allTokens);
  expect(whichTokens({ body: { tokens: tokens.slice(1) } }).allTokens).not.toBe(allTokens);
});
