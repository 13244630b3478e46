import { limits } from '@keystead/contracts/limits';
import { policySource } from '@keystead/contracts/policy';
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

test('a document may be as long as a text for the contract and for the engine alike, and no longer', async () => {
  const rules = [{ principals: ['*'], operations: ['secret.read'], resources: ['*'] }];
  const document = { id: 'long', name: 'long', rules, actions: [{ type: 'ALLOW' }] };
  const text = JSON.stringify(document).padEnd(limits.policyTextMaxLength);
  const tooLong = (problems: readonly { what: string }[]) =>
    problems.some(({ what }) => what.includes(`at most ${limits.policyTextMaxLength} characters`));
  for (const [each, fits] of [
    [text, true],
    [`${text} `, false],
  ] as const) {
    const source = { format: 'document' as const, text: each };
    expect(policySource.safeParse(source).success).toBe(fits);
    expect(tooLong(await checkSource(source))).toBe(!fits);
  }
});
