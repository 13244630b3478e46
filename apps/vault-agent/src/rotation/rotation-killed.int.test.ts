import { spawn } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createSqlDatabase, type TestSqlKind } from '@keystead/test-control-plane/sql-database';
import { afterAll, expect, test } from 'vitest';
import {
  closeVault,
  closeVaults,
  freshFolder,
  placeOn,
  sqlitePlace,
} from '../store/vault.fixture.ts';
import type { RunnerStep } from './rotation-runner.ts';
import { firstValue, makeWorld, openRotation } from './rotation-world.fixture.ts';

afterAll(() => closeVaults());
// Children load the same modules again and again.
const compiled = freshFolder();
const program = join(import.meta.dirname, 'rotation-child.fixture.ts');

function runChild(...args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(
      process.execPath,
      ['--conditions=keystead-source', '--no-warnings', program, ...args],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, NODE_COMPILE_CACHE: compiled },
      },
    );
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (bytes) => {
        output += bytes;
      });
    }
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      if (signal === 'SIGKILL') return resolve('killed');
      if (code === 0) return resolve('ended');
      reject(new Error(`the child ended with ${code}\n${output}`));
    });
  });
}

/** Where it goes well, and where what was applied does not work and has to be rolled back. */
const killed: [RunnerStep, '' | 'apply' | 'verify' | 'apply-before', TestSqlKind?][] = [
  ['applied', '', 'postgresql'],
  ['begun', ''],
  ['created', ''],
  ['pending', ''],
  ['applied', ''],
  ['verified', ''],
  ['promoted', ''],
  ['reported', ''],
  ['retiring', ''],
  ['retired', ''],
  ['rolling-back', 'apply'],
  ['rolled-back', 'apply'],
  ['abandoned', 'apply'],
  ['abandoned', 'apply-before'],
];

test.each(killed)(
  'killed at "%s" (trouble: "%s") whoever comes next finishes or rolls back',
  async (step, trouble, kind = 'sqlite') => {
    const folder = freshFolder();
    await using database = kind === 'sqlite' ? undefined : await createSqlDatabase(kind);
    const place = database === undefined ? sqlitePlace(folder) : placeOn(database.options);
    const world = makeWorld(folder);
    const before = await openRotation(place, world);
    await before.createSecret();
    await before.rotations.set('payments', 'db/password', before.policy({ everySeconds: 86_400 }));
    await before.rotations.rotateNow(before.caller, 'payments', 'db/password');
    await closeVault(before.vault);

    if (trouble !== '') writeFileSync(`${world.file}.fails`, trouble);
    expect(await runChild(JSON.stringify(place), JSON.stringify(world), step, '0')).toBe('killed');
    rmSync(`${world.file}.fails`, { force: true });

    // An hour later, when leases have run out and everything that failed is to be tried again.
    const hours = { now: 3_600_000 };
    const after = await openRotation(place, world, {
      holder: 'after',
      now: () => Date.now() + hours.now,
    });
    // Whatever is in force is a value that the vault still has, and readers get one that works or worked.
    const value = await after.value();
    if (step !== 'applied' && step !== 'verified' && trouble === '')
      expect(value).toBe(after.inForce());
    await after.vault.store
      .as<{ lease: { expires_at_ms: number } }>()
      .write((queries) => queries.updateTable('lease').set({ expires_at_ms: 0 }).execute());
    for (let round = 0; round < 3; round += 1) {
      await after.runOnce();
      hours.now += 3_600_000;
    }
    expect(after.errors).toEqual([]);
    expect(await after.value()).toBe(after.inForce());
    expect(await after.value()).not.toBe(firstValue);
    const states = await after.states();
    expect(states.filter((state) => state.includes('pending'))).toEqual([]);
    expect(states.filter((state) => state.includes('active'))).toHaveLength(1);
    const rotation = await after.rotations.get('payments', 'db/password');
    expect(rotation.state).toBe('scheduled');
    expect(rotation.retiring).toEqual([]);
    const { items: history } = await after.rotations.history('payments', 'db/password', {
      limit: 50,
    });
    expect(history.filter(({ outcome }) => outcome === 'succeeded')).toHaveLength(1);
    expect(history.every(({ endedAt }) => endedAt !== null)).toBe(true);
    await closeVault(after.vault);
  },
  // A child loads the whole vault, which takes its time beside others.
  30_000,
);
