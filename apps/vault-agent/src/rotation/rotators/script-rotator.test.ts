import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { rotatorSettings } from '@keystead/contracts/agent-api/rotation';
import { afterAll, expect, test } from 'vitest';
import { RotationFailure, type RotationWork } from '../rotator.ts';
import { type RotatedWorld, rotatorSuite, workOf } from './rotator-suite.fixture.ts';
import { scriptRotator } from './script-rotator.ts';

const folder = mkdtempSync(join(tmpdir(), 'keystead-script-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const program = join(import.meta.dirname, 'world-script.fixture.ts');
let worlds = 0;

function makeWorld(trouble = '', settings: object = {}): RotatedWorld & { file: string } {
  worlds += 1;
  const file = join(folder, `world-${worlds}`);
  writeFileSync(file, `first-value-${worlds}`);
  const parsed = rotatorSettings.parse({ kind: 'script', script: 'world', ...settings });
  if (parsed.kind !== 'script') throw new Error('wrong kind');
  return {
    file,
    rotator: scriptRotator(parsed, {
      argv: [process.execPath, program, file, trouble],
      timeoutMs: 20_000,
      environment: { WORLD: 'test' },
    }),
    current: { value: `first-value-${worlds}`, encoding: 'text' },
    works: async ({ value }) => readFileSync(file, 'utf8') === value,
    overlaps: false,
  };
}

rotatorSuite('script', async () => makeWorld());

const failureOf = (attempt: Promise<unknown>) =>
  attempt.then(
    () => undefined,
    (error: unknown) => error as RotationFailure,
  );
const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    // A zombie is gone; somebody has only to notice.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

test('a script makes the new value where it is told to', async () => {
  const world = makeWorld('', { creates: true });
  expect((await world.rotator.create(workOf(world))).value).toMatch(/^made-/);
});

test('values are in no argument and no variable, and the environment holds nothing of the agent', async () => {
  process.env.KEYSTEAD_CANARY = 'of-the-agent';
  const world = makeWorld();
  const next = await world.rotator.create(workOf(world));
  await world.rotator.apply(workOf(world), next);
  const seen = readFileSync(`${world.file}.seen`, 'utf8');
  delete process.env.KEYSTEAD_CANARY;
  expect(seen).toContain('"WORLD":"test"');
  for (const text of [next.value, world.current.value, 'of-the-agent']) {
    expect(seen).not.toContain(text);
  }
});

test('what a failing script says is a code at most, and never a value', async () => {
  const known = makeWorld('fails-apply');
  const failure = await failureOf(known.rotator.apply(workOf(known), known.current));
  expect(failure).toMatchObject({
    code: 'out-of-order',
    message: 'The script ended with code 3: out-of-order',
  });
  const leaking = makeWorld('leaks');
  const leaked = await failureOf(leaking.rotator.apply(workOf(leaking), leaking.current));
  expect(leaked).toMatchObject({ code: 'refused', message: 'The script ended with code 3' });
});

test('a script that hangs is ended with all that it started', async () => {
  const world = makeWorld('hangs');
  const stop = new AbortController();
  const work: RotationWork = { ...workOf(world), signal: stop.signal };
  const attempt = failureOf(world.rotator.apply(work, world.current));
  const pids = `${world.file}.pids`;
  const deadline = Date.now() + 8_000;
  while (!existsSync(pids) || !readFileSync(pids, 'utf8').endsWith('\n')) {
    if (Date.now() > deadline) throw new Error('it did not start');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const started = readFileSync(pids, 'utf8').trim().split(' ').map(Number);
  expect(started.map(isAlive)).toEqual([true, true]);
  stop.abort();
  expect(await attempt).toMatchObject({ code: 'timeout' });
  while (started.some(isAlive)) {
    if (Date.now() > deadline) throw new Error('something of it goes on');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

test('a script that writes without end is ended', async () => {
  const world = makeWorld('floods');
  expect(await failureOf(world.rotator.apply(workOf(world), world.current))).toMatchObject({
    code: 'bad-answer',
  });
});

test('a program that is not there fails as one', async () => {
  const rotator = scriptRotator(
    { kind: 'script', script: 'x', creates: false, rules: undefined as never, settings: {} },
    { argv: [join(folder, 'none')], timeoutMs: 1_000, environment: {} },
  );
  const failure = await failureOf(
    rotator.apply(workOf(makeWorld()), { value: 'any-value', encoding: 'text' }),
  );
  expect(failure).toBeInstanceOf(RotationFailure);
  expect(failure).toMatchObject({ code: 'not-started' });
});
