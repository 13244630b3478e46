/**
 * A rekey that is killed, again and again, at every step that it writes down and at any other moment:
 * after each death every record opens under exactly one of two passwords, and the next run goes on.
 *
 * In full (KEYSTEAD_PROVE=full): on a hundred thousand records, on each database, a death after the begin,
 * the take-over, each single page and the end of the journal, many within their transactions too, and at
 * random moments.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { sqlKinds, type TestSqlKind } from '@keystead/test-control-plane/sql-database';
import { afterAll, describe, expect, test } from 'vitest';
import { vaultLimits } from '../limits.ts';
import type { PasswordKey } from '../password-key.ts';
import { makeKey } from '../password-keys.ts';
import { derivationBytes, openRecord, sealRecord, WrongKey } from '../record-format.ts';
import { never, type VaultSchema } from '../schema.ts';
import type { SqlOptions, SqlStore } from '../sql/sql-store.ts';
import { generateToken } from '../token-format.ts';
import { createTestVault, passwords, type TestVault } from '../vault.fixture.ts';
import type { PageRow } from './packed-page.ts';
import type { ChildOrder } from './rekey-child.fixture.ts';
import { RekeyRows } from './rekey-rows.ts';

const isFull = process.env.KEYSTEAD_PROVE === 'full';
const { one, two, three } = passwords;

interface Child {
  process: ChildProcess;
  /** When it has written so many pages, or come to its end. */
  pages(count: number): Promise<void>;
  /** Whether it came to its end. */
  ended: Promise<boolean>;
}

// Each death needs a process, which begins with reading the same sources.
const compiled = mkdtempSync(join(tmpdir(), 'keystead-compiled-'));
afterAll(() => rmSync(compiled, { recursive: true, force: true }));

function start(order: ChildOrder): Child {
  const file = new URL('./rekey-child.fixture.ts', import.meta.url);
  const child = spawn(
    process.execPath,
    ['--conditions=keystead-source', file.pathname, JSON.stringify(order)],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_COMPILE_CACHE: compiled },
    },
  );
  let isFinished = false;
  let complaint = '';
  child.stderr.on('data', (bytes) => {
    complaint += bytes;
  });
  let seen = -1;
  let wake = () => {};
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line === 'begun' || line === 'page') seen += 1;
    if (line.startsWith('finished')) isFinished = true;
    wake();
  });
  let hasEnded = false;
  const ended = new Promise<boolean>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      hasEnded = true;
      wake();
      if (signal === 'SIGKILL' || code === 0) resolve(isFinished);
      else reject(new Error(`the rekey ended with ${code}: ${complaint}`));
    });
  });
  const pages = async (count: number) => {
    while (seen < count && !hasEnded) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  return { process: child, pages, ended };
}

/**
 * Under which password each record opens. What has not changed since the last look opens as it did then;
 * everything else is opened.
 */
class Census {
  readonly #rows: RekeyRows;
  readonly #keys: readonly PasswordKey[];
  readonly #known = new Map<number, { stored: Buffer; under: number }>();

  constructor(store: SqlStore<VaultSchema>, keys: readonly PasswordKey[]) {
    this.#rows = new RekeyRows(store, { maxRecords: 1_000, maxBytes: 8 << 20 });
    this.#keys = keys;
  }

  /** @returns how many records open under each key; throws for one that opens under none, or two */
  async look(): Promise<number[]> {
    const counts = this.#keys.map(() => 0);
    for (let after = 0; ; ) {
      const walk = { after, upTo: Number.MAX_SAFE_INTEGER, updatedSinceMs: undefined };
      const page = await this.#rows.page(walk);
      if (page.last === undefined) return counts;
      after = page.last;
      for (const row of page.rows()) {
        const known = this.#known.get(row.position);
        const under = known?.stored.equals(row.value) === true ? known.under : this.#open(row);
        counts[under] = (counts[under] as number) + 1;
      }
    }
  }

  #open(row: PageRow): number {
    const opening = this.#keys.flatMap((key, index) => {
      try {
        const value = openRecord(key, row.value, row).toString();
        if (value !== `value of ${row.id}`) throw new Error(`${row.id} holds another value`);
        return [index];
      } catch (error) {
        if (error instanceof WrongKey) return [];
        throw error;
      }
    });
    if (opening.length !== 1) throw new Error(`${row.id} opens under ${opening.length} passwords`);
    const under = opening[0] as number;
    this.#known.set(row.position, { stored: Buffer.from(row.value), under });
    return under;
  }
}

async function fill(made: TestVault, count: number) {
  const store = await made.openStore();
  const sample = await made.vault.records.create({ value: 'sample', password: one });
  const derivation = Buffer.from(sample.sealedValue.subarray(0, derivationBytes));
  await made.vault.records.delete(sample);
  const [oldKey, newKey, otherKey] = await Promise.all(
    [one, two, three].map((password) => makeKey(password, derivation)),
  );
  if (oldKey === undefined || newKey === undefined || otherKey === undefined) throw new Error();
  for (let at = 0; at < count; at += 500) {
    const rows = Array.from({ length: Math.min(500, count - at) }, (_, index) => {
      const id = `record-${at + index}`;
      const place = { id, token: generateToken() };
      const key = (at + index) % 3 === 0 ? otherKey : oldKey;
      const value = sealRecord(key, derivation, place, Buffer.from(`value of ${id}`));
      const times = { created_at: 1, updated_at: 1, expires_at: never, soft_deleted_at: never };
      return { ...place, value, data: '{}', ...times };
    });
    await store.write((queries) => queries.insertInto('vault').values(rows).execute());
  }
  return { store, keys: [oldKey, newKey, otherKey] };
}

/** What a run writes down: it begins a journal or takes one over, then pages, then the journal ends. */
type Step = 'begin' | 'take over' | 'page' | 'finish';
type Death = [step: Step, when: 'within' | 'after'];

const short = { records: 240, batchRecords: 60 };
const full = { records: 100_000, batchRecords: vaultLimits.rekeyPageRecords };
const { records, batchRecords } = isFull ? full : short;
const pages = Math.ceil(records / batchRecords);
/** Some processes, one behind the other. */
const timeoutMs = isFull ? 4 * 3_600_000 : 180_000;
const randomDeaths = isFull ? 20 : 1;

function deathsOn(kind: TestSqlKind): Death[] {
  if (!isFull && kind !== 'sqlite') {
    return [
      ['page', 'within'],
      ['page', 'after'],
      ['finish', 'after'],
    ];
  }
  const before: Death[] = [
    ['begin', 'within'],
    ['begin', 'after'],
    ['take over', 'within'],
    ['take over', 'after'],
  ];
  // A run that dies after a page leaves the next page to the next run, so that it is every page's turn.
  const atPages = Array.from({ length: isFull ? pages : 1 }, (_, page): Death[] => {
    const within: Death[] = page % 10 === 0 ? [['page', 'within']] : [];
    return [...within, ['page', 'after']];
  }).flat();
  return [...before, ...atPages, ['finish', 'within'], ['finish', 'after']];
}

/** Which transaction of the next run that is, counted from one. */
async function writeOf(step: Step, store: SqlStore<VaultSchema>): Promise<number> {
  const journal = await store.db.selectFrom('vault_rekey').selectAll().executeTakeFirst();
  const after = journal?.after_position ?? 0;
  const { left } = await store.db
    .selectFrom('vault')
    .select(({ fn }) => fn.countAll<number | bigint>().as('left'))
    .where('position', '>', after)
    .executeTakeFirstOrThrow();
  // One begins; two take over, the second of which reads again.
  const first = journal === undefined ? 1 : 2;
  if (step === 'begin' || step === 'take over') {
    expect(journal !== undefined).toBe(step === 'take over');
    return 1;
  }
  return step === 'page' ? first + 1 : first + Math.ceil(Number(left) / batchRecords) + 1;
}

describe.each(sqlKinds)('on %s', (kind) => {
  test(
    'killed at every journalled step and at random ones, a rekey leaves every record readable',
    async () => {
      await using made = await createTestVault(kind);
      const { store, keys } = await fill(made, records);
      const census = new Census(store, keys);
      const others = Math.ceil(records / 3);
      let [from, to]: [string, string] = [one, two];
      let deaths = 0;
      let unreadable = 0;
      const order = (dieAt: ChildOrder['dieAt']): ChildOrder => ({
        sql: made.sql as SqlOptions,
        oldPassword: from,
        newPassword: to,
        batchRecords,
        dieAt,
      });
      const settle = async (isFinished: boolean, what: string) => {
        const [old, fresh, other] = (await census.look().catch((error) => {
          unreadable += 1;
          throw error;
        })) as [number, number, number];
        expect(other).toBe(others);
        expect(old + fresh).toBe(records - others);
        if (!isFinished) deaths += 1;
        if (isFull) {
          const now = new Date().toISOString();
          console.info(
            `${now} ${kind}: ${deaths} deaths, the last one ${what}; ${old} under one password, ` +
              `${fresh} under the other, ${other} under a third, ${unreadable} unreadable`,
          );
        }
        if (!isFinished) return;
        expect(from === one ? old : fresh).toBe(0);
        // All is done: now the other way round.
        [from, to] = [to, from];
      };
      await settle(false, 'none yet');
      deaths = 0;
      const planned = deathsOn(kind);
      for (const [step, when] of planned) {
        const write = await writeOf(step, store);
        expect(await start(order({ write, when })).ended).toBe(false);
        await settle(false, `${when} ${step}`);
      }
      for (const enough = deaths + randomDeaths; deaths < enough; ) {
        const child = start(order(undefined));
        await child.pages(randomInt(isFull ? 12 : 2));
        await new Promise((resolve) => setTimeout(resolve, randomInt(isFull ? 100 : 30)));
        child.process.kill('SIGKILL');
        await settle(await child.ended, 'at a random moment');
      }
      // And in the end it finishes.
      expect(await start(order(undefined)).ended).toBe(true);
      await settle(true, 'none: it finished');
      expect(deaths).toBe(planned.length + randomDeaths);
      expect(unreadable).toBe(0);
      console.info(`${kind}: ${deaths} deaths on ${records} records, ${unreadable} unreadable`);
      await store.close();
    },
    timeoutMs,
  );
});
