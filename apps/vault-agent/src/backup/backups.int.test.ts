/** Backups on every database that a vault may have; on servers two agents share it. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  createSqlDatabase,
  sqlKinds,
  type TestSqlDatabase,
} from '@keystead/test-control-plane/sql-database';
import { afterAll, describe, expect, test } from 'vitest';
import { recount } from '../store/recount.fixture.ts';
import { placeOn } from '../store/vault.fixture.ts';
import {
  caller,
  makeBackup,
  openBackupAgent,
  put,
  restoreFrom,
  value,
} from './backup-agent.fixture.ts';
import { contentRootOf } from './backups.ts';

const base = mkdtempSync(join(tmpdir(), 'keystead-backups-int-'));
afterAll(() => rmSync(base, { recursive: true, force: true }));

describe.each(sqlKinds)('on %s', (kind) => {
  let database: TestSqlDatabase | undefined;
  afterAll(() => database?.drop());

  test('what was backed up is restored as a whole; of two agents one keeps the schedule', async () => {
    database = await createSqlDatabase(kind);
    const place = placeOn(database.options);
    const folder = mkdtempSync(join(base, 'agent-'));
    let nowMs = Date.parse('2027-01-01T00:30:00Z');
    const options = { now: () => nowMs, settings: { schedule: '0 2 * * *' } };
    const one = await openBackupAgent(place, folder, { ...options, holder: 'one' });
    await put(one, 'app', 'key', 'first');
    await put(one, 'app', 'key', 'second');
    await put(one, 'other', 'key', 'other');
    const other =
      kind === 'sqlite'
        ? one
        : await openBackupAgent(place, folder, { ...options, holder: 'other' });

    const id = await makeBackup(one);
    const root = (await contentRootOf(one.vault)).contentRoot;
    expect(await other.backups.drill(caller, id, { waitSeconds: 15 })).toMatchObject({
      state: 'succeeded',
      result: { contentRoot: root, foundRoot: root },
    });
    nowMs += 1_000;
    await put(one, 'app', 'key', 'newer');
    await put(one, 'late', 'key', 'newer');
    expect(await restoreFrom(other, id, { mode: 'full' })).toMatchObject({
      problem: { code: 'conflict' },
    });
    expect(await restoreFrom(other, id, { mode: 'full', force: true })).toMatchObject({
      state: 'succeeded',
      result: { created: 2, removedNamespaces: 3 },
    });
    expect((await contentRootOf(one.vault)).contentRoot).toBe(root);
    expect(await recount(one.vault)).toEqual([]);
    // The other agent notices within a second.
    await expect.poll(() => value(one, 'app', 'key'), { timeout: 5_000 }).toBe('second');
    await expect.poll(() => value(one, 'late', 'key'), { timeout: 5_000 }).toBe('not_found');

    one.runner.start();
    other.runner.start();
    nowMs = Date.parse('2027-01-03T02:00:01Z');
    const scheduled = async () => {
      one.runner.poke();
      other.runner.poke();
      const { items } = await one.backups.runs({ limit: 50, kind: 'backup' });
      return items.filter(({ trigger }) => trigger === 'schedule').map(({ state }) => state);
    };
    await expect.poll(scheduled, { timeout: 20_000 }).toEqual(['succeeded']);
    expect(await scheduled()).toEqual(['succeeded']);
    await one.close();
    if (other !== one) await other.close();
    expect(readdirSync(join(folder, 'destination'))).toHaveLength(4);
  });
});
