import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { AgentStore } from '../store/agent-store.ts';
import { clockLimits as limits } from './clock-limits.ts';
import { type ClockTables, clockMigrations } from './clock-tables.ts';
import { type ClockState, weigh } from './clock-weighing.ts';
import { type ClockDoubt, doubtText, requireBelieved, TrustedClock } from './trusted-clock.ts';

const day = 86_400_000;
const tenYears = 3_652 * day;
const start = Date.parse('2027-03-01T12:00:00Z');

let store: AgentStore | undefined;
afterEach(async () => {
  await store?.close();
  store = undefined;
});

/** A machine: real time, and what its clock shows. */
function machine(atMs = start) {
  let realMs = atMs;
  let offMs = 0;
  const doubts: (ClockDoubt | undefined)[] = [];
  return {
    doubts,
    pass: (ms: number) => {
      realMs += ms;
    },
    step: (ms: number) => {
      offMs += ms;
    },
    get realMs() {
      return realMs;
    },
    open: async (writer = 'one') => {
      store ??= await AgentStore.open({
        sql: { kind: 'sqlite', file: ':memory:' },
        migrations: clockMigrations,
      });
      return TrustedClock.open({
        store: store.as<ClockTables>(),
        writer,
        now: () => realMs + offMs,
        monotonicMs: () => realMs - atMs + 5_000,
        onDoubt: (doubt) => doubts.push(doubt),
      });
    },
  };
}

test.each([tenYears, -tenYears])(
  'a clock that steps by %d ms is doubted, and time goes on without it',
  async (jump) => {
    const one = machine();
    const clock = await one.open();
    one.pass(60_000);
    expect(clock.nowMs()).toBe(one.realMs);
    one.step(jump);
    one.pass(3_600_000);
    expect(clock.nowMs()).toBe(one.realMs);
    expect(clock.doubt).toEqual({ aheadMs: jump, isContradicted: false });
    expect(() => requireBelieved(clock)).toThrow(expect.objectContaining({ code: 'conflict' }));
    expect(doubtText({ aheadMs: jump, isContradicted: false })).toContain(
      jump > 0 ? 'ahead' : 'back',
    );
    // It comes back: nothing was lost, and nothing is left of it.
    one.step(-jump);
    one.pass(1_000);
    expect(clock.doubt).toBeUndefined();
    expect(clock.nowMs()).toBe(one.realMs);
    expect(() => requireBelieved(clock)).not.toThrow();
    expect(one.doubts).toEqual([{ aheadMs: jump, isContradicted: false }, undefined]);
  },
);

test('a step is believed when the clock has kept to it for a day, looked at often or seldom', async () => {
  const one = machine();
  const clock = await one.open();
  one.step(tenYears);
  expect(clock.doubt).toBeDefined();
  for (let hour = 0; hour < 23; hour += 1) {
    one.pass(3_600_000);
    expect(clock.doubt).toBeDefined();
  }
  one.pass(3_600_001);
  expect(clock.doubt).toBeUndefined();
  expect(clock.nowMs()).toBe(one.realMs + tenYears);
  one.step(-tenYears);
  expect(clock.doubt).toBeDefined();
  one.pass(day + 1);
  expect(clock.nowMs()).toBe(one.realMs);
});

test('a clock that steps on and on is never believed', async () => {
  const one = machine();
  const clock = await one.open();
  for (let hour = 0; hour < 72; hour += 1) {
    one.step(30 * day);
    one.pass(3_600_000);
    expect(clock.doubt).toBeDefined();
    expect(clock.nowMs()).toBe(one.realMs);
  }
});

test('what a restart finds is weighed against what the store saw last', async () => {
  const one = machine();
  await one.open();
  // A weekend without an agent, and an agent that slept.
  one.pass(3 * day);
  const slept = await one.open();
  expect(slept.doubt).toBeUndefined();
  expect(slept.nowMs()).toBe(one.realMs);
  // Between two runs the clock was set wrong.
  one.step(tenYears);
  one.pass(60_000);
  const wrong = await one.open();
  expect(wrong.doubt).toMatchObject({ aheadMs: tenYears + 60_000 });
  expect(wrong.nowMs()).toBe(one.realMs - 60_000);
  await wrong.look();
  // What is doubted is noted nowhere.
  one.step(-tenYears);
  expect((await one.open()).doubt).toBeUndefined();
});

test('two agents of a store hear each other: one that is right holds back one that is wrong', async () => {
  const right = machine();
  const wrong = machine();
  const one = await right.open('one');
  const two = await wrong.open('two');
  wrong.step(tenYears);
  for (let minute = 0; minute < 26 * 12; minute += 1) {
    for (const each of [right, wrong]) each.pass(limits.lookEveryMs);
    await one.look();
    await two.look();
  }
  expect(one.doubt).toBeUndefined();
  expect(two.doubt).toEqual({ aheadMs: tenYears, isContradicted: true });
  expect(two.nowMs()).toBe(wrong.realMs);
  // The other one steps too: now both say the same.
  wrong.step(-tenYears);
  for (const each of [right, wrong]) each.pass(limits.lookEveryMs);
  await one.look();
  await two.look();
  expect(two.doubt).toBeUndefined();
});

test('whatever a clock does for less than a day, believed time neither stands still nor jumps', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          passMs: fc.integer({ min: 1, max: 600_000 }),
          stepMs: fc.oneof(
            fc.constant(0),
            fc.integer({ min: -tenYears, max: tenYears }).filter((ms) => Math.abs(ms) > 8 * day),
          ),
        }),
        { maxLength: 140 },
      ),
      (moves) => {
        let state: ClockState = { believedMs: start };
        let realMs = start;
        let offMs = 0;
        for (const { passMs, stepMs } of moves) {
          realMs += passMs;
          // Away and back: never further than from the truth.
          offMs = stepMs === 0 ? 0 : stepMs;
          state = weigh(state, realMs + offMs, passMs);
          expect(state.believedMs).toBe(realMs);
          expect(state.step === undefined).toBe(offMs === 0);
        }
      },
    ),
  );
});
