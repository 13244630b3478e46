import type { RekeyResult } from '@keystead/vault-store/rekey/rekey';
import { afterEach, expect, test } from 'vitest';
import { closeVaults, openTestVault } from '../store/vault.fixture.ts';
import { type RekeyRunTables, rekeyRunMigrations } from './rekey-run-tables.ts';
import { RekeyRuns, type RunRequest } from './rekey-runs.ts';
import { tokenVaultLimits as limits } from './token-vault-limits.ts';

afterEach(() => closeVaults());

const result: RekeyResult = {
  outcome: 'finished',
  examined: 3,
  total: 3,
  matched: 2,
  otherPassword: 1,
  alreadyCurrent: 0,
  corrupt: 0,
  corruptIds: [],
  changedMeanwhile: 0,
  changedIds: [],
  resumed: false,
  elapsedMs: 10,
  estimatedMs: undefined,
};

/** One that does nothing until it is told to end. */
const endless: RunRequest['work'] = ({ signal }) =>
  new Promise((resolve) => {
    signal?.addEventListener('abort', () => resolve({ ...result, outcome: 'aborted' }));
  });

const request = (work: RunRequest['work']): RunRequest => ({
  kind: 'rekey',
  dryRun: false,
  timeoutSeconds: undefined,
  requestedBy: 'ann',
  work,
});

async function agents() {
  const { store } = await openTestVault(undefined, { migrations: rekeyRunMigrations });
  const runs = store.as<RekeyRunTables>();
  const errors: unknown[] = [];
  const agent = (now = Date.now) => new RekeyRuns(runs, now, (error) => errors.push(error));
  return { store: runs, agent, errors };
}

test('what became of a run is told by every agent of the store, also after a restart', async () => {
  const { agent, errors } = await agents();
  const [one, two] = [agent(), agent()];
  const { id } = await one.start(request(async () => result));
  await one.stop();
  for (const asked of [one, two, agent()]) {
    expect(await asked.get(id)).toMatchObject({
      state: 'finished',
      matched: 2,
      requestedBy: 'ann',
    });
    expect(await asked.list()).toHaveLength(1);
  }
  const failing = await two.start(
    request(async () => {
      throw new Error('the disk is full of passwords');
    }),
  );
  await two.stop();
  expect(await one.get(failing.id)).toMatchObject({ state: 'failed', problem: 'the run failed' });
  expect(errors).toHaveLength(1);
  expect((await one.list()).map((run) => run.id)).toEqual([failing.id, id]);
  await expect(one.get('rky_00000000000000000000000000')).rejects.toMatchObject({
    code: 'not_found',
  });
});

test('a run ends when another agent is asked to end it', async () => {
  const { agent } = await agents();
  const [one, two] = [agent(), agent()];
  const { id } = await one.start(request(endless));
  await expect(one.start(request(endless))).rejects.toMatchObject({ code: 'conflict' });
  expect(await two.get(id)).toMatchObject({ state: 'running', endedAt: null });
  expect(await two.abort(id)).toMatchObject({ state: 'aborted', endedAt: expect.any(String) });
  await one.stop();
  expect((await one.start(request(async () => result))).state).toBe('running');
  await one.stop();
});

test('a run whose agent ended in the middle is told as interrupted', async () => {
  const { agent } = await agents();
  const lost = agent();
  const { id } = await lost.start(request(endless));
  const later = agent(() => Date.now() + limits.runLostAfterMs + 1_000);
  expect(await later.get(id)).toMatchObject({ state: 'interrupted', remainingSeconds: null });
  expect(await agent().get(id)).toMatchObject({ state: 'running' });
  await lost.stop();
});

test('the newest runs are kept, however many there were', async () => {
  const { agent, store } = await agents();
  const row = (index: number) => ({
    id: `rky_${index}`,
    shown: '{}',
    started_at_ms: index,
    seen_at_ms: index,
    is_running: 0,
    is_to_stop: 0,
  });
  const rows = Array.from({ length: limits.runsKept + 20 }, (_, index) => row(index));
  await store.write((queries) => queries.insertInto('rekey_run').values(rows).execute());
  const runs = agent();
  const { id } = await runs.start(request(async () => result));
  await runs.stop();
  const kept = await store.db
    .selectFrom('rekey_run')
    .select('id')
    .orderBy('started_at_ms', 'desc')
    .execute();
  expect(kept).toHaveLength(limits.runsKept);
  expect(kept[0]?.id).toBe(id);
  expect(kept[1]?.id).toBe(rows.at(-1)?.id);
});
