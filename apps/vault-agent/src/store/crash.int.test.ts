import { execFile } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { promisify } from 'node:util';
import {
  createSqlDatabase,
  sqlKinds,
  type TestSqlKind,
} from '@keystead/test-control-plane/sql-database';
import { afterEach, describe, expect, test } from 'vitest';
import { crashOperations, describeVault } from './crash-run.fixture.ts';
import { recount } from './recount.fixture.ts';
import { closeVaults, openTestVault, placeOn, type TestPlace } from './vault.fixture.ts';

const isProof = process.env.KEYSTEAD_PROVE === 'full';
/** Each kill is a process that starts, which a busy machine takes seconds for. */
const withinMs = isProof ? 4 * 3_600_000 : 150_000;
const script = new URL('./crash-run.fixture.ts', import.meta.url).pathname;
/** Kills of the short form, each a process; in full there is one at every single step, on every database. */
const kills = 2;
const kinds: readonly TestSqlKind[] = isProof ? sqlKinds : ['sqlite', 'postgresql'];

afterEach(() => closeVaults());

async function run(place: TestPlace, killAt: number): Promise<string[]> {
  const args = [
    '--conditions=keystead-source',
    '--disable-warning=ExperimentalWarning',
    script,
    JSON.stringify({ place, killAt }),
  ];
  try {
    const { stdout } = await promisify(execFile)(process.execPath, args);
    return stdout.trim().split('\n');
  } catch (error) {
    const { signal, stdout, stderr } = error as {
      signal: string | null;
      stdout: string;
      stderr: string;
    };
    if (signal !== 'SIGKILL') throw new Error(`the process ended by itself: ${stderr}`);
    return stdout.trim().split('\n');
  }
}

describe.each(kinds)('on %s', (kind) => {
  test(
    'killed at any step of any change, nothing is half done and nothing acknowledged is lost',
    async () => {
      const whole = await createSqlDatabase(kind);
      const told = await run(placeOn(whole.options), 0);
      await whole.drop();
      const states = told
        .filter((line) => !line.startsWith('steps'))
        .map((line) => JSON.parse(line.slice(line.indexOf('"'))) as string);
      expect(states).toHaveLength(crashOperations.length + 1);
      expect(new Set(states).size).toBe(states.length);
      const steps = Number(told.at(-1)?.split(' ')[1]);
      expect(steps).toBeGreaterThan(100);

      const count = isProof ? steps : kills;
      const offset = isProof ? 1 : randomInt(1, Math.floor(steps / count));
      const killedDuring = new Set<string>();
      for (let index = 0; index < count; index += 1) {
        const killAt = Math.min(steps, offset + Math.floor((index * steps) / count));
        await using database = await createSqlDatabase(kind);
        const place = placeOn(database.options);
        const lines = await run(place, killAt);
        const acknowledged = lines.filter((line) => line.startsWith('done ')).length;
        const during = crashOperations[acknowledged]?.[0] ?? 'nothing';
        killedDuring.add(during);
        const where = `killed at step ${killAt} of ${steps}, during ${during}`;
        const vault = await openTestVault(place);
        expect(await recount(vault), where).toEqual([]);
        const found = await describeVault(vault);
        expect([states[acknowledged], states[acknowledged + 1]], where).toContain(found);
        // And whoever comes next goes on.
        const { isRotating } = await vault.keys.describe();
        expect(isRotating, where).toBe(false);
        await closeVaults();
      }
      expect(killedDuring.size).toBeGreaterThan(1);
    },
    withinMs,
  );
});
