/** Killed with SIGKILL at every step of a backup and of a restore. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createSqlDatabase, type TestSqlKind } from '@keystead/test-control-plane/sql-database';
import { afterAll, expect, test } from 'vitest';
import { recount } from '../store/recount.fixture.ts';
import { placeOn, sqlitePlace, type TestPlace } from '../store/vault.fixture.ts';
import {
  caller,
  makeBackup,
  openBackupAgent,
  put,
  restoreFrom,
  type TestAgent,
  value,
} from './backup-agent.fixture.ts';
import { type RestoreStep, restoreSteps } from './backup-restore.ts';
import { backupSteps } from './backup-runner.ts';
import { contentRootOf } from './backups.ts';

const base = mkdtempSync(join(tmpdir(), 'keystead-backup-crash-'));
afterAll(() => rmSync(base, { recursive: true, force: true }));

/** How it ended: a signal where it was killed. */
function child(place: TestPlace, folder: string, ...more: string[]): Promise<string> {
  const started = spawn(
    process.execPath,
    [
      '--conditions=keystead-source',
      join(import.meta.dirname, 'backup-child.fixture.ts'),
      JSON.stringify(place),
      folder,
      ...more,
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  started.stderr.on('data', (bytes) => {
    said = (said + bytes).slice(-2_000);
  });
  return new Promise((resolve) =>
    started.on('close', (code, signal) => resolve(signal ?? `${code} ${said}`)),
  );
}

const work = /\.part$|^backup-|^fetched-|^restoring-|^drill-/;
const leftOvers = (agent: TestAgent) => readdirSync(agent.spool).filter((name) => work.test(name));

test.each(backupSteps)(
  'a backup that was killed when it had %s is made by whoever comes next',
  async (step) => {
    const place = sqlitePlace(mkdtempSync(join(base, 'place-')));
    const folder = mkdtempSync(join(base, 'agent-'));
    const first = await openBackupAgent(place, folder);
    await put(first, 'app', 'key', 'value');
    await first.close();
    expect(await child(place, folder, step)).toBe('SIGKILL');

    const next = await openBackupAgent(place, folder, { holder: 'next' });
    // Whatever is listed is whole, at once.
    for (const { id } of (await next.backups.list({ limit: 10 })).items) {
      expect(await next.backups.drill(caller, id, { waitSeconds: 10 })).toMatchObject({
        state: 'succeeded',
      });
    }
    // The dead one's lease runs out within a second.
    await expect.poll(() => next.runner.runWaiting(), { timeout: 5_000 }).toBe(true);
    const runs = (await next.backups.runs({ limit: 10, kind: 'backup' })).items;
    expect(runs).toMatchObject([{ state: 'succeeded', attempt: step === 'ended' ? 1 : 2 }]);
    const listed = (await next.backups.list({ limit: 10 })).items;
    expect(listed.map(({ id }) => id)).toContain(runs[0]?.backupId);
    for (const { id } of listed) {
      expect(await next.backups.verify(caller, id, { waitSeconds: 10 })).toMatchObject({
        state: 'succeeded',
      });
    }
    // A file and a manifest for each, and nothing else.
    expect(readdirSync(join(folder, 'destination'))).toHaveLength(2 * listed.length);
    expect(leftOvers(next)).toEqual([]);
    await next.close();
  },
);

const restoreKills: [RestoreStep, TestSqlKind][] = [
  ...restoreSteps.map((step): [RestoreStep, TestSqlKind] => [step, 'sqlite']),
  // What the dead one had begun is rolled back by the server.
  ['removed', 'postgresql'],
];

test.each(restoreKills)(
  'a restore that was killed when it had %s was done or was not, on %s',
  async (step, kind) => {
    await using database = kind === 'sqlite' ? undefined : await createSqlDatabase(kind);
    const place =
      database === undefined
        ? sqlitePlace(mkdtempSync(join(base, 'place-')))
        : placeOn(database.options);
    const folder = mkdtempSync(join(base, 'agent-'));
    const first = await openBackupAgent(place, folder);
    await put(first, 'app', 'key', 'of the backup');
    await put(first, 'gone', 'key', 'of the backup');
    const backedUp = (await contentRootOf(first.vault)).contentRoot;
    const id = await makeBackup(first);
    await put(first, 'app', 'key', 'newer');
    await put(first, 'late', 'key', 'newer');
    await first.vault.namespaces.delete('gone');
    const newer = (await contentRootOf(first.vault)).contentRoot;
    await first.close();
    expect(await child(place, folder, step, id)).toBe('SIGKILL');

    const next = await openBackupAgent(place, folder, { holder: 'next' });
    const isDone = step === 'written' || step === 'laid';
    expect((await contentRootOf(next.vault)).contentRoot).toBe(isDone ? backedUp : newer);
    expect(await value(next, 'app', 'key')).toBe(isDone ? 'of the backup' : 'newer');
    expect(await recount(next.vault)).toEqual([]);
    expect(leftOvers(next)).toEqual([]);
    const laid = readdirSync(next.spool);
    expect(laid).toEqual(step === 'laid' ? [`restored-${id}`] : []);
    expect((await next.backups.runs({ limit: 1, kind: 'restore' })).items).toMatchObject([
      { state: 'failed', problem: { code: 'interrupted' } },
    ]);
    await expect
      .poll(() => restoreFrom(next, id, { mode: 'full', force: true }).then(({ state }) => state), {
        timeout: 8_000,
      })
      .toBe('succeeded');
    expect((await contentRootOf(next.vault)).contentRoot).toBe(backedUp);
    await next.close();
  },
);
