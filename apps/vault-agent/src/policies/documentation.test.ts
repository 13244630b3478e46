import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { compile } from '@keystead/policy-engine/compile';
import { expect, test } from 'vitest';

test('the policies of the documentation compile', async () => {
  const docs = readFileSync(
    join(import.meta.dirname, '../../../../docs/agent-policies.md'),
    'utf8',
  );
  const policies = [...docs.matchAll(/```cedar\n([\s\S]*?)```/g)].map(([, cedar], index) => ({
    id: `example-${index}`,
    cedar,
  }));
  expect(policies).toHaveLength(1);
  expect(await compile({ vault: { otherwise: 'permit', policies } })).toMatchObject({ ok: true });
});
