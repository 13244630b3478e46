import { mkdtempSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import {
  AuditHead,
  OperationCounts,
  SecurityNotice,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { newUuid } from '@keystead/contracts/ids';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { DurableQueue, type EventKind, eventRanks, QueueInUse } from './durable-queue.ts';

const open: DurableQueue[] = [];
afterEach(() => {
  for (const queue of open.splice(0)) queue.close();
});

function freshFile(): string {
  return join(mkdtempSync(join(tmpdir(), 'keystead-queue-')), 'queue.db');
}

function begin(file: string, bootId = newUuid(), maxEvents = 1_000): DurableQueue {
  const queue = new DurableQueue(
    file,
    { bootId, startedAtUnixMs: 1, configuration: { server: 'a' } },
    maxEvents,
  );
  open.push(queue);
  return queue;
}

function end(queue: DurableQueue): void {
  open.splice(open.indexOf(queue), 1);
  queue.close();
}

const jump = (jumpMs: number) => ({ $case: 'clockJumped' as const, value: { jumpMs } });
const jumpsOf = (queue: DurableQueue) =>
  queue
    .after(0, 10_000)
    .map(({ event }) => (event.kind?.$case === 'clockJumped' ? event.kind.value.jumpMs : 0));

test('an event keeps its run, sequence and content over a restart: a replay is the same message', () => {
  const file = freshFile();
  const bootId = newUuid();
  const first = begin(file, bootId);
  first.append(jump(1), 100);
  first.append(jump(2), 200);
  const before = first.after(0, 10);
  end(first);
  const second = begin(file);
  expect(second.after(0, 10)).toEqual(before);
  expect(before.map(({ sequence }) => sequence)).toEqual([1, 2]);
  expect(before.every((waiting) => waiting.bootId === bootId)).toBe(true);
  second.append(jump(3), 300);
  expect(second.after(0, 10).at(-1)).toMatchObject({ sequence: 1 });
});

test('a receipt removes exactly what it names', () => {
  const bootId = newUuid();
  const queue = begin(freshFile(), bootId);
  for (let count = 1; count <= 5; count += 1) queue.append(jump(count), count);
  queue.receipt(bootId, [2, 4, 4, 99], 10);
  queue.receipt(newUuid(), [1], 10);
  expect(jumpsOf(queue)).toEqual([1, 3, 5]);
  expect(queue.waiting).toBe(3);
});

test('what a full queue cannot keep is counted, and the count is told when there is room', () => {
  const bootId = newUuid();
  const queue = begin(freshFile(), bootId, 3);
  const kept = [1, 2, 3, 4, 5].map((number) => queue.append(jump(number), number * 1_000));
  expect(kept).toEqual([true, true, true, false, false]);
  expect(queue.isFull).toBe(true);
  expect(queue.refused).toBe(2);
  queue.receipt(bootId, [1, 2, 3], 9_000);
  expect(queue.after(0, 10)).toMatchObject([
    {
      sequence: 4,
      event: {
        occurredAtUnixMs: 9_000,
        kind: {
          $case: 'queueOverflowed',
          value: { count: 2, firstAtUnixMs: 4_000, lastAtUnixMs: 5_000 },
        },
      },
    },
  ]);
});

const none = new Uint8Array();
const usage = (number: number): EventKind => ({
  $case: 'operationCounts',
  value: { ...OperationCounts.decode(none), periodStartUnixMs: number },
});
const head = (sequence: number, chain = 'a'): EventKind => ({
  $case: 'auditHead',
  value: { ...AuditHead.decode(none), chainId: Buffer.from(chain), sequence },
});
const notice = (count: number): EventKind => ({
  $case: 'securityNotice',
  value: { ...SecurityNotice.decode(none), count },
});
const kindsOf = (queue: DurableQueue) =>
  queue.after(0, 10_000).map(({ event }) => event.kind as EventKind);

test('usage makes room first, then what else happened, then heads that a newer one covers', () => {
  const queue = begin(freshFile(), newUuid(), 4);
  expect(queue.append(usage(1), 1)).toBe(true);
  expect(queue.append(usage(2), 2)).toBe(true);
  // Usage fills at most half: the newer in the place of the oldest.
  expect(queue.append(usage(3), 3)).toBe(true);
  expect(kindsOf(queue)).toEqual([usage(2), usage(3)]);
  queue.append(jump(1), 4);
  queue.append(jump(2), 5);
  queue.append(head(1), 6);
  expect(kindsOf(queue)).toEqual([usage(3), jump(1), jump(2), head(1)]);
  queue.append(jump(3), 7);
  expect(kindsOf(queue)).toEqual([jump(1), jump(2), head(1), jump(3)]);
  expect(queue.append(jump(4), 8)).toBe(false);
  expect(queue.append(usage(4), 9)).toBe(false);
  queue.append(notice(1), 10);
  queue.append(head(2), 11);
  expect(kindsOf(queue)).toEqual([head(1), jump(3), notice(1), head(2)]);
  queue.append(head(3), 12);
  expect(kindsOf(queue)).toEqual([head(1), notice(1), head(2), head(3)]);
  queue.append(head(4), 13);
  queue.append(notice(2), 14);
  queue.append(notice(3), 15);
  expect(kindsOf(queue)).toEqual([notice(1), head(4), notice(2), notice(3)]);
  expect(queue.append(notice(4), 16)).toBe(false);
  expect(queue.append(head(5), 17)).toBe(true);
  expect(kindsOf(queue)).toEqual([notice(1), notice(2), notice(3), head(5)]);
  expect(queue.refused).toBe(13);
});

test('the newest head of each chain stays, whatever else comes and however full it is', () => {
  const file = freshFile();
  const queue = begin(file, newUuid(), 3);
  queue.append(head(1, 'commands'), 1);
  for (let number = 1; number <= 5; number += 1) queue.append(head(number, 'agent'), 1 + number);
  expect(kindsOf(queue)).toEqual([head(1, 'commands'), head(4, 'agent'), head(5, 'agent')]);
  queue.append(notice(1), 10);
  expect(queue.append(notice(2), 11)).toBe(false);
  expect(queue.append(jump(1), 12)).toBe(false);
  expect(kindsOf(queue)).toEqual([head(1, 'commands'), head(5, 'agent'), notice(1)]);
  // The first head of a chain comes in the place of a notice, and is known after a restart.
  end(queue);
  const later = begin(file, newUuid(), 3);
  expect(later.append(head(1, 'another'), 13)).toBe(true);
  later.append(head(6, 'agent'), 14);
  later.append(head(2, 'commands'), 15);
  expect(kindsOf(later)).toEqual([head(1, 'another'), head(6, 'agent'), head(2, 'commands')]);
  // More chains than there is room for: the oldest goes.
  later.append(head(1, 'fourth'), 16);
  expect(kindsOf(later)).toEqual([head(6, 'agent'), head(2, 'commands'), head(1, 'fourth')]);
});

test('whatever comes, the queue is bounded, and nothing of less worth stays at the cost of more', () => {
  const makers = [usage, jump, head, notice];
  fc.assert(
    fc.property(
      fc.array(fc.nat({ max: 3 }), { maxLength: 60 }),
      fc.integer({ min: 2, max: 12 }),
      (ranks, maxEvents) => {
        const queue = begin(freshFile(), newUuid(), maxEvents);
        const came = [0, 0, 0, 0];
        for (const [number, rank] of ranks.entries()) {
          queue.append((makers[rank] as typeof usage)(number + 1), number);
          came[rank] = (came[rank] ?? 0) + 1;
        }
        const kept = eventRanks.map((rank) => queue.waitingOf(rank));
        expect(queue.waiting).toBeLessThanOrEqual(maxEvents);
        expect(queue.waiting).toBe(kindsOf(queue).length);
        const hasHead = came[2] === 0 ? 0 : 1;
        expect(kept[3]).toBe(Math.min(came[3] ?? 0, maxEvents - hasHead));
        expect(kept[2]).toBe(Math.min(came[2] ?? 0, maxEvents - (kept[3] ?? 0)));
        // The newest head is always among those that are kept.
        const heads = ranks.flatMap((rank, number) => (rank === 2 ? [number + 1] : []));
        if (hasHead === 1) expect(kindsOf(queue)).toContainEqual(head(heads.at(-1) ?? 0));
        expect(queue.refused + queue.waiting).toBe(ranks.length);
        end(queue);
      },
    ),
    { numRuns: 40 },
  );
});

test('a queue of the version before is gone on with', () => {
  const file = freshFile();
  const queue = begin(file);
  queue.append(jump(1), 1);
  queue.append(jump(2), 2);
  end(queue);
  const database = new DatabaseSync(file);
  database.exec(`drop index event_by_rank; alter table event drop column rank;
    drop index event_by_chain; alter table event drop column chain;
    pragma user_version = 1;`);
  database.close();
  const later = begin(file);
  expect(jumpsOf(later)).toEqual([1, 2]);
  later.append(jump(3), 3);
  expect(later.waitingOf('ordinary')).toBe(3);
});

test('heads that a queue of the second version kept belong to their chains', () => {
  const file = freshFile();
  const queue = begin(file, newUuid(), 3);
  for (const event of [head(1, 'commands'), head(1, 'agent')]) queue.append(event, 1);
  end(queue);
  const database = new DatabaseSync(file);
  database.exec(`drop index event_by_chain; alter table event drop column chain;
    pragma user_version = 2;`);
  database.close();
  const later = begin(file, newUuid(), 3);
  for (const number of [2, 3, 4]) later.append(head(number, 'agent'), number);
  expect(kindsOf(later)).toEqual([head(1, 'commands'), head(3, 'agent'), head(4, 'agent')]);
});

test('the count of a full queue survives a restart', () => {
  const file = freshFile();
  const bootId = newUuid();
  const queue = begin(file, bootId, 1);
  queue.append(jump(1), 1);
  queue.append(jump(2), 2);
  end(queue);
  const later = begin(file, newUuid(), 1);
  later.receipt(bootId, [1], 5);
  expect(later.after(0, 10)).toMatchObject([
    { event: { kind: { $case: 'queueOverflowed', value: { count: 1 } } } },
  ]);
});

test('one process at a time, and no lock stays behind', () => {
  const file = freshFile();
  const queue = begin(file);
  expect(() => begin(file)).toThrow(QueueInUse);
  end(queue);
  begin(file);
});

test('the run before this one is known, and whether it ended in order', () => {
  const file = freshFile();
  const bootId = newUuid();
  const first = begin(file, bootId);
  expect(first.previousRun).toBeUndefined();
  first.endCleanly();
  end(first);
  const second = begin(file);
  expect(second.previousRun).toEqual({
    bootId,
    endedCleanly: true,
    configuration: { server: 'a' },
  });
  end(second);
  expect(begin(file).previousRun?.endedCleanly).toBe(false);
});

test('the file is for its owner alone', () => {
  const file = freshFile();
  begin(file);
  expect(statSync(file).mode & 0o077).toBe(0);
});

test('whatever the order of events, receipts and restarts, nothing is lost and nothing doubled', () => {
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.constant('append' as const) },
    { weight: 3, arbitrary: fc.nat({ max: 5 }) },
    { weight: 1, arbitrary: fc.constant('restart' as const) },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const file = freshFile();
      let queue = begin(file);
      const expected: number[] = [];
      let next = 0;
      for (const what of steps) {
        if (what === 'append') {
          next += 1;
          queue.append(jump(next), next);
          expected.push(next);
        } else if (what === 'restart') {
          end(queue);
          queue = begin(file);
        } else {
          const waiting = queue.after(0, 100)[what];
          if (waiting === undefined) continue;
          queue.receipt(waiting.bootId, [waiting.sequence], 1);
          expected.splice(what, 1);
        }
      }
      expect(jumpsOf(queue)).toEqual(expected);
      const keys = queue.after(0, 100).map(({ bootId, sequence }) => `${bootId} ${sequence}`);
      expect(new Set(keys).size).toBe(keys.length);
      end(queue);
    }),
    { numRuns: 25 },
  );
});
