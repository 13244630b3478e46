import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import {
  closeVault,
  closeVaults,
  openTestVault,
  plainNamespace,
  plainSecret,
  sqlitePlace,
  type TestPlace,
  testCaller,
} from '../store/vault.fixture.ts';
import type { Vault } from '../store/vault.ts';
import { accessLimits } from './access-limits.ts';

afterEach(() => closeVaults());
const caller = testCaller();

async function filled(place: TestPlace = sqlitePlace(), names = ['key']): Promise<Vault> {
  const vault = await openTestVault(place);
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'app' });
  await Promise.all(
    names.map((name) => vault.secrets.create(caller, 'app', { ...plainSecret, name, value: 'v' })),
  );
  return vault;
}
const read = async (vault: Vault, name = 'key') => vault.secrets.readValue(caller, 'app', name);
const countOf = async (vault: Vault, name = 'key') =>
  (await vault.secrets.get('app', name)).accessCount;

test('a reading is counted at once and exactly once, wherever the count is on its way', async () => {
  const place = sqlitePlace();
  const vault = await filled(place);
  for (let round = 1; round <= 6; round += 1) {
    await read(vault);
    expect(await countOf(vault)).toBe(round);
    if (round % 2 === 0) await vault.accesses.flush();
    expect(await countOf(vault)).toBe(round);
    if (round % 3 === 0) await vault.accesses.settle();
    expect(await countOf(vault)).toBe(round);
  }
  await closeVault(vault);
  const again = await openTestVault(place);
  expect(await countOf(again)).toBe(6);
  expect(await again.store.db.selectFrom('access_journal').selectAll().execute()).toEqual([]);
});

test('a process that starts beside another adds nothing twice', async () => {
  const place = sqlitePlace();
  const vault = await filled(place);
  for (let count = 0; count < 5; count += 1) {
    await read(vault);
    await vault.accesses.flush();
  }
  await closeVault(await openTestVault(place));
  await read(vault);
  await vault.accesses.settle();
  expect(await countOf(vault)).toBe(6);
  const { accessCount } = await vault.namespaces.statistics('app', 1);
  expect(accessCount).toBe(6);
});

test('counts of more secrets than one commit takes all arrive', async () => {
  const names = Array.from({ length: accessLimits.secretsPerCommit + 20 }, (_, n) => `s${n}`);
  const vault = await filled(sqlitePlace(), names);
  for (const name of names) await read(vault, name);
  await read(vault, 's0');
  const statistics = await vault.namespaces.statistics('app', 3);
  expect(statistics).toMatchObject({
    accessCount: names.length + 1,
    accessCount24h: names.length + 1,
    topSecrets: [{ name: 's0', accessCount: 2 }, { accessCount: 1 }, { accessCount: 1 }],
  });
});

test('what was counted a second before a kill is not lost', async () => {
  const place = sqlitePlace();
  await closeVault(await filled(place));
  const fixture = new URL('../store/vault.fixture.ts', import.meta.url).href;
  const script = `
    import { openTestVault, testCaller } from ${JSON.stringify(fixture)};
    const vault = await openTestVault(${JSON.stringify(place)});
    for (let count = 0; count < 1000; count += 1) {
      await vault.secrets.readValue(testCaller(), 'app', 'key');
    }
    setTimeout(() => process.kill(process.pid, 'SIGKILL'), 1000);`;
  await expect(
    promisify(execFile)(process.execPath, [
      '--conditions=keystead-source',
      '--disable-warning=ExperimentalWarning',
      '--input-type=module',
      '-e',
      script,
    ]),
  ).rejects.toMatchObject({ signal: 'SIGKILL' });
  expect(await countOf(await openTestVault(place))).toBe(1_000);
});

test('the access log keeps the newest accesses of each namespace, and no more', async () => {
  const vault = await filled();
  await vault.namespaces.create(caller, { ...plainNamespace, name: 'quiet' });
  await vault.secrets.create(caller, 'quiet', { ...plainSecret, name: 'key', value: 'v' });
  await vault.accesses.flush();
  const flushes = Math.ceil(accessLimits.logEntriesPerNamespace / accessLimits.logEntriesPerFlush);
  for (let flush = 0; flush < flushes + 2; flush += 1) {
    for (let count = 0; count < accessLimits.logEntriesPerFlush; count += 1) await read(vault);
    await vault.accesses.flush();
  }
  const rows = await vault.store.db.selectFrom('access_log').selectAll().execute();
  expect(rows).toHaveLength(accessLimits.logEntriesPerNamespace + 1);
  const log = await vault.namespaces.accessLog('app', { limit: 1_000 });
  expect(log.items.every(({ operation }) => operation === 'read')).toBe(true);
  const quiet = await vault.namespaces.accessLog('quiet', { limit: 10 });
  expect(quiet.items).toMatchObject([{ operation: 'create', secret: 'key' }]);
});
