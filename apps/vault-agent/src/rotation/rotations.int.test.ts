import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createSqlDatabase, type TestSqlDatabase } from '@keystead/test-control-plane/sql-database';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { closeVaults, freshFolder, placeOn, type TestPlace } from '../store/vault.fixture.ts';
import {
  makeWorld,
  openRotation,
  type RotationWorld,
  worldModule,
} from './rotation-world.fixture.ts';

/** As the ordinary one; it counts, and waits while there is a file that says so. */
const slowModule = worldModule
  .replace(
    'import {',
    `import { appendFileSync } from 'node:fs';
import {`,
  )
  .replace(
    'async apply({ settings, readSecret }, next) {',
    `async apply({ settings, readSecret, signal }, next) {
    appendFileSync(settings.file + '.applied', next.value + '\\n');
    while (existsSync(settings.file + '.wait')) await new Promise((done) => setTimeout(done, 10));`,
  );

describe.each(['postgresql', 'mysql'] as const)('rotation by several agents on %s', (kind) => {
  let database: TestSqlDatabase;
  let world: RotationWorld;
  let one: Awaited<ReturnType<typeof openRotation>>;
  let two: Awaited<ReturnType<typeof openRotation>>;
  let place: TestPlace;
  let shiftMs = 0;
  const now = () => Date.now() + shiftMs;
  beforeAll(async () => {
    database = await createSqlDatabase(kind);
    world = makeWorld(freshFolder());
    writeFileSync(world.module, slowModule);
    place = placeOn(database.options);
    one = await openRotation(place, world, { holder: 'one', now });
    two = await openRotation(place, world, { holder: 'two', now });
    await one.createSecret();
  });
  afterAll(async () => {
    await closeVaults();
    await database.drop();
  });
  const name = ['payments', 'db/password'] as const;
  const until = async (condition: () => boolean | Promise<boolean>) => {
    const deadline = Date.now() + 10_000;
    while (!(await condition())) {
      if (Date.now() > deadline) throw new Error('it did not come');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  const applied = () =>
    existsSync(`${world.file}.applied`)
      ? readFileSync(`${world.file}.applied`, 'utf8').trim().split('\n')
      : [];

  test('what is due is rotated once, whichever agent does it and whichever was asked', async () => {
    await one.rotations.set(...name, one.policy());
    one.runner.start();
    two.runner.start();
    for (const agent of [one, two, one]) {
      const before = applied().length;
      const { lastRun } = await agent.rotations.rotateNow(agent.caller, ...name, 10_000);
      expect(lastRun?.outcome).toBe('succeeded');
      expect(applied().length).toBe(before + 1);
      // Both serve the new value within a second.
      for (const reader of [one, two]) {
        await until(async () => (await reader.value()) === reader.inForce());
      }
    }
    await Promise.all([one.runner.stop(), two.runner.stop()]);
    // Told at least once: an agent that loses its turn just then tells it again under the same id.
    const told = [...one.reports, ...two.reports];
    expect(new Set(told.map(({ id }) => id)).size).toBe(3);
    expect(new Set(told.map(({ outcome }) => outcome))).toEqual(new Set(['succeeded']));
    expect([...one.errors, ...two.errors]).toEqual([]);
    // Stopped runners stay so: those that follow are other agents.
    one = await openRotation(place, world, { holder: 'three', now });
    two = await openRotation(place, world, { holder: 'four', now });
  });

  test('an agent that was replaced while it rotated promotes nothing; its successor goes on', async () => {
    await one.rotations.rotateNow(one.caller, ...name);
    writeFileSync(`${world.file}.wait`, '');
    const before = applied().length;
    const versionBefore = (await one.vault.secrets.get(...name)).version;
    const slow = one.runOnce().catch((error: unknown) => error);
    await until(() => applied().length > before);
    // It sleeps; its lease runs out by the database's clock, and the other one takes over.
    await sql`update lease set expires_at_ms = 1`.execute(one.vault.store.db);
    const lease = await two.leases.acquire('rotation', 60_000);
    expect(lease).toBeDefined();
    rmSync(`${world.file}.wait`);
    await slow;
    // Its token is worth nothing: the journal and the secret are as they were.
    expect((await two.vault.secrets.get(...name)).version).toBe(versionBefore);
    expect((await two.rotations.get(...name)).lastRun).toMatchObject({ phase: 'applying' });
    shiftMs += 60_000;
    await two.runner.runOnce(lease!);
    await lease?.release();
    expect((await two.rotations.get(...name)).lastRun).toMatchObject({ outcome: 'succeeded' });
    // The successor applied the same value again: there is no third.
    expect(new Set(applied().slice(before)).size).toBe(1);
    expect(await two.value()).toBe(two.inForce());
  });

  test('pages of the list and of the history come in order here too', async () => {
    const { items, nextCursor } = await one.rotations.history(...name, { limit: 2 });
    expect(items).toHaveLength(2);
    const rest = await one.rotations.history(...name, { limit: 50, cursor: nextCursor! });
    const ids = [...items, ...rest.items].map(({ id }) => id);
    expect(ids).toEqual(ids.toSorted().toReversed());
    expect(ids.length).toBe(4);
    await one.rotations.set(...name, one.policy({ everySeconds: 86_400 }));
    await one.createSecret('other', 'value');
    await one.rotations.set('payments', 'other', one.policy());
    const first = await one.rotations.list({ limit: 1 });
    const second = await one.rotations.list({ limit: 1, cursor: first.nextCursor! });
    expect([first, second].map((page) => page.items[0]?.secret)).toEqual(['db/password', 'other']);
    expect(second.nextCursor).toBeNull();
  });
});
