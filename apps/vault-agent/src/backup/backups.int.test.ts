/** Backups on every database that a vault may have; on servers two agents share it. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RestoreOrder } from '@keystead/contracts/agent-api/backup';
import { rotationPolicy } from '@keystead/contracts/agent-api/rotation';
import {
  createSqlDatabase,
  sqlKinds,
  type TestSqlDatabase,
} from '@keystead/test-control-plane/sql-database';
import { afterAll, describe, expect, test } from 'vitest';
import type { ClockTables } from '../clock/clock-tables.ts';
import { TrustedClock } from '../clock/trusted-clock.ts';
import { Rotations } from '../rotation/rotations.ts';
import { recount } from '../store/recount.fixture.ts';
import { placeOn } from '../store/vault.fixture.ts';
import { TokenVault } from '../tokens/token-vault.ts';
import {
  caller,
  makeBackup,
  openBackupAgent,
  put,
  restoreFrom,
  value,
} from './backup-agent.fixture.ts';
import type { BackupSettings } from './backup-runner.ts';
import { contentRootOf } from './backups.ts';
import { rootedSections } from './content-root.ts';

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
    const settings: Partial<BackupSettings> = {
      schedule: '0 2 * * *',
      contents: ['secrets', 'records', 'access'],
    };
    const options = { now: () => nowMs, settings };
    const one = await openBackupAgent(place, folder, { ...options, holder: 'one' });
    await put(one, 'app', 'key', 'first');
    await put(one, 'app', 'key', 'second');
    await put(one, 'other', 'key', 'other');
    const tokens = await TokenVault.open(one.vault.store, () => undefined);
    const password = 'a password of the application';
    const record = { value: 'record', encoding: 'text', password, data: { of: 'me' } } as const;
    const { token } = await tokens.create({ ...record, id: 'mine', expiresAt: null });
    await tokens.create({ ...record, value: 'another', id: 'other', expiresAt: null });
    const rotations = new Rotations({
      store: one.vault.store,
      directory: one.vault.directory,
      allowed: () => ({ scripts: {}, modules: {}, httpHosts: [] }),
      poke: () => undefined,
      now: () => nowMs,
    });
    const policy = rotationPolicy.parse({ rotator: { kind: 'generated' }, everySeconds: 86_400 });
    const set = await rotations.set('app', 'key', policy);
    const other =
      kind === 'sqlite'
        ? one
        : await openBackupAgent(place, folder, { ...options, holder: 'other' });

    const id = await makeBackup(one);
    const contents = ['secrets', 'records', 'access'] as const;
    const rootNow = async () =>
      (await contentRootOf(one.vault, contents, [...rootedSections])).contentRoot;
    const root = await rootNow();
    expect(root).toMatch(/^[0-9a-f]{64}$/);
    expect(await other.backups.drill(caller, id, { waitSeconds: 15 })).toMatchObject({
      state: 'succeeded',
      result: { contentRoot: root, foundRoot: root, records: 2, rotations: 1 },
    });
    nowMs += 1_000;
    await put(one, 'app', 'key', 'newer');
    await put(one, 'late', 'key', 'newer');
    await rotations.set('late', 'key', policy);
    await tokens.delete({ id: 'mine' });
    const part = { contents: ['records' as const], records: ['mi*'] };
    expect(await restoreFrom(other, id, part)).toMatchObject({ result: { records: 1 } });
    await tokens.delete({ id: 'mine' });
    expect(await restoreFrom(other, id, { mode: 'full' })).toMatchObject({
      problem: { code: 'conflict' },
    });
    const full: Partial<RestoreOrder> = {
      mode: 'full',
      contents: ['secrets', 'records'],
      force: true,
    };
    expect(await restoreFrom(other, id, full)).toMatchObject({
      state: 'succeeded',
      result: { created: 2, removedNamespaces: 3, records: 2, rotations: 1 },
    });
    expect(await rootNow()).toBe(root);
    const read = { token, password, encoding: 'text' } as const;
    expect(await tokens.readValue(caller, read)).toMatchObject({ value: 'record' });
    expect(await recount(one.vault)).toEqual([]);
    // The other agent notices within a second.
    await expect.poll(() => value(one, 'app', 'key'), { timeout: 5_000 }).toBe('second');
    await expect.poll(() => value(one, 'late', 'key'), { timeout: 5_000 }).toBe('not_found');
    expect(await rotations.get('app', 'key')).toMatchObject({ policy, nextDueAt: set.nextDueAt });
    expect((await rotations.list({ limit: 10 } as never)).items).toHaveLength(1);

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
    // The time that is believed, on this database: who comes later hears who was here before.
    const clockOf = (writer: string, aheadMs: number) =>
      TrustedClock.open({
        store: one.vault.store.as<ClockTables>(),
        writer,
        now: () => nowMs + aheadMs,
      });
    const [clock] = await Promise.all([clockOf('one', 0), clockOf('two', 1_000)]);
    expect((await clockOf('three', 10 * 365 * 86_400_000)).doubt).toMatchObject({
      isContradicted: false,
    });
    nowMs += 86_400_000;
    await clock.look();
    expect((await clockOf('four', 0)).doubt).toBeUndefined();

    await tokens.close();
    await one.close();
    if (other !== one) await other.close();
    expect(readdirSync(join(folder, 'destination'))).toHaveLength(4);
  });
});
