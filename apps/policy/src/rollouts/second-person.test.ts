import { expect, test } from 'vitest';
import { mayApprove } from './second-person.ts';

const person = (id: string) => ({ kind: 'person', id });

test('a second person is a person, and another one', () => {
  expect(mayApprove('usr_a', person('usr_b'))).toEqual({ may: true });
  expect(mayApprove('usr_a', person('usr_a'))).toMatchObject({ may: false });
  expect(mayApprove('usr_a', { kind: 'apiKey', id: 'key_b' })).toMatchObject({ may: false });
  expect(mayApprove(null, person('usr_b'))).toMatchObject({ may: false });
});
