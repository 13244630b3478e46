import { expect, test } from 'vitest';
import { checkSource, whyNotApplied } from './policy-check.ts';

test('files that cannot be applied are named, with what is wrong and where', async () => {
  const good = { name: 'good', text: 'permit(principal, action, resource);' };
  const bad = {
    name: 'bad',
    text: 'permit(principal, action, resource) when { resource.nmae == "x" };',
  };
  const problems = new Map(
    await Promise.all(
      [good, bad].map(
        async ({ name, text }) => [name, await checkSource({ format: 'cedar', text })] as const,
      ),
    ),
  );
  const problemsOf = ({ name }: { name: string }) => problems.get(name) ?? [];
  expect(whyNotApplied([good], problemsOf)).toBeUndefined();
  expect(whyNotApplied([good, bad], problemsOf)).toMatchObject({
    code: 'unprocessable',
    detail: expect.stringMatching(/^the file "bad" is not valid: .*nmae/),
    errors: [
      { in: 'body', path: '/files/1/source/text', message: expect.stringContaining('nmae') },
    ],
  });
});
