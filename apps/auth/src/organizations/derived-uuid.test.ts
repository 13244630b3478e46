import { createHash } from 'node:crypto';
import { parseId, toId } from '@keystead/contracts/ids';
import { expect, test } from 'vitest';
import { uuidFrom } from './derived-uuid.ts';

test('a derived id is a UUID of version 8 that travels as a public id', () => {
  const uuid = uuidFrom(createHash('sha256').update('anything').digest());
  expect(uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(parseId('organization', toId('organization', uuid))).toBe(uuid);
});
