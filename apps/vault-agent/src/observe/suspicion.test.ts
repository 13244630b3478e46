import { existsSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { AuditFact } from '../audit/audit-entry.ts';
import { fact } from '../audit/audit-log.fixture.ts';
import { DistinctCounter } from './distinct-counter.ts';
import { Lockouts, readLockouts, unlock } from './lockouts.ts';
import { type SuspicionRules, SuspicionWatch } from './suspicion.ts';
import { networkAround, SuspicionGuard } from './suspicion-guard.ts';
import { suspicionLimits } from './suspicion-limits.ts';

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const startMs = Date.UTC(2026, 0, 1);
const rules: SuspicionRules = {
  manyDenials: { count: 10, withinMs: 60_000, response: 'notice' },
  bulkReading: { secrets: 500, withinMs: 600_000, response: 'notice' },
  newNetwork: { response: 'notice' },
  unusualHour: { response: 'notice' },
};
const off: SuspicionRules = {
  manyDenials: { ...rules.manyDenials, response: 'off' },
  bulkReading: { ...rules.bulkReading, response: 'off' },
  newNetwork: { response: 'off' },
  unusualHour: { response: 'off' },
};
const watchWith = (changes: Partial<SuspicionRules>) =>
  new SuspicionWatch({ ...off, ...changes }, networkAround);
const by = (id: string, changes: Partial<AuditFact> = {}) =>
  fact(1, { identity: { kind: 'api_key', id, name: id }, ...changes });
const denied = (id: string) => by(id, { result: 'denied', code: 'permission_denied' });
const log = pino({ level: 'silent' });
const freshFile = (name: string) => join(mkdtempSync(join(tmpdir(), 'keystead-observe-')), name);

test('ten denials of one identity within a minute are suspicious, once; spread out or shared they are not', () => {
  const watch = watchWith({ manyDenials: rules.manyDenials });
  const found = [];
  for (let number = 0; number < 30; number += 1) {
    found.push(...watch.observe(denied('a'), startMs + number * 1_000));
  }
  expect(found).toMatchObject([{ kind: 'MANY_DENIALS', identity: { id: 'a' }, count: 10 }]);
  for (let number = 0; number < 100; number += 1) {
    expect(watch.observe(denied('slow'), startMs + number * 7_000)).toEqual([]);
    expect(watch.observe(denied(`many ${number % 20}`), startMs + number * 500)).toEqual([]);
    const waiting = { ...denied('patient'), context: { reason: 'approval_pending' } };
    expect(watch.observe(waiting, startMs + number * 500)).toEqual([]);
  }
});

test('five hundred different secrets in ten minutes are suspicious; one secret read a million times is not', () => {
  const watch = watchWith({ bulkReading: rules.bulkReading });
  for (let number = 0; number < 5_000; number += 1) {
    expect(watch.observe(by('app'), startMs + number)).toEqual([]);
  }
  let suspiciousAt = 0;
  for (let number = 0; number < 800 && suspiciousAt === 0; number += 1) {
    const read = by('thief', { resource: { namespace: 'n', secret: `s/${number}` } });
    if (watch.observe(read, startMs + number * 100).length > 0) suspiciousAt = number;
  }
  expect(suspiciousAt).toBeGreaterThan(450);
  expect(suspiciousAt).toBeLessThan(550);
  // As many over a day are a day's work.
  for (let number = 0; number < 800; number += 1) {
    const read = by('worker', { resource: { namespace: 'n', secret: `s/${number}` } });
    expect(watch.observe(read, startMs + number * 100_000)).toEqual([]);
  }
});

test('a network that an identity was never seen in is suspicious, also after a restart; its first is not', () => {
  const watch = watchWith({ newNetwork: rules.newNetwork });
  const from = (address: string) => by('a', { address });
  expect(watch.observe(from('10.0.0.1'), startMs)).toEqual([]);
  expect(watch.observe(from('10.0.0.99'), startMs)).toEqual([]);
  expect(watch.observe(from('10.0.1.1'), startMs)).toMatchObject([{ kind: 'NEW_NETWORK' }]);
  expect(watch.observe(from('10.0.1.2'), startMs)).toEqual([]);
  const later = watchWith({ newNetwork: rules.newNetwork });
  later.recall(JSON.parse(JSON.stringify(watch.learned())));
  expect(later.observe(from('10.0.1.7'), startMs)).toEqual([]);
  expect(later.observe(from('2001:db8::1'), startMs)).toMatchObject([{ kind: 'NEW_NETWORK' }]);
  expect(later.observe(from('2001:db8::ffff'), startMs)).toEqual([]);
});

test('an hour in which a known identity was never there is suspicious, once a day', () => {
  const watch = watchWith({ unusualHour: rules.unusualHour });
  for (let day = 0; day < 20; day += 1) {
    for (const hour of [9, 12, 16]) {
      expect(watch.observe(by('a'), startMs + day * dayMs + hour * hourMs)).toEqual([]);
    }
  }
  const night = startMs + 20 * dayMs + 3 * hourMs;
  expect(watch.observe(by('a'), night)).toMatchObject([{ kind: 'UNUSUAL_HOUR' }]);
  expect(watch.observe(by('a'), night + 60_000)).toEqual([]);
  // Beside a known hour is no news, and who is new has no habits.
  expect(watch.observe(by('a'), startMs + 20 * dayMs + 17 * hourMs)).toEqual([]);
  expect(watch.observe(by('new'), night)).toEqual([]);
});

test('the agent itself, who has no name, and what has only begun are not watched', () => {
  const watch = watchWith(rules);
  for (let number = 0; number < 100; number += 1) {
    const nobody = { kind: 'anonymous', id: '', name: '' } as const;
    const system = { kind: 'system', id: 'rotation', name: 'rotation' } as const;
    expect(watch.observe({ ...denied('a'), identity: nobody }, startMs)).toEqual([]);
    expect(watch.observe({ ...denied('a'), identity: system }, startMs)).toEqual([]);
    expect(watch.observe(by('a', { phase: 'started', result: 'started' }), startMs)).toEqual([]);
  }
});

test('however many identities come, what is kept is bounded', () => {
  const watch = watchWith(rules);
  for (let number = 0; number < 10_000; number += 1) {
    watch.observe(by(`key_${number}`, { address: `10.${number % 256}.0.1` }), startMs + number);
    watch.observe(by('constant', { address: `10.1.${number % 256}.1` }), startMs + number);
  }
  const learned = watch.learned();
  expect(Object.keys(learned).length).toBeLessThanOrEqual(suspicionLimits.identities);
  expect(learned['api_key constant']?.networks.length).toBe(suspicionLimits.networks);
});

test('whatever stands in the file of what was learned, the watch begins', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const watch = watchWith(rules);
      watch.recall(value);
      watch.recall({ 'api_key a': value });
      watch.observe(by('a'), startMs);
    }),
  );
});

test('different texts are counted within a few percent', () => {
  for (const number of [0, 1, 50, 500, 2_000, 5_000]) {
    const [one, other] = [new DistinctCounter(), new DistinctCounter()];
    for (let each = 0; each < number; each += 1) {
      for (let times = 0; times < 3; times += 1) one.add(`secret ${each}`);
      other.add(`secret ${each + Math.floor(number / 2)}`);
    }
    expect(Math.abs(one.count - number)).toBeLessThanOrEqual(2 + number * 0.06);
    const union = number + Math.floor(number / 2);
    expect(Math.abs(one.countWith(other) - union)).toBeLessThanOrEqual(2 + union * 0.06);
  }
});

test('a lock holds for its time and over a restart, and another identity does what it likes', () => {
  const file = freshFile('lockouts.json');
  const clock = { nowMs: startMs };
  const first = new Lockouts(file, log, () => clock.nowMs);
  const [a, b] = [by('a').identity, by('b').identity];
  expect(first.of(a)).toBeUndefined();
  first.lockIdentity(a, 'MANY_DENIALS', 900_000);
  const second = new Lockouts(file, log, () => clock.nowMs);
  for (const lockouts of [first, second]) {
    expect(lockouts.of(a)).toMatchObject({ reason: 'MANY_DENIALS' });
    expect(lockouts.of(b)).toBeUndefined();
  }
  clock.nowMs += 900_001;
  expect(second.of(a)).toBeUndefined();
  expect(readLockouts(file).identities).toEqual([]);
});

test('a locked agent is locked for everybody but itself, until its owner unlocks it', async () => {
  const file = freshFile('lockouts.json');
  const lockouts = new Lockouts(file, log);
  lockouts.start();
  lockouts.lockAgent('BULK_READING');
  expect(lockouts.of(by('a').identity)).toMatchObject({ reason: 'BULK_READING' });
  expect(lockouts.of({ kind: 'system', id: 'rotation' })).toBeUndefined();
  expect(unlock(file)).toBe(1);
  expect(existsSync(file)).toBe(false);
  await expect.poll(() => lockouts.of(by('a').identity), { timeout: 5_000 }).toBeUndefined();
  lockouts.stop();
});

test('what the owner unlocked does not come back with the next lock, nor when another one ends', () => {
  const file = freshFile('lockouts.json');
  const clock = { nowMs: startMs };
  const lockouts = new Lockouts(file, log, () => clock.nowMs);
  const [a, b, c] = [by('a').identity, by('b').identity, by('c').identity];
  lockouts.lockIdentity(a, 'MANY_DENIALS', 900_000);
  lockouts.lockIdentity(b, 'MANY_DENIALS', 60_000);
  expect(unlock(file)).toBe(2);
  // Before it has looked.
  lockouts.lockIdentity(c, 'MANY_DENIALS', 900_000);
  expect(lockouts.of(a)).toBeUndefined();
  expect(readLockouts(file).identities).toMatchObject([{ id: c.id }]);
  lockouts.lockIdentity(b, 'MANY_DENIALS', 60_000);
  expect(unlock(file)).toBe(2);
  clock.nowMs += 60_000;
  expect(lockouts.of(b)).toBeUndefined();
  expect(lockouts.of(c)).toBeUndefined();
  expect(existsSync(file)).toBe(false);
});

test('a file of locks that cannot be read locks, rather than opens', () => {
  const file = freshFile('lockouts.json');
  writeFileSync(file, '{"agent": nonsense');
  expect(new Lockouts(file, log).of(by('a').identity)).toBeDefined();
});

test('what is suspicious is told and locks, and what the lock refuses is not suspicious again', () => {
  const lockouts = new Lockouts(freshFile('lockouts.json'), log);
  const told: string[] = [];
  const guard = new SuspicionGuard({
    rules: { ...off, manyDenials: { ...rules.manyDenials, response: 'lock_identity' } },
    lockMs: 60_000,
    lockouts,
    learnedFile: freshFile('learned.json'),
    notice: (kind, { identity }) => told.push(`${kind} ${identity?.id}`),
    log,
  });
  for (let number = 0; number < 10; number += 1) guard.recorded(denied('a'));
  expect(told).toEqual(['MANY_DENIALS a', 'IDENTITY_LOCKED a']);
  expect(lockouts.of(by('a').identity)?.untilMs).toBeLessThanOrEqual(Date.now() + 60_000);
  expect(lockouts.of(by('a').identity)).toBeDefined();
  for (let number = 0; number < 50; number += 1) {
    guard.recorded({ ...denied('a'), context: { lockedFor: 'MANY_DENIALS' } });
  }
  expect(told).toHaveLength(2);
  guard.configure(
    { ...off, manyDenials: { ...rules.manyDenials, count: 2, response: 'lock_identity' } },
    7_200_000,
  );
  expect(lockouts.of(by('a').identity)).toBeDefined();
  for (let number = 0; number < 2; number += 1) guard.recorded(denied('b'));
  expect(lockouts.of(by('b').identity)?.untilMs).toBeGreaterThan(Date.now() + 3_600_000);
});

test('rules that change in a run go by what was counted and learned, and a new response is given at once', () => {
  const watch = watchWith({ manyDenials: rules.manyDenials });
  const from = (address: string) => by('b', { address });
  for (let number = 0; number < 9; number += 1) {
    expect(watch.observe(denied('a'), startMs + number)).toEqual([]);
  }
  expect(watch.observe(denied('a'), startMs + 9)).toMatchObject([{ response: 'notice' }]);
  expect(watch.observe(denied('a'), startMs + 10)).toEqual([]);
  watch.rules = {
    ...off,
    manyDenials: { ...rules.manyDenials, response: 'lock_identity' },
    newNetwork: { response: 'lock_agent' },
  };
  expect(watch.observe(denied('a'), startMs + 11)).toMatchObject([{ response: 'lock_identity' }]);
  expect(watch.observe(from('10.0.0.1'), startMs)).toEqual([]);
  watch.rules = { ...off, newNetwork: { response: 'notice' } };
  expect(watch.observe(from('10.9.0.1'), startMs)).toMatchObject([{ response: 'notice' }]);
  expect(watch.observe(denied('a'), startMs + 12)).toEqual([]);
  // Fewer are asked for: what was counted is enough.
  watch.rules = { ...off, manyDenials: { ...rules.manyDenials, count: 2 } };
  expect(watch.observe(denied('a'), startMs + 13)).toEqual([]);
  expect(watch.observe(denied('a'), startMs + 14)).toMatchObject([{ count: 2 }]);
});

test('what was told and counted by a clock that was ahead silences nothing once it is right', () => {
  const watch = watchWith({ manyDenials: rules.manyDenials });
  const findings = (atMs: number, count: number) =>
    Array.from({ length: count }, (_, number) => watch.observe(denied('a'), atMs + number)).flat();
  expect(findings(startMs + dayMs, 10)).toHaveLength(1);
  expect(findings(startMs, 9)).toEqual([]);
  expect(findings(startMs + 9, 1)).toMatchObject([{ kind: 'MANY_DENIALS', count: 10 }]);
});

test('after a lock is counted anew, and who goes on is locked again, however long the window is', () => {
  const watch = watchWith({
    manyDenials: { count: 3, withinMs: 7 * dayMs, response: 'lock_agent' },
    bulkReading: { secrets: 10, withinMs: 7 * dayMs, response: 'lock_identity' },
  });
  const locks = Array.from({ length: 9 }, (_, number) =>
    watch.observe(denied('a'), startMs + number),
  );
  expect(locks.map((found) => found.length)).toEqual([0, 0, 1, 0, 0, 1, 0, 0, 1]);
  const reads = Array.from({ length: 40 }, (_, number) =>
    watch.observe(by('b', { resource: { namespace: 'n', secret: `s/${number}` } }), startMs),
  );
  expect(reads.flat().length).toBeGreaterThanOrEqual(3);
  expect(reads.flat().length).toBeLessThanOrEqual(4);
});

test('watching costs microseconds', () => {
  const watch = watchWith(rules);
  const facts = Array.from({ length: 2_000 }, (_, number) =>
    by(`key_${number % 50}`, { resource: { namespace: 'n', secret: `s/${number}` } }),
  );
  const sinceMs = performance.now();
  for (let round = 0; round < 10; round += 1) {
    for (const each of facts) watch.observe(each, startMs + round);
  }
  expect((performance.now() - sinceMs) / 20_000).toBeLessThan(0.1);
});
