import { createApiKey } from '@keystead/contracts/agent-api/access';
import { invalidRequest, ServiceError } from '@keystead/contracts/errors';
import { expect, test } from 'vitest';
import { checkOptions, toldOfOptions } from './command-options.ts';

const names = { name: '--name', roles: '--role', expiresAt: '--expires' };
const failureOf = (given: object) => {
  try {
    checkOptions(createApiKey.body, given, names);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
};

test('what is wrong with a command is told of the options that a person typed', () => {
  expect(failureOf({ name: 'ci', roles: ['reader'] })).toBeUndefined();
  expect(failureOf({ name: '', roles: ['reader', 'No Role'], expiresAt: 'tomorrow' })).toBe(
    [
      '--name: must not be empty',
      '--role, no. 2: must be lower case letters, digits and - inside',
      '--expires: must be a time in UTC, like 2027-01-31T00:00:00Z',
    ].join('\n'),
  );
});

test('so is what is found wrong later, and nothing else is touched', () => {
  const later = invalidRequest('body', [{ path: ['roles', 0], message: 'there is no role x' }]);
  expect((toldOfOptions(later, names) as Error).message).toBe('--role, no. 1: there is no role x');
  const other = new ServiceError('limit_reached');
  expect(toldOfOptions(other, names)).toBe(other);
});
