import { afterEach, expect, test } from 'vitest';
import {
  closeVault,
  closeVaults,
  openTestVault,
  plainNamespace,
  plainSecret,
  sqlitePlace,
  testCaller,
} from '../store/vault.fixture.ts';

afterEach(closeVaults);
const caller = testCaller();

test('a secret survives a restart, and only its value route knows the value', async () => {
  const place = sqlitePlace();
  const vault = await openTestVault(place);
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  const made = await vault.secrets.create(caller, 'app', {
    ...plainSecret,
    name: 'db/password',
    value: 'hunter2',
    tags: ['env=production'],
    metadata: { team: 'payments' },
  });
  expect(JSON.stringify(made)).not.toContain('hunter2');
  expect(made).toMatchObject({ version: 1, state: 'active', accessCount: 0 });
  await closeVault(vault);
  const again = await openTestVault(place);
  const value = await again.secrets.readValue(caller, 'app', 'db/password');
  expect(value).toMatchObject({ value: 'hunter2', encoding: 'text', version: 1 });
  const shown = await again.secrets.get('app', 'db/password');
  expect(shown).toMatchObject({ accessCount: 1, metadata: { team: 'payments' } });
});
