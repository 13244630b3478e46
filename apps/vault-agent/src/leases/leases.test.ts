import { openSql, type SqlStore } from '@keystead/vault-store/sql/sql-store';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { migrate } from '../store/migrations.ts';
import { type LeaseTables, leaseMigrations } from './lease-tables.ts';
import { type HeldLease, LeaseLost, Leases } from './leases.ts';

interface Schema extends LeaseTables {
  written: { position: number; token: number };
}

const ttlMs = 10_000;
let store: SqlStore<Schema>;
let databaseMs: number;

beforeEach(async () => {
  databaseMs = 1_000_000;
  store = await openSql<Schema>({ kind: 'sqlite', file: ':memory:' });
  await migrate(store as unknown as SqlStore<unknown>, leaseMigrations, 0);
  await store.write(async (queries) => {
    await sql`create table written (position integer primary key, token integer not null)`.execute(
      queries,
    );
  });
});
afterEach(() => store.close());

const agent = (holder: string, monotonicMs: () => number) =>
  new Leases({ store, holder, monotonicMs, databaseNow: () => sql<number>`${databaseMs}` });

const write = (lease: HeldLease) =>
  store.write(async (queries) => {
    await lease.fence(queries);
    await sql`insert into written (token) values (${lease.token})`.execute(queries);
  });

test('one of several has the lease, the others have it after its end, with a larger token', async () => {
  const [one, two] = [agent('one', () => databaseMs), agent('two', () => databaseMs)];
  const first = await one.acquire('rotation', ttlMs);
  expect(first?.token).toBe(1);
  expect(await two.acquire('rotation', ttlMs)).toBeUndefined();
  expect(await two.acquire('backup', ttlMs)).toBeDefined();
  databaseMs += ttlMs - 1;
  expect(await two.acquire('rotation', ttlMs)).toBeUndefined();
  databaseMs += 1;
  const second = await two.acquire('rotation', ttlMs);
  expect(second?.token).toBe(2);
  await expect(write(first as HeldLease)).rejects.toThrow(LeaseLost);
  await write(second as HeldLease);
  expect(first?.signal.aborted).toBe(true);
});

test('a renewed lease stays; a released one is free at once', async () => {
  const [one, two] = [agent('one', () => databaseMs), agent('two', () => databaseMs)];
  const lease = await one.acquire('rotation', ttlMs);
  for (let round = 0; round < 5; round += 1) {
    databaseMs += ttlMs - 1;
    await lease?.renew();
    expect(await two.acquire('rotation', ttlMs)).toBeUndefined();
  }
  await lease?.release();
  await expect(write(lease as HeldLease)).rejects.toThrow(LeaseLost);
  await expect(lease?.renew()).resolves.toBeUndefined();
  expect((await two.acquire('rotation', ttlMs))?.token).toBe(2);
  await expect(lease?.renew()).rejects.toThrow(LeaseLost);
});

test('a holder without a sign of life is replaced though the database clock went back', async () => {
  let monotonicMs = 0;
  const [one, two] = [agent('one', () => 0), agent('two', () => monotonicMs)];
  await one.acquire('rotation', ttlMs);
  databaseMs -= 3_600_000;
  expect(await two.acquire('rotation', ttlMs)).toBeUndefined();
  monotonicMs += ttlMs;
  expect(await two.acquire('rotation', ttlMs)).toBeUndefined();
  monotonicMs += 1;
  expect((await two.acquire('rotation', ttlMs))?.token).toBe(2);
});

test('hold does the work of one, renews meanwhile and gives back', async () => {
  const real = (holder: string) => new Leases({ store, holder });
  const [one, two] = [real('one'), real('two')];
  const entered = Promise.withResolvers<void>();
  const leave = Promise.withResolvers<string>();
  const first = one.hold('rotation', 1_000, async (lease) => {
    entered.resolve();
    const result = await leave.promise;
    expect(lease.signal.aborted).toBe(false);
    return result;
  });
  await entered.promise;
  const begun = performance.now();
  while (performance.now() - begun < 1_500) {
    expect(await two.hold('rotation', 1_000, async () => 'no')).toBeUndefined();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  leave.resolve('done');
  expect(await first).toEqual({ result: 'done' });
  expect(await two.hold('rotation', 1_000, async () => 'now')).toEqual({ result: 'now' });
});

type Step =
  | { kind: 'acquire' | 'renew' | 'write' | 'release' | 'forget'; agent: number }
  | { kind: 'pass'; ms: number }
  | { kind: 'jump'; ms: number }
  | { kind: 'sleep'; agent: number; ms: number };

const agents = 4;
const who = fc.nat({ max: agents - 1 });
const acting = fc.record({
  kind: fc.constantFrom('acquire', 'acquire', 'renew', 'write', 'write', 'release', 'forget'),
  agent: who,
}) as fc.Arbitrary<Step>;
const passing = fc.record({
  kind: fc.constant('pass' as const),
  ms: fc.integer({ min: 1, max: 6_000 }),
});
/** A suspended machine: its monotonic clock stands while the world goes on. */
const sleeping = fc.record({
  kind: fc.constant('sleep' as const),
  agent: who,
  ms: fc.integer({ min: 1, max: 40_000 }),
});
const jumping = fc.record({
  kind: fc.constant('jump' as const),
  ms: fc.oneof(
    fc.integer({ min: -3_600_000, max: 3_600_000 }),
    fc.constantFrom(-315_360_000_000, 315_360_000_000),
  ),
});

async function simulate(steps: Step[]): Promise<void> {
  await store.write(async (queries) => {
    await queries.deleteFrom('lease').execute();
    await queries.deleteFrom('written').execute();
  });
  const clocks = Array.from({ length: agents }, () => 0);
  const pass = (ms: number, sleeper?: number) => {
    databaseMs += ms;
    clocks.forEach((_, index) => {
      if (index !== sleeper) clocks[index] = (clocks[index] ?? 0) + ms;
    });
  };
  const leasesOf = clocks.map((_, index) => agent(`agent-${index}`, () => clocks[index] ?? 0));
  const held: (HeldLease | undefined)[] = clocks.map(() => undefined);
  let clocksAgree = true;
  let issued = 0;
  for (const step of steps) {
    if (step.kind === 'pass') pass(step.ms);
    else if (step.kind === 'sleep') {
      pass(step.ms, step.agent);
      clocksAgree = false;
    } else if (step.kind === 'jump') {
      databaseMs = Math.max(1, databaseMs + step.ms);
      clocksAgree = false;
    } else {
      const lease = held[step.agent];
      if (step.kind === 'acquire') {
        const next = await leasesOf[step.agent]?.acquire('duty', ttlMs);
        if (next !== undefined) {
          expect(next.token).toBeGreaterThan(issued);
          issued = next.token;
          held[step.agent] = next;
        }
      } else if (step.kind === 'forget') held[step.agent] = undefined;
      else if (lease === undefined) continue;
      else if (step.kind === 'release') {
        await lease.release();
        held[step.agent] = undefined;
      } else {
        const done = await (step.kind === 'write' ? write(lease) : lease.renew()).then(
          () => true,
          (error: unknown) => {
            expect(error).toBeInstanceOf(LeaseLost);
            return false;
          },
        );
        // Whoever was overtaken writes nothing, whatever the clocks say.
        if (done) expect(lease.token).toBe(issued);
      }
    }
    if (clocksAgree) expect(held.filter((lease) => lease?.isHeld).length).toBeLessThanOrEqual(1);
  }
  const { rows } = await sql<{
    token: number;
  }>`select token from written order by position`.execute(store.db);
  const tokens = rows.map(({ token }) => token);
  expect(tokens).toEqual(tokens.toSorted((one, other) => one - other));
  // However it went, a term without signs of life later somebody can have it.
  await leasesOf[0]?.acquire('duty', ttlMs);
  pass(ttlMs + 1);
  const last = await leasesOf[0]?.acquire('duty', ttlMs);
  expect(last).toBeDefined();
  await write(last as HeldLease);
}

test('whatever pauses, sleeps and clock jumps come, no overtaken holder writes, and none blocks for ever', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof({ arbitrary: acting, weight: 6 }, passing, sleeping, jumping), {
        minLength: 5,
        maxLength: 60,
      }),
      (steps) => simulate(steps as Step[]),
    ),
    { numRuns: process.env.KEYSTEAD_PROVE === 'full' ? 20_000 : 600 },
  );
});
