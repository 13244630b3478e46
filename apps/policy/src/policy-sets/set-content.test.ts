import { policySetSettings } from '@keystead/contracts/policy';
import { expect, test } from 'vitest';
import { checkSettings, hindrance } from './set-content.ts';

test('settings that no set could be signed with are refused, with their place', async () => {
  await checkSettings(policySetSettings.parse({ networks: { office: ['192.0.2.0/24'] } }));
  for (const networks of [
    { office: ['192.0.2.0/24', '300.1.2.3/8'] },
    { private: ['10.0.0.0/8'] },
  ]) {
    await expect(checkSettings(policySetSettings.parse({ networks }))).rejects.toMatchObject({
      code: 'invalid_request',
      errors: [{ in: 'body', path: expect.stringMatching(/^\/settings\/networks/) }],
    });
  }
});

test('what hinders a set without being of a policy is told without a gap', () => {
  expect(hindrance([], [{ what: 'too large' }])).toBe('the policies do not go together: too large');
});
