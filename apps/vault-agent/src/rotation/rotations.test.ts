import { rmSync, writeFileSync } from 'node:fs';
import { ServiceError } from '@keystead/contracts/errors';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type ClockTables, clockMigrations } from '../clock/clock-tables.ts';
import { TrustedClock } from '../clock/trusted-clock.ts';
import { closeVaults, freshFolder, openTestVault, sqlitePlace } from '../store/vault.fixture.ts';
import { rotatorLimits } from './rotation-limits.ts';
import { runnerSteps } from './rotation-runner.ts';
import type { RotationSchema } from './rotation-tables.ts';
import {
  firstValue,
  makeWorld,
  openRotation,
  type RotationWorld,
} from './rotation-world.fixture.ts';

afterEach(() => closeVaults());

const isProof = process.env.KEYSTEAD_PROVE === 'full';
const day = 86_400;
let world: RotationWorld;
let shiftMs: number;
let agent: Awaited<ReturnType<typeof openRotation>>;
let isForbidden: boolean;
let isAuditAway: boolean;
let errands: string[];
let crashAt: { step: string; times: number } | undefined;

class Crash extends Error {}

async function open(): Promise<void> {
  const folder = freshFolder();
  world = makeWorld(folder);
  shiftMs = 0;
  crashAt = undefined;
  isForbidden = false;
  isAuditAway = false;
  errands = [];
  agent = await openRotation(
    { sql: { kind: 'sqlite', file: ':memory:' }, keyFile: `${folder}/master.key` },
    world,
    {
      now: () => Date.now() + shiftMs,
      door: {
        perform: async (_caller, { operation, resource }, work) => {
          errands.push(`${operation} ${resource.secret}`);
          if (isForbidden) throw new ServiceError('permission_denied');
          if (isAuditAway) throw new ServiceError('unavailable');
          return work({} as never);
        },
      },
      onStep: (step) => {
        if (crashAt?.step !== step || crashAt.times === 0) return;
        crashAt.times -= 1;
        throw new Crash(step);
      },
    },
  );
  await agent.createSecret();
}
beforeEach(open);

const name = ['payments', 'db/password'] as const;
const set = (given: object = {}) => agent.rotations.set(...name, agent.policy(given));
const get = () => agent.rotations.get(...name);
const pass = (seconds: number) => {
  shiftMs += seconds * 1_000;
};
const trouble = (...steps: string[]) => {
  if (steps.length === 0) rmSync(`${world.file}.fails`, { force: true });
  else writeFileSync(`${world.file}.fails`, steps.join(' '));
};
const outcomes = () => agent.reports.map(({ outcome, attempt }) => `${outcome} ${attempt}`);

test('a secret is rotated when its interval is over, and the next time is planned', async () => {
  const planned = await set({ everySeconds: day });
  expect(planned).toMatchObject({ state: 'scheduled', lastRun: null });
  await agent.runOnce();
  expect(agent.inForce()).toBe(firstValue);
  pass(day + 1);
  await agent.runOnce();
  const value = await agent.value();
  expect(value).toMatch(/^[A-Za-z0-9]{32}$/);
  expect(agent.inForce()).toBe(value);
  const after = await get();
  expect(after).toMatchObject({
    state: 'scheduled',
    lastRun: {
      trigger: 'interval',
      attempt: 1,
      outcome: 'succeeded',
      oldVersion: 1,
      newVersion: 2,
    },
  });
  expect(Date.parse(after.nextDueAt ?? '')).toBeGreaterThan(
    Date.now() + shiftMs + (day - 60) * 1_000,
  );
  expect(outcomes()).toEqual(['succeeded 1']);
});

test('a secret is rotated by its schedule, and once for all the times that were missed', async () => {
  await set({ schedule: { cron: '0 3 * * *', timezone: 'UTC' } });
  pass(10 * day);
  await agent.runOnce();
  await agent.runOnce();
  expect((await agent.rotations.history(...name, { limit: 10 })).items).toMatchObject([
    { trigger: 'schedule', outcome: 'succeeded' },
  ]);
});

test('a rotation that only readings would wake goes with its secret all the same', async () => {
  await set({ afterUses: 3 });
  await agent.vault.namespaces.delete('payments');
  const rows = () =>
    agent.vault.store.as<RotationSchema>().db.selectFrom('rotation').selectAll().execute();
  expect(await rows()).toHaveLength(1);
  await agent.runOnce();
  expect(await rows()).toHaveLength(0);
});

test('a clock that was ten years ahead rotates once, and the schedule goes on when it is right again', async () => {
  await set({ everySeconds: day, overlapSeconds: 60 });
  await agent.createSecret('paused', 'value');
  await agent.rotations.set(
    'payments',
    'paused',
    agent.policy({ rotator: { kind: 'generated' }, everySeconds: day, paused: true }),
  );
  const tenYears = 3_652 * day;
  pass(tenYears);
  await agent.runOnce();
  await agent.rotations.rotateNow(agent.caller, 'payments', 'paused');
  expect(outcomes()).toEqual(['succeeded 1']);
  pass(-tenYears);
  const dueIn = async () =>
    Date.parse((await get()).nextDueAt ?? '') - Date.now() - shiftMs - day * 1_000;
  expect(await dueIn()).toBeGreaterThan(day * 1_000);
  // The look after the clock came back finds it; a request of that time is carried out now.
  await agent.runOnce();
  await agent.runOnce();
  expect(Math.abs(await dueIn())).toBeLessThan(60_000);
  expect(outcomes()).toEqual(['succeeded 1', 'succeeded 1']);
  pass(day + 60);
  await agent.runOnce();
  expect(outcomes()).toEqual(['succeeded 1', 'succeeded 1', 'succeeded 1']);
  const [retirement] = (await get()).retiring;
  expect(Date.parse(retirement?.at ?? '')).toBeLessThan(Date.now() + shiftMs + 61_000);
});

test('a clock that steps is not believed: nothing is rotated by it, and nothing is put off', async () => {
  const vault = await openTestVault(undefined, { migrations: clockMigrations });
  const fromMs = Date.now();
  let stepMs = 0;
  const clock = await TrustedClock.open({
    store: vault.store.as<ClockTables>(),
    writer: 'one',
    now: () => fromMs + shiftMs + stepMs,
    monotonicMs: () => shiftMs,
  });
  const folder = freshFolder();
  world = makeWorld(folder);
  agent = await openRotation(sqlitePlace(folder), world, { now: clock.nowMs });
  await agent.createSecret();
  await set({ everySeconds: day });
  for (const step of [3_652 * day, -3_652 * day]) {
    const reported = agent.reports.length;
    stepMs = step * 1_000;
    pass(3_600);
    await agent.runOnce();
    expect(agent.reports).toHaveLength(reported);
    stepMs = 0;
    pass(day);
    await agent.runOnce();
    expect(agent.reports).toHaveLength(reported + 1);
  }
});

test('a secret is rotated after so many readings', async () => {
  await set({ afterUses: 3 });
  const read = async (times: number) => {
    for (let time = 0; time < times; time += 1) await agent.value();
    await agent.vault.accesses.settle();
    pass(60);
    await agent.runOnce();
  };
  await read(2);
  expect((await get()).lastRun).toBeNull();
  await read(1);
  expect((await get()).lastRun).toMatchObject({ trigger: 'uses', outcome: 'succeeded' });
  expect((await get()).usesSinceRotation).toBe(0);
  await read(2);
  expect((await get()).lastRun?.newVersion).toBe(2);
  await read(1);
  expect((await get()).lastRun?.newVersion).toBe(3);
});

test('a request rotates at once, also what is paused, and waits if it is told to', async () => {
  await set({ everySeconds: day, paused: true });
  pass(2 * day);
  await agent.runOnce();
  expect(agent.inForce()).toBe(firstValue);
  agent.runner.start();
  const rotated = await agent.rotations.rotateNow(agent.caller, ...name, 5_000);
  await agent.runner.stop();
  expect(rotated).toMatchObject({
    state: 'paused',
    nextDueAt: null,
    lastRun: { trigger: 'request', outcome: 'succeeded', requestedBy: 'system:test' },
  });
  const resumed = await agent.rotations.pause(...name, false);
  expect(resumed).toMatchObject({ state: 'scheduled', policy: { paused: false } });
});

test('a failure leaves the old value in force; retries wait longer and longer; the last one alerts', async () => {
  await set({ everySeconds: day, retry: { attempts: 3, firstDelaySeconds: 100 } });
  trouble('apply');
  pass(day + 1);
  const waits: number[] = [];
  for (let attempt = 1; attempt <= 3; attempt += 1) {
    await agent.runOnce();
    expect(agent.inForce()).toBe(firstValue);
    expect(await agent.value()).toBe(firstValue);
    const { retryAt, lastRun, state } = await get();
    expect(lastRun).toMatchObject({
      attempt,
      outcome: 'failed',
      problem: { step: 'apply', code: 'in-trouble' },
    });
    expect(state).toBe(attempt < 3 ? 'retrying' : 'gave-up');
    if (retryAt !== null) {
      const wait = Math.round((Date.parse(retryAt) - Date.now() - shiftMs) / 1_000);
      waits.push(wait);
      pass(wait - 5);
      await agent.runOnce();
      expect((await get()).lastRun?.attempt).toBe(attempt);
      pass(10);
    }
  }
  // Half of the bound, because the random number is 0 here.
  expect(waits).toEqual([50, 100]);
  expect(outcomes()).toEqual(['failed 1', 'failed 2', 'gave-up 3']);
  expect(await agent.states()).toEqual(['1 active current']);
  // At the next regular time it is tried anew.
  trouble();
  pass(day + 1);
  await agent.runOnce();
  expect(outcomes().at(-1)).toBe('succeeded 1');
  expect((await get()).state).toBe('scheduled');
  expect(agent.inForce()).toBe(await agent.value());
});

test.each(['apply-before', 'apply', 'verify'])('trouble in "%s" is rolled back', async (step) => {
  await set();
  await agent.rotations.rotateNow(agent.caller, ...name);
  trouble(step);
  // The value before cannot be verified either while verification is in trouble.
  await agent.runOnce();
  if (step === 'verify') {
    expect((await get()).state).toBe('running');
    trouble();
    pass(3_600);
    await agent.runOnce();
  }
  expect(agent.inForce()).toBe(firstValue);
  expect(await agent.value()).toBe(firstValue);
  expect(await agent.states()).toEqual(['1 active current']);
});

test('where neither value can be proved both are kept, it is told once, and what works wins', async () => {
  await set({ retry: { attempts: 2, firstDelaySeconds: 10 } });
  await agent.rotations.rotateNow(agent.caller, ...name);
  trouble('apply', 'verify', 'rollBack');
  for (let round = 0; round < 4; round += 1) {
    await agent.runOnce();
    pass(3_600);
  }
  expect(outcomes()).toEqual(['gave-up 1']);
  expect(await agent.states()).toEqual(['1 active current', '2 pending']);
  expect(await get()).toMatchObject({ state: 'running', lastRun: { phase: 'rolling-back' } });
  await expect(agent.rotations.remove(...name)).rejects.toMatchObject({ code: 'conflict' });
  // Rolling back stays impossible, but it shows that the new value works: so that one it is.
  trouble('rollBack');
  await agent.runOnce();
  expect(await agent.value()).toBe(agent.inForce());
  expect(agent.inForce()).not.toBe(firstValue);
  expect((await get()).lastRun?.outcome).toBe('succeeded');
});

test('a value that somebody wrote meanwhile stays where it works, and is replaced where it does not', async () => {
  for (const works of [true, false]) {
    await open();
    await set();
    await agent.rotations.rotateNow(agent.caller, ...name);
    crashAt = { step: 'verified', times: 1 };
    await agent.runOnce();
    await agent.vault.secrets.update(agent.caller, ...name, { value: 'written-by-hand' });
    if (works) writeFileSync(world.file, 'written-by-hand');
    pass(60);
    await agent.runOnce();
    expect(await agent.value()).toBe(agent.inForce());
    expect(agent.inForce() === 'written-by-hand').toBe(works);
    expect((await get()).lastRun?.outcome).toBe(works ? 'overtaken' : 'succeeded');
    expect((await agent.states()).filter((state) => state.includes('pending'))).toEqual([]);
  }
});

test('what somebody wrote while a rotation waits to be rolled back stays in force', async () => {
  await set();
  await agent.rotations.rotateNow(agent.caller, ...name);
  trouble('apply', 'verify', 'rollBack');
  await agent.runOnce();
  expect((await get()).lastRun?.phase).toBe('rolling-back');
  writeFileSync(world.file, 'written-by-hand');
  await agent.vault.secrets.update(agent.caller, ...name, { value: 'written-by-hand' });
  trouble();
  pass(3_600);
  await agent.runOnce();
  expect([agent.inForce(), await agent.value()]).toEqual(['written-by-hand', 'written-by-hand']);
  expect((await get()).lastRun?.outcome).toBe('overtaken');
  expect((await agent.states()).filter((state) => state.includes('pending'))).toEqual([]);
});

test('the version before stays readable for the overlap, and then is retired', async () => {
  await set({ overlapSeconds: 600 });
  await agent.rotations.rotateNow(agent.caller, ...name);
  await agent.runOnce();
  expect((await get()).retiring).toMatchObject([{ version: 1 }]);
  expect((await agent.vault.secrets.readValue(agent.caller, ...name, { version: 1 })).value).toBe(
    firstValue,
  );
  pass(590);
  await agent.runOnce();
  expect(await agent.states()).toEqual(['1 active', '2 active current']);
  pass(11);
  await agent.runOnce();
  expect(await agent.states()).toEqual(['1 deleted', '2 active current']);
  expect((await get()).retiring).toEqual([]);
});

test('of the versions before so many wait for their overlap; the oldest beyond are retired at once', async () => {
  await set({ overlapSeconds: day });
  const secretId = (await agent.vault.secrets.get(...name)).id;
  const nowMs = Date.now() + shiftMs;
  const waiting = Array.from({ length: rotatorLimits.retiringPerSecret }, (_, index) => ({
    secret_id: secretId,
    version: 1_000 + index,
    due_at_ms: nowMs + day * 1_000,
    failures: 0,
  }));
  await agent.vault.store
    .as<RotationSchema>()
    .write((queries) => queries.insertInto('rotation_retirement').values(waiting).execute());
  await agent.rotations.rotateNow(agent.caller, ...name);
  await agent.runOnce();
  const later = (await get()).retiring.filter(({ at }) => Date.parse(at) > nowMs + 60_000);
  expect(later.map(({ version }) => version).sort()).toEqual(waiting.map(({ version }) => version));
  await agent.runOnce();
  expect(await agent.states()).toEqual(['1 deleted', '2 active current']);
});

test('a notice is given ahead of time, once for each time', async () => {
  await set({ everySeconds: day, noticeSeconds: 3_600 });
  await agent.runOnce();
  pass(day - 3_599);
  await agent.runOnce();
  await agent.runOnce();
  expect(outcomes()).toEqual(['due-soon 0']);
  pass(3_600);
  await agent.runOnce();
  pass(day - 3_500);
  await agent.runOnce();
  expect(outcomes()).toEqual(['due-soon 0', 'succeeded 1', 'due-soon 0']);
});

test('what a policy forbids fails as an attempt; while the audit is away nothing is done, and later it is', async () => {
  await set({ everySeconds: day, retry: { attempts: 2 } });
  pass(day + 1);
  isForbidden = true;
  await agent.runOnce();
  expect((await get()).lastRun).toMatchObject({ outcome: 'failed', problem: { code: 'denied' } });
  isForbidden = false;
  isAuditAway = true;
  pass(3_600);
  await agent.runOnce();
  expect(await get()).toMatchObject({
    state: 'running',
    lastRun: { attempt: 2, newVersion: null },
  });
  expect(agent.inForce()).toBe(firstValue);
  isAuditAway = false;
  pass(6);
  await agent.runOnce();
  expect((await get()).lastRun).toMatchObject({ attempt: 2, outcome: 'succeeded' });
});

test('another secret that a rotator needs is read through the door', async () => {
  await agent.createSecret('admin', 'credential');
  const rotator = (credential: string) => ({
    rotator: { kind: 'custom', rotator: 'world', settings: { file: world.file, credential } },
  });
  await set(rotator('admin'));
  await agent.rotations.rotateNow(agent.caller, ...name);
  await agent.runOnce();
  expect((await get()).lastRun?.outcome).toBe('succeeded');
  expect(errands.slice(0, 2)).toEqual(['rotation.run db/password', 'rotation.read-secret admin']);
});

test('a deleted secret is left alone; the rotation of a destroyed one goes with it', async () => {
  await set({ everySeconds: day });
  await agent.vault.secrets.delete(agent.caller, ...name);
  pass(day + 1);
  await agent.runOnce();
  expect(agent.inForce()).toBe(firstValue);
  await agent.vault.secrets.undelete(agent.caller, ...name);
  pass(3_601);
  await agent.runOnce();
  expect(agent.inForce()).not.toBe(firstValue);
  await agent.vault.secrets.destroy(agent.caller, ...name);
  pass(2 * day);
  await agent.runOnce();
  const { rows } = await sql`select * from rotation`.execute(agent.vault.store.db);
  expect(rows).toEqual([]);
  expect(agent.errors).toEqual([]);
});

test('a policy that cannot work is refused with what is wrong', async () => {
  const refused: [object, RegExp][] = [
    [{ rotator: { kind: 'script', script: 'none' } }, /no rotation\.scripts\.none/],
    [{ rotator: { kind: 'custom', rotator: 'none' } }, /no rotation\.rotators\.none/],
    [{ rotator: { kind: 'http', url: 'http://example.com/' } }, /https/],
    [{ rotator: { kind: 'generated', rules: { length: 4 } } }, /possible/],
    [{ rotator: { kind: 'postgresql', host: 'db' } }, /needs a user/],
    [{ schedule: { cron: 'often', timezone: 'UTC' } }, /cron/],
  ];
  for (const [given, message] of refused) {
    await expect(set(given)).rejects.toMatchObject({
      code: 'unprocessable',
      detail: expect.stringMatching(message),
    });
  }
  await expect(agent.rotations.get(...name)).rejects.toMatchObject({ code: 'not_found' });
  await expect(agent.rotations.get('payments', 'none')).rejects.toMatchObject({
    code: 'not_found',
  });
  await expect(agent.rotations.rotateNow(agent.caller, ...name)).rejects.toMatchObject({
    code: 'not_found',
    detail: expect.stringContaining('PUT'),
  });
});

test('a change that was not meant for this state is refused', async () => {
  const { etag } = await set();
  const changed = await agent.rotations.set(...name, agent.policy({ everySeconds: day }), etag);
  expect(changed.etag).not.toBe(etag);
  for (const change of [
    () => agent.rotations.set(...name, agent.policy(), etag),
    () => agent.rotations.pause(...name, true, etag),
    () => agent.rotations.remove(...name, etag),
  ]) {
    await expect(change()).rejects.toMatchObject({ code: 'precondition_failed' });
  }
  await agent.rotations.remove(...name, changed.etag);
  await expect(get()).rejects.toMatchObject({ code: 'not_found' });
});

test('the list has the next due first, in pages, by state and of what the caller sees', async () => {
  for (let index = 0; index < 7; index += 1) {
    await agent.createSecret(`item-${index}`, 'value');
    await agent.rotations.set(
      'payments',
      `item-${index}`,
      agent.policy(
        index === 3 ? {} : { everySeconds: day + ((index * 5) % 7) * 60, paused: index === 5 },
      ),
    );
  }
  const minutes = (item: string) =>
    item === 'item-3' ? Number.POSITIVE_INFINITY : (Number(item.slice(5)) * 5) % 7;
  const walk = async (query: object, sees?: (resource: { secret?: string }) => boolean) => {
    const names: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await agent.rotations.list(
        { limit: 2, ...query, ...(cursor === undefined ? {} : { cursor }) },
        sees,
      );
      names.push(...page.items.map(({ secret }) => secret));
      cursor = page.nextCursor ?? undefined;
    } while (cursor !== undefined);
    return names;
  };
  // By minutes after the first: (index * 5) % 7; the one without a time comes last.
  const ordered = ['item-0', 'item-6', 'item-2', 'item-5', 'item-1', 'item-4', 'item-3'];
  ordered.sort((one, other) => minutes(one) - minutes(other));
  expect(await walk({})).toEqual(ordered);
  expect(await walk({ state: 'paused' })).toEqual(['item-5']);
  expect(await walk({}, ({ secret }) => secret === 'item-4')).toEqual(['item-4']);
  const dueBefore = new Date(Date.now() + (day + 150) * 1_000).toISOString();
  expect(await walk({ dueBefore })).toEqual(ordered.slice(0, 2));
});

test('no value is in the tables of rotations, in history or in what is reported', async () => {
  await set({ retry: { attempts: 2 } });
  const values = new Set([firstValue]);
  for (const steps of [[], ['apply'], ['verify'], []]) {
    await agent.rotations.rotateNow(agent.caller, ...name);
    trouble(...steps);
    await agent.runOnce();
    trouble();
    pass(7_200);
    await agent.runOnce();
    values.add(agent.inForce());
  }
  expect(values.size).toBeGreaterThan(2);
  const dump = JSON.stringify([
    agent.reports,
    agent.errors.map(String),
    await get(),
    await agent.rotations.history(...name, { limit: 50 }),
    ...(await Promise.all(
      ['rotation', 'rotation_run', 'rotation_retirement'].map(
        async (table) =>
          (
            await sql`select * from ${sql.table(table)}`.execute(agent.vault.store.db)
          ).rows,
      ),
    )),
  ]);
  for (const value of values) expect(dump).not.toContain(value);
});

test(
  'whatever fails, crashes and is written in between, a reader gets what is in force in the end',
  async () => {
    const steps = ['apply-before', 'apply', 'verify', 'rollBack'];
    const event = fc.oneof(
      fc.record({ kind: fc.constant('trouble' as const), steps: fc.subarray(steps) }),
      fc.record({ kind: fc.constant('crash' as const), step: fc.constantFrom(...runnerSteps) }),
      fc.record({
        kind: fc.constant('pass' as const),
        seconds: fc.integer({ min: 1, max: 4_000 }),
      }),
      fc.record({ kind: fc.constantFrom('rotate' as const, 'write' as const, 'run' as const) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(event, { minLength: 4, maxLength: 25 }), async (events) => {
        await closeVaults();
        await open();
        await set({ overlapSeconds: 300, retry: { attempts: 2, firstDelaySeconds: 30 } });
        let written = 0;
        for (const happening of events) {
          if (happening.kind === 'trouble') trouble(...happening.steps);
          if (happening.kind === 'crash') crashAt = { step: happening.step, times: 1 };
          if (happening.kind === 'pass') pass(happening.seconds);
          if (happening.kind === 'rotate') await agent.rotations.rotateNow(agent.caller, ...name);
          if (happening.kind === 'write') {
            // Somebody changes the password there, and notes it here.
            written += 1;
            writeFileSync(world.file, `by-hand-${written}`);
            await agent.vault.secrets.update(agent.caller, ...name, {
              value: `by-hand-${written}`,
            });
          }
          await agent.runOnce();
          // What is in force is never lost: one of the versions has it, at every moment.
          const { items } = await agent.vault.secrets.versions(...name, { limit: 100 });
          const kept = await Promise.all(
            items
              .filter(({ state }) => state !== 'destroyed')
              .map(async ({ version }) =>
                (await agent.vault.secrets.versionBytes(...name, version)).value.toString(),
              ),
          );
          expect(kept).toContain(agent.inForce());
        }
        trouble();
        crashAt = undefined;
        for (let round = 0; round < 6; round += 1) {
          pass(7_200);
          await agent.runOnce();
        }
        expect(await agent.value()).toBe(agent.inForce());
        expect(
          (await agent.states()).filter((state) => !state.includes('deleted')).length,
        ).toBeLessThanOrEqual(1 + written);
        const rotation = await get();
        expect(rotation.state).toMatch(/^(?:scheduled|gave-up)$/);
        expect(agent.errors.every((error) => error instanceof Crash)).toBe(true);
      }),
      { numRuns: isProof ? 3_000 : 12 },
    );
  },
  isProof ? 3_600_000 : 30_000,
);
