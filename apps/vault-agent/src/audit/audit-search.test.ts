import { appendFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { entryText } from './audit-commands.ts';
import type { AuditFact, OperationLine } from './audit-entry.ts';
import { parseLine } from './audit-entry.ts';
import { fact, freshLogFile, openTrail, readLog } from './audit-log.fixture.ts';
import { type AuditFilter, AuditSearch, matches } from './audit-search.ts';
import type { AuditTrail } from './audit-trail.ts';

const startMs = Date.UTC(2026, 0, 1);
let logFile: string;
let trail: AuditTrail;
let written: OperationLine[];
let next = 0;
const clock = { nowMs: startMs };

function varied(number: number): AuditFact {
  return fact(number, {
    action: (['secret.read-value', 'secret.update', 'namespace.list'] as const)[
      number % 3
    ] as never,
    operation: `operation.${number % 5}`,
    resource: {
      namespace: ['production', 'staging', 'a "quoted" näme'][number % 3] ?? '',
      secret: `path/${number % 7}`,
    },
    result: (['done', 'denied', 'failed'] as const)[number % 4] ?? 'done',
    address: `10.0.0.${number % 4}`,
  });
}

async function write(count: number): Promise<void> {
  for (let batch = 0; batch < count; batch += 25) {
    // Clocks go back as well.
    clock.nowMs += batch % 100 === 75 ? -20_000 : 10_000;
    await Promise.all(
      Array.from({ length: 25 }, () => {
        next += 1;
        return trail.record(varied(next));
      }),
    );
  }
  written = [...readLog(logFile).values()]
    .flat()
    .map((line) => parseLine(line))
    .filter((line): line is OperationLine => line?.type === 'operation')
    .reverse();
}

beforeAll(async () => {
  logFile = freshLogFile();
  trail = await openTrail(logFile, { rotationBytes: 200_000, now: () => clock.nowMs });
  await write(2_000);
});
afterAll(() => trail.stop());

async function all(search: AuditSearch, filter: AuditFilter, limit: number) {
  const found: OperationLine[] = [];
  let cursor: string | undefined;
  for (let pages = 0; pages < 5_000; pages += 1) {
    const page = await search.operations(filter, { limit, cursor });
    expect(page.items.length).toBeLessThanOrEqual(limit);
    found.push(...page.items);
    if (page.nextCursor === null) return found;
    cursor = page.nextCursor;
  }
  throw new Error('the pages have no end');
}

const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const filters: fc.Arbitrary<AuditFilter> = fc.record({
  fromMs: optional(fc.integer({ min: startMs - 50_000, max: startMs + 900_000 })),
  toMs: optional(fc.integer({ min: startMs - 50_000, max: startMs + 900_000 })),
  identity: optional(fc.constantFrom('key_1', 'robot 2', 'nobody')),
  action: optional(fc.constantFrom('secret.update', 'namespace.list')),
  operation: optional(fc.constantFrom('operation.1', 'operation.9')),
  namespace: optional(fc.constantFrom('production', 'a "quoted" näme')),
  secret: optional(fc.constantFrom('path/3', 'path')),
  result: optional(fc.constantFrom('done', 'denied')),
  address: optional(fc.constantFrom('10.0.0.1')),
});

const naive = (filter: AuditFilter) =>
  written.filter(
    (entry) =>
      matches(entry, filter) &&
      Date.parse(entry.at) >= (filter.fromMs ?? 0) &&
      Date.parse(entry.at) < (filter.toMs ?? Number.POSITIVE_INFINITY),
  );

test('pages hold exactly what matches, newest first, whatever the filter and the page size', async () => {
  const search = new AuditSearch(logFile);
  await fc.assert(
    fc.asyncProperty(filters, fc.integer({ min: 1, max: 700 }), async (filter, limit) => {
      expect(await all(search, filter, limit)).toEqual(naive(filter));
    }),
    { numRuns: 40 },
  );
});

test('what was written since is found, also over a file that was closed meanwhile', async () => {
  const search = new AuditSearch(logFile);
  await search.operations({}, { limit: 10 });
  await write(1_000);
  expect(await all(search, { secret: 'path/3' }, 100)).toEqual(naive({ secret: 'path/3' }));
});

test('a cursor goes on from its place while entries are added', async () => {
  const search = new AuditSearch(logFile);
  const first = await search.operations({}, { limit: 5 });
  await write(25);
  const second = await search.operations({}, { limit: 5, cursor: first.nextCursor ?? '' });
  const before = (first.items.at(-1)?.sequence ?? 0) - 1;
  expect(second.items[0]?.sequence).toBeLessThanOrEqual(before);
  expect(written.filter(({ sequence }) => sequence <= before).slice(0, 5)).toEqual(second.items);
});

test('who may see a part gets pages of that part', async () => {
  const search = new AuditSearch(logFile);
  const page = await search.operations(
    {},
    { limit: 50 },
    ({ namespace }) => namespace === 'staging',
  );
  expect(page.items).toHaveLength(50);
  expect(new Set(page.items.map(({ namespace }) => namespace))).toEqual(new Set(['staging']));
});

test('a cursor of something else is refused', async () => {
  const search = new AuditSearch(logFile);
  for (const cursor of ['', 'x', 'YmVmb3JlOi0x', Buffer.from('before:1e9').toString('base64url')]) {
    await expect(search.operations({}, { limit: 1, cursor })).rejects.toMatchObject({
      code: 'invalid_cursor',
    });
  }
});

test('heads are listed with the chain and the key that they are checked by', async () => {
  const search = new AuditSearch(logFile);
  const { items } = await search.heads({ limit: 10 });
  expect(items[0]).toMatchObject({
    chain: expect.stringMatching(/^[0-9a-f]{32}$/),
    hash: expect.stringMatching(/^[0-9a-f]{64}$/),
    signerKey: expect.stringMatching(/^[A-Za-z0-9+/]{59}=$/),
  });
});

test('a line that is being written does not disturb', async () => {
  const search = new AuditSearch(logFile);
  const before = await search.operations({}, { limit: 5 });
  await trail.stop();
  appendFileSync(logFile, '{"sequence":9999999,"at":"2026-01-01T00:');
  expect(await search.operations({}, { limit: 5 })).toEqual(before);
});

test('a line for a person says which roles and policies decided, where any did', () => {
  const entry = written[0] as OperationLine;
  const decided = { ...entry, decidedBy: ['reader', 'office-hours'] };
  expect(entryText(decided)).toContain('decided by reader, office-hours\n');
  const { decidedBy: _decidedBy, ...undecided } = entry;
  expect(entryText(undecided)).not.toContain('decided');
  const refused = { ...undecided, code: 'invalid_credentials', context: { reason: 'expired' } };
  expect(entryText(refused as OperationLine)).toContain('invalid_credentials  (expired)\n');
});
